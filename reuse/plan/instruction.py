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
    """One instruction, as a lowering rule gives it."""

    columns: Mapping[int, int]
    """Column of the instruction table -> value."""
    floats: Mapping[int, float] = field(default_factory=dict)
    """Column of the floats -> value."""
    multiply_adds: int = 0
    """To compute all positions."""
    result_floats: int = 0
    """Floats that it needs of a worker's RESULTS."""
    label: str = ""
    """Of an instruction that only prepares the operator's own: what it does."""
    compares: bool = False
    """Whether its kernel can cut off: leave a result unstored that is near the stored one."""


@dataclass(frozen=True, slots=True)
class MaskSource:
    """What the positions of an output read of one input."""

    name: str
    """The input."""
    window: Window
    columns: tuple[int, ...]
    """Its row of the table of mask sources, see `kernels.abi`."""


@dataclass(frozen=True, slots=True)
class PlannedLayer:
    """What an instruction computes."""

    name: str
    """The operator's output."""
    op: str
    """The engine's operator, or "Export"."""
    shape: tuple[int, ...]
    multiply_adds: int
    """To compute all positions."""
    node: int
    """Index of the operator in the graph; -1 for an export of an input or of an island's output."""
