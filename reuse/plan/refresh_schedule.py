"""Rolling refresh: a few rows of the picture are renewed at every layer in each step.

A cut-off leaves values that are nearly right, so a result may depend on old frames for as long as
little changes. Rows of the input that are marked as changed are computed in every layer that reads
them; this module decides in which rows of a layer nothing is cut off. A layer's row is due in the
step in which the last input row that it reads is renewed: by then all that it reads was renewed in
this sweep. After a sweep over a still picture every value is what computing everything gives.

Results of islands are renewed whole as the sweep ends, and what depends on them with them: an
island reads everything, as an operator over the whole picture does.

Where a model is cut in two, the second part follows the sweep over the picture of the first: its
inputs are renewed in the order in which the first part's outputs are, see `RefreshOrder`.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from stillframe.reuse.kernels import abi
from stillframe.reuse.plan.instruction import Reads
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


class RefreshSchedule:
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
        due_of = {plan.mask_rows[name].owner: due for name, due in self.inputs.due.items()}
        compared = set(plan.cutoffs.values())
        compared |= {at for at, layer in enumerate(plan.layers) if layer.op == "Drift"}
        for at, (target, layer) in enumerate(zip(plan.targets, plan.layers, strict=True)):
            height = int(plan.tensors[plan.instructions[at, abi.TARGET], abi.HEIGHT])
            due = self._last_read(plan, plan.reads[at], height, due_of)
            if at in compared:
                self._due[at] = due
            if target:
                due_of[plan.mask_rows[target].owner] = due
            else:  # an export
                outputs[layer.name] = due

    def bands(self, low: int, high: int) -> Integers:
        """(instructions, 2): the rows [first, end) that are due as input rows [low, high) are
        renewed. The array is the same one in each call."""
        self._bands[...] = 0
        for at, due in self._due.items():
            self._bands[at] = np.searchsorted(due, (low, high), side="right")
        return self._bands

    def _last_read(
        self, plan: Plan, reads: Reads, height: int, due_of: Mapping[str, Integers]
    ) -> Integers:
        """The step of each output row: when the last row that it reads of any tensor is due."""
        due = np.zeros(height, np.int64)
        if not reads:
            return due + self.height
        for name, window in reads:
            rows = plan.mask_rows[name]
            known = due_of.get(rows.owner)
            if known is None:  # an island wrote it
                return np.full(height, self.height)
            last = np.maximum(window.rows[1].astype(np.int64) - 1, 0)
            at = np.clip(rows.start + last * rows.step, 0, len(known) - 1)
            due = np.maximum(due, known[at])
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
