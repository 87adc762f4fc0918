"""Rolling refresh: stripes of the picture are renewed at every layer, a few rows in each step.

A cut-off leaves what is near as it is, so a value may rest on old frames for as long as nothing
much changes. When a stripe of the input is marked as changed, the layers above compute what reads
it anyway; all that must be said is in which rows nothing is cut off. A layer's row is due in the
step in which the last input row that it reads is renewed: then all that it reads was renewed in
this sweep, and once the sweep has reached the bottom every value is what computing everything would
have given, of a picture that stands still.

What lies behind an island is not renewed but compared, bit by bit, as ever.

Where a model is cut in two, the second part follows the sweep over the picture of the first: its
inputs are renewed in the order in which the first part's outputs are, see `RefreshOrder`.
"""

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillframe.reuse.kernels import abi
from stillframe.reuse.plan.plan import Plan

Integers = NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class RefreshOrder:
    """When the rows of tensors are renewed as a sweep moves down a picture."""

    height: int
    """Rows of the picture."""
    due: Mapping[str, Integers]
    """By tensor: row y is renewed in the step in which the sweep completes `due[y]` rows of the
    picture. Never falls from row to row."""

    def rows(self, name: str, renewed: tuple[int, int]) -> tuple[int, int]:
        """A tensor's rows, with exclusive end, that are renewed with those rows of the picture."""
        first, end = np.searchsorted(self.due[name], renewed, side="right")
        return int(first), int(end)


class Renewal:
    """When each row of each comparing layer is due.

    order: of the inputs, if they are outputs of another plan whose picture is swept; None: the
    first picture of this plan is.
    """

    def __init__(self, plan: Plan, order: RefreshOrder | None = None) -> None:
        heights = {
            port.name: plan.graph.shapes[port.name][0]
            for port in plan.graph.inputs
            if port.layout != "raw"
        }
        self.inputs = _swept(heights) if order is None else _followed(heights, order)
        self.height = self.inputs.height
        outputs: dict[str, Integers] = {}
        self.outputs = RefreshOrder(self.height, outputs)
        self._bands = np.zeros((len(plan.instructions), 2), np.int64)
        self._due: dict[int, Integers] = {}
        if not heights:
            return
        roots = _roots(plan)
        known = {int(roots[plan.index[name]]): due for name, due in self.inputs.due.items()}
        compared = set(plan.cutoffs.values())
        for at, instruction in enumerate(plan.instructions):
            target = int(instruction[abi.TARGET])
            due = self._of(plan, instruction, int(plan.tensors[target, abi.HEIGHT]), roots, known)
            if at in compared:
                self._due[at] = due
            if plan.layers[at].op == "Export":
                outputs[plan.layers[at].name] = due
            root = int(roots[target])
            earlier = known.get(root)
            if earlier is None or len(earlier) != len(due):
                known[root] = due
            else:
                known[root] = np.maximum(earlier, due)

    def bands(self, low: int, high: int) -> Integers:
        """(instructions, 2): the rows, first and behind the last, that are due as input rows
        [low, high) are renewed. The array is the same one in each call."""
        self._bands[...] = 0
        for at, due in self._due.items():
            self._bands[at] = np.searchsorted(due, (low, high), side="right")
        return self._bands

    def _of(
        self,
        plan: Plan,
        instruction: Integers,
        height: int,
        roots: Integers,
        known: dict[int, Integers],
    ) -> Integers:
        """The step of each output row: when the last row that it reads of any source is due."""
        due = np.zeros(height, np.int64)
        count = int(instruction[abi.SOURCE_COUNT])
        if not count:
            return due + self.height
        sources = _array(int(instruction[abi.SOURCES]), ctypes.c_int64, count * abi.SOURCE_COLUMNS)
        for source in sources.reshape(count, abi.SOURCE_COLUMNS):
            tensor = int(source[abi.SOURCE_TENSOR])
            last = _array(int(source[abi.ROW_HIGH]), ctypes.c_int32, height).astype(np.int64) - 1
            root = int(roots[tensor])
            above, here = plan.tensors[root], plan.tensors[tensor]
            if root not in known:  # an island wrote it
                due[:] = self.height
                continue
            start = (int(here[abi.MASK]) - int(above[abi.MASK])) // max(int(above[abi.MASK_ROW]), 1)
            step = max(int(here[abi.MASK_ROW]) // max(int(above[abi.MASK_ROW]), 1), 1)
            rows = np.clip(start + np.maximum(last, 0) * step, 0, len(known[root]) - 1)
            due = np.maximum(due, known[root][rows])
        return np.maximum.accumulate(due)


def _swept(heights: Mapping[str, int]) -> RefreshOrder:
    """The first picture from row to row, and others in proportion."""
    height = next(iter(heights.values()), 0)
    rows = {name: np.arange(1, each + 1) * height for name, each in heights.items()}
    return RefreshOrder(height, {name: -(-each // heights[name]) for name, each in rows.items()})


def _followed(heights: Mapping[str, int], order: RefreshOrder) -> RefreshOrder:
    """Inputs of these heights in the order of another plan's outputs. What that plan leaves to an
    island, or has in another layout, is renewed as the sweep ends."""
    due: dict[str, Integers] = {}
    for name, height in heights.items():
        rows = order.due.get(name, np.empty(0, np.int64))
        due[name] = rows if len(rows) == height else np.full(height, order.height)
    return RefreshOrder(order.height, due)


def _roots(plan: Plan) -> Integers:
    """Of each tensor the one whose mask it is a view of, itself for most."""
    counts = plan.tensors[:, abi.LIVE] - plan.live.ctypes.data
    return np.asarray(counts // plan.live.strides[0], np.int64)


def _array(address: int, kind: type, count: int) -> NDArray[np.generic]:
    """Numbers of a plan's tables, where they lie."""
    pointer: Any = ctypes.cast(address, ctypes.POINTER(kind))
    return np.asarray(np.ctypeslib.as_array(pointer, (count,)))
