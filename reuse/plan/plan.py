"""The compiled network: tables that the kernels run through, and the buffers that they point to.

Everything is decided in them: where each tensor lies, which micro-kernel runs, what is compared.
A step only computes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillframe.reuse.ir.graph import Graph, Node
from stillframe.reuse.kernels import abi
from stillframe.reuse.memory.planner import MemoryPlan
from stillframe.reuse.plan.instruction import MaskRows, PlannedLayer, Reads

Integers = NDArray[np.int64]
Floats = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Region:
    """Instructions [first, end): one native call a worker."""

    first: int
    end: int


@dataclass(frozen=True, slots=True)
class IslandStep:
    """One node that ONNX Runtime runs; the instructions before it exported its inputs."""

    node: Node


@dataclass(frozen=True, slots=True)
class Tuning:
    """What was measured on this host for a graph; the defaults are for a host without figures."""

    tiles: Mapping[str, int] = field(default_factory=dict)
    """Output of a convolution -> its row of `kernels.conv.TILES`; by the shape alone if absent."""
    break_even: float = 0.85
    """Share of the multiply-adds above which computing everything is quicker than finding out
    what must be."""


BARRIER_BYTES = 128
LEAST_SHARE = 0.01
"""Of the multiply-adds, what islands leave to the engine where reuse cannot pay."""


@dataclass(slots=True)
class Plan:
    """The compiled network. Tables are described in `kernels.abi`."""

    graph: Graph
    instructions: Integers
    """(instructions, INSTRUCTION_COLUMNS)."""
    floats: Floats
    """(instructions, FLOAT_COLUMNS)."""
    tensors: Integers
    """(tensors, TENSOR_COLUMNS)."""
    live: Integers
    """(tensors, workers): positions of each mask that the last step left active."""
    work: Integers
    """(workers, WORKER_COLUMNS)."""
    records: Integers
    """(instructions, RECORD_COLUMNS): what the last step did."""
    island_records: Integers
    """(islands, RECORD_COLUMNS), in the order of `steps`."""
    barrier: int
    """Address of BARRIER_BYTES bytes, all 0 between two runs of the workers."""
    steps: tuple[Region | IslandStep, ...]
    """What a step runs, in order."""
    layers: tuple[PlannedLayer, ...]
    """Of each instruction."""
    reads: tuple[Reads, ...]
    """Of each instruction: the tensors whose masks make it compute, with their windows."""
    targets: tuple[str, ...]
    """Of each instruction: the tensor that it writes; empty for an export."""
    mask_rows: Mapping[str, MaskRows]
    """Of each tensor in `index`: whose mask it shares."""
    index: Mapping[str, int]
    """Tensor -> row of `tensors`."""
    exports: Mapping[str, Floats]
    """Tensor -> the array that its EXPORT keeps up to date."""
    cutoffs: Mapping[str, int]
    """Tensor -> the instruction that compares it with what is stored."""
    arrivals: Mapping[str, int]
    """What is cut off as it arrives, outputs of islands and states that are fed back -> its entry
    of `arrival_thresholds`; empty where the plan is exact."""
    compared: tuple[str, ...]
    """The tensors of both, in the order in which they are written."""
    arrival_thresholds: Floats
    """Of each: sum of squared differences beyond which a position has changed."""
    arena: NDArray[np.uint8]
    """The bytes of all activations, persistent and transient."""
    memory: MemoryPlan
    """Where each activation lies, and which persist."""
    weights_bytes: int
    """Packed weights and tables."""
    tuning: Tuning
    """What was measured on this host."""
    buffers: list[Any] = field(default_factory=list)
    """Everything that the tables point to and the plan must keep alive; the masks first."""

    def set_threshold(self, name: str, limit: float, far: float | None = None) -> None:
        """The sum of squared differences beyond which a position of a tensor has changed.

        far: the same where the far limit applies; None: no other one. What arrives from islands has
        one limit.
        """
        if name in self.cutoffs:
            floats = self.floats[self.cutoffs[name]]
            floats[abi.THRESHOLD] = limit
            floats[abi.FAR_THRESHOLD] = limit if far is None else far
        else:
            self.arrival_thresholds[self.arrivals[name]] = limit

    def threshold(self, name: str, *, far: bool = False) -> float:
        """What `set_threshold` set."""
        if name in self.cutoffs:
            column = abi.FAR_THRESHOLD if far else abi.THRESHOLD
            return float(self.floats[self.cutoffs[name], column])
        return float(self.arrival_thresholds[self.arrivals[name]])

    def view(self, name: str) -> Floats:
        """A view of the (H, W, C) floats of a tensor in the arena."""
        row = self.tensors[self.index[name]]
        start = int(row[abi.DATA]) - self.arena.ctypes.data
        shape = tuple(int(row[column]) for column in (abi.HEIGHT, abi.WIDTH, abi.CHANNELS))
        strides = (int(row[abi.ROW]), int(row[abi.PIXEL]), 4)
        flat: Floats = np.ndarray(shape, np.float32, self.arena.data, start, strides)
        return flat

    def left_active(self, name: str) -> bool:
        """Whether the last step marked any position of a tensor; a view has its parent's count."""
        where = int(self.tensors[self.index[name], abi.LIVE]) - self.live.ctypes.data
        return bool(self.live[where // self.live.strides[0]].any())

    def mask(self, name: str) -> NDArray[np.uint8]:
        """The (H, W) mask of a tensor as the last step left it."""
        row = self.tensors[self.index[name]]
        start = int(row[abi.MASK]) - self.masks.ctypes.data
        shape = (int(row[abi.HEIGHT]), int(row[abi.WIDTH]))
        strides = (int(row[abi.MASK_ROW]), int(row[abi.MASK_PIXEL]))
        return np.ndarray(shape, np.uint8, self.masks.data, start, strides)

    @property
    def all_island(self) -> bool:
        """Whether the engine's own share of the multiply-adds is not worth having. False where
        there are none, or nobody counts them: such a network costs little either way."""
        islands = [step.node for step in self.steps if isinstance(step, IslandStep)]
        own = sum(layer.multiply_adds for layer in self.layers)
        others = sum(int(node.attrs["multiply_adds"]) for node in islands)
        return others > 0 and own <= LEAST_SHARE * (own + others)

    @property
    def masks(self) -> NDArray[np.uint8]:
        return self.buffers[0]  # type: ignore[no-any-return]
