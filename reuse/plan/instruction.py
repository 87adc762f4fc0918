"""What a lowering rule hands to the table builder, and what a plan keeps of an instruction."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from stillframe.reuse.ir.windows import Window

Reads = tuple[tuple[str, Window], ...]
"""Tensors whose change masks make an instruction compute, each with what an output reads of it."""


@dataclass(frozen=True, slots=True)
class MaskRows:
    """Row y of a tensor's mask is row `start + y * step` of another tensor's."""

    owner: str
    """The tensor that has the mask; itself for most."""
    start: int = 0
    step: int = 1


@dataclass(frozen=True, slots=True)
class Lowered:
    """One instruction: its table columns and floats.

    multiply_adds: per output position, times positions: the dense total.
    result_floats: what it needs of a worker's RESULTS.
    compares: the target may be left as it was (a cut-off).
    """

    columns: Mapping[int, int]
    floats: Mapping[int, float] = field(default_factory=dict)
    multiply_adds: int = 0
    result_floats: int = 0
    compares: bool = False


@dataclass(frozen=True, slots=True)
class MaskSource:
    """What the positions of an output read of one input: a window, and its table columns."""

    name: str
    window: Window
    columns: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class PlannedLayer:
    """What an instruction is, in words and figures; `Plan.layers` has one each."""

    name: str
    op: str
    shape: tuple[int, ...]
    multiply_adds: int
    node: int  # index into the graph; -1 for a border
