"""Running a plan: take the feeds in, run the regions, and the islands whose inputs changed."""

import ctypes
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from time import perf_counter_ns
from typing import Any

import numpy as np
import onnxruntime as ort
from numpy.typing import NDArray

from stillframe.endable_session import EndableSession
from stillframe.errors import UsageError
from stillframe.reuse.ir.graph import Port
from stillframe.reuse.kernels import abi
from stillframe.reuse.kernels.ingest import (
    COMPARE,
    EVERYTHING,
    LISTED,
    take_in,
    take_in_near,
)
from stillframe.reuse.kernels.run_plan import run_instructions
from stillframe.reuse.plan.plan import BARRIER_BYTES, IslandStep, Plan, Region
from stillframe.reuse.plan.refresh_schedule import RefreshOrder, RefreshSchedule
from stillframe.reuse.runtime.dense_switch import DenseSwitch
from stillframe.reuse.runtime.far_map import FarMap
from stillframe.reuse.runtime.workers import Workers

Array = NDArray[Any]

CPU_ONLY = ("CPUExecutionProvider",)

SAMPLED = 61
"""Of the last axis of an array that islands read, every so manyeth is compared before all are."""


@dataclass(frozen=True, slots=True)
class StepStats:
    """What one step did."""

    changed: float
    """Share of the input positions that were new."""
    dense: bool
    """Whether everything was computed."""
    work: float
    """Multiply-adds done, as a share of a dense step."""
    islands_run: int
    """How many islands ran."""


class PlanRunner:
    """A plan with its state: the activations of the last step.

    Not thread-safe: a session holds a lock around it.
    """

    def __init__(
        self,
        plan: Plan,
        workers: Workers,
        break_even: float | None = None,
        island_providers: Sequence[Any] = CPU_ONLY,
    ) -> None:
        self.plan = plan
        self._workers = workers
        self._switch = DenseSwitch(plan.tuning.break_even if break_even is None else break_even)
        self._fresh = True  # nothing stored yet
        self._inputs = [port for port in plan.graph.inputs if port.layout != "raw"]
        self._raw_inputs = [port.name for port in plan.graph.inputs if port.layout == "raw"]
        self._values: dict[str, Array] = {}
        self._positions = np.array(
            [
                max(
                    int(
                        plan.tensors[row[abi.TARGET], abi.HEIGHT]
                        * plan.tensors[row[abi.TARGET], abi.WIDTH]
                    ),
                    1,
                )
                for row in plan.instructions
            ],
            np.float64,
        )
        self._work = np.array([layer.multiply_adds for layer in plan.layers], np.float64)
        self._island_work = np.array(
            [
                step.node.attrs["multiply_adds"]
                for step in plan.steps
                if isinstance(step, IslandStep)
            ],
            np.float64,
        )
        self._total_work = max(float(self._work.sum() + self._island_work.sum()), 1.0)
        widest = max((plan.graph.shapes[name][1] for name in plan.arrivals), default=0)
        self._gaps = np.zeros(widest + 2, np.float32)
        self._schedule = RefreshSchedule(plan)
        self._none = np.zeros((len(plan.instructions), 2), np.int64)
        self._bands = self._none
        self._sweep_ends = False  # with this step: all that islands return is renewed
        self._far_map = FarMap(plan)
        self._providers = island_providers
        self._islands_of_parent = False  # after a fork, until the first step
        self._islands = self._island_sessions()
        self._island_index = {key: index for index, key in enumerate(self._islands)}

    def restart_after_fork(self) -> None:
        """In the child of a fork: bring everything into the state between two steps.

        A thread that was in a step is not there any more. The step is forgotten, so the next one is
        dense. Sessions of islands may have been in a run: new ones replace them at the first step.
        """
        ctypes.memset(self.plan.barrier, 0, BARRIER_BYTES)
        if self._fresh:
            self.reset()
        self._islands_of_parent = True

    def end_runs(self) -> None:
        """End an island that runs, and every later one, with RunEndedError. From any thread."""
        for session in list(self._islands.values()):
            session.end()

    def set_providers(self, providers: Sequence[Any]) -> None:
        """Run islands on other execution providers; the next step is dense."""
        self._providers = providers
        self._islands = self._island_sessions()
        self.reset()

    def _remake_islands(self) -> None:
        """New sessions of the islands. The parent's are never destroyed: that would wait for
        threads that this process does not have."""
        for session in self._islands.values():
            ctypes.pythonapi.Py_IncRef(ctypes.py_object(session))
        self._islands = self._island_sessions()
        self._islands_of_parent = False

    def _island_sessions(self) -> dict[int, EndableSession]:
        return {
            id(step): _island_session(step, self._workers.count, self._providers)
            for step in self.plan.steps
            if isinstance(step, IslandStep)
        }

    def attend(self, near: Array | None) -> None:
        """Apply the near limit where the map is true, from the next step on; see `FarMap`."""
        self._far_map.set(near)

    @property
    def refresh_schedule(self) -> RefreshSchedule:
        """In which order a sweep renews rows of inputs, layers and outputs."""
        return self._schedule

    def follow(self, order: RefreshOrder) -> None:
        """Renew with the picture of another plan, see `RefreshSchedule`."""
        self._schedule = RefreshSchedule(self.plan, order)

    @property
    def fresh(self) -> bool:
        """Whether nothing is stored, so that the next step is dense."""
        return self._fresh

    def reset(self) -> None:
        """Forget everything: the next step computes all of it."""
        self._fresh = True
        self._switch.reset()
        self._values.clear()

    def step(
        self,
        feeds: Mapping[str, Array],
        changed: Mapping[str, Array] | None = None,
        dense: bool = False,
        renewed: tuple[int, int] = (0, 0),
        run_options: ort.RunOptions | None = None,
    ) -> StepStats:
        """Take feeds in and bring every output up to date.

        feeds: arrays of the ports' shapes and dtypes. changed: (H, W) uint8 maps of the positions
        that may differ, by input; an input without one is compared. renewed: rows of the swept
        picture with exclusive end, to be renewed at every layer; all rows of inputs that are
        renewed with them are marked. run_options: of ONNX Runtime, for islands.
        After an exception, which islands may raise, the next step is dense.
        """
        if self._islands_of_parent:
            self._remake_islands()
        plan = self.plan
        self._bands = self._schedule.bands(*renewed) if renewed[1] > renewed[0] else self._none
        self._sweep_ends = renewed[1] > renewed[0] and renewed[1] >= self._schedule.height
        plan.live[...] = 0
        plan.island_records[...] = 0
        plan.work[:, abi.ATTENTION_WORK] = 0
        everything = dense or self._fresh
        self._fresh = True  # while this step runs, what is stored belongs to no frame
        marked, positions = 0, 0
        for port in self._inputs:
            row = plan.index[port.name]
            height, width = (int(plan.tensors[row, c]) for c in (abi.HEIGHT, abi.WIDTH))
            listed = None if changed is None else changed.get(port.name)
            if listed is None and port.name in plan.arrivals:
                marked += self._take_arrival(port, feeds[port.name], everything)
            else:
                marked += self._take_in(row, feeds[port.name], port.layout, listed, everything)
            positions += height * width
        share = 1.0 if everything else marked / max(positions, 1)
        dense = everything or self._switch.is_dense(share)
        raw_changed = {name: self._keep_raw(name, feeds[name]) for name in self._raw_inputs}
        if not (dense or marked or any(raw_changed.values())):
            plan.records[...] = 0
            self._fresh = False
            return StepStats(0.0, False, 0.0, 0)
        for step in plan.steps:
            if isinstance(step, Region):
                self._run_region(step, dense)
            elif dense or self._sweep_ends or self._island_is_due(step, raw_changed):
                raw_changed |= self._run_island(step, dense, run_options)
        self._fresh = False
        in_regions, done = self._shares_of_work(dense)
        self._switch.learn(share, in_regions, dense)
        return StepStats(share, dense, done, int(plan.island_records[:, abi.ACTIVE].sum()))

    def output(self, name: str) -> Array:
        """The current value of an output as (1, C, H, W) or its own shape; overwritten by steps."""
        if name in self.plan.exports:
            return self.plan.exports[name]
        if name in self._values:
            return self._values[name]
        return np.asarray(self.plan.graph.constants[name])

    def _shares_of_work(self, dense: bool) -> tuple[float, float]:
        """Multiply-adds done as a share of those of the regions, and of all.

        The first steers when a step is dense: islands run whole either way.
        """
        if dense:
            return 1.0, 1.0
        plan = self.plan
        done = float(plan.records[:, abi.ACTIVE] / self._positions @ self._work)
        done += float(plan.work[:, abi.ATTENTION_WORK].sum())
        islands = float(plan.island_records[:, abi.ACTIVE] @ self._island_work)
        of_regions = max(self._total_work - float(self._island_work.sum()), 1.0)
        return done / of_regions, (done + islands) / self._total_work

    def _take_in(
        self, row: int, feed: Array, layout: str, listed: Array | None, everything: bool
    ) -> int:
        array = self._as_region(row, feed, layout)
        strides = np.array([step // 4 for step in array.strides], np.int64)
        known = EVERYTHING if everything else COMPARE if listed is None else LISTED
        address = 0 if listed is None else listed.ctypes.data
        return int(
            take_in(
                known,
                array.ctypes.data,
                strides,
                address,
                self.plan.tensors,
                row,
                self._workers.count,
            )
        )

    def _keep_raw(self, name: str, value: Array) -> bool:
        before = self._values.get(name)
        if before is None or before.shape != value.shape or before.dtype != value.dtype:
            self._values[name] = np.array(value)
            return True
        few = (..., slice(None, None, SAMPLED))  # a picture that changed shows it there
        floats = value.dtype.kind == "f"
        same = not value.ndim or np.array_equal(before[few], value[few], equal_nan=floats)
        same = same and np.array_equal(before, value, equal_nan=floats)
        if not same:
            np.copyto(before, value)
        return not same

    def _run_region(self, region: Region, dense: bool) -> None:
        plan, count, bands = self.plan, self._workers.count, self._bands

        def work(worker: int) -> None:
            run_instructions(
                plan.instructions,
                plan.floats,
                plan.tensors,
                plan.work,
                plan.records,
                plan.barrier,
                bands,
                region.first,
                region.end,
                count,
                worker,
                dense,
            )

        self._workers.run(work)

    def _island_is_due(self, step: IslandStep, raw_changed: Mapping[str, bool]) -> bool:
        for name in step.node.inputs:
            if name in self.plan.index:
                if self.plan.left_active(name):
                    return True
            elif raw_changed.get(name, False):
                return True
        return False

    def _run_island(
        self, step: IslandStep, dense: bool, run_options: ort.RunOptions | None
    ) -> dict[str, bool]:
        feeds = {}
        for port in step.node.attrs["reads"]:
            value = self.output(port.name)
            value = value if port.layout == "raw" else value.reshape(port.shape)
            feeds[port.name] = value.astype(port.dtype, copy=False)
        began = perf_counter_ns()
        try:
            outputs = self._islands[id(step)].run(list(step.node.outputs), feeds, run_options)
        except Exception as error:
            error.add_note(island_title(step))
            raise
        record = self.plan.island_records[self._island_index[id(step)]]
        record[abi.ACTIVE] = record[abi.CHANGED] = 1
        record[abi.NANOSECONDS] = perf_counter_ns() - began
        changed: dict[str, bool] = {}
        for port, value in zip(step.node.attrs["writes"], outputs, strict=True):
            if port.layout == "raw":
                changed[port.name] = self._keep_raw(port.name, value) or dense
            else:
                self._take_arrival(port, value, dense)
        return changed

    def _take_arrival(self, port: Port, value: Array, dense: bool) -> int:
        """Take an island's output or a state into the region that reads it: what moved by more
        than the tolerance is stored and marked, at the end of a sweep everything; -> positions
        marked."""
        row, cutoff = self.plan.index[port.name], self.plan.arrivals.get(port.name)
        if dense or cutoff is None or self._sweep_ends:
            listed = self._everywhere(row) if self._sweep_ends and not dense else None
            return self._take_in(row, value, port.layout, listed, dense)
        array = self._as_region(row, value, port.layout)
        marked: int = take_in_near(
            array.ctypes.data,
            np.array([step // 4 for step in array.strides], np.int64),
            self.plan.tensors,
            row,
            self._workers.count,
            float(self.plan.arrival_thresholds[cutoff]),
            self._gaps.ctypes.data,
        )
        return marked

    def _everywhere(self, row: int) -> Array:
        """A change map that lists all positions of a tensor."""
        size = (int(self.plan.tensors[row, column]) for column in (abi.HEIGHT, abi.WIDTH))
        return np.ones(tuple(size), np.uint8)

    def _as_region(self, row: int, feed: Array, layout: str) -> Array:
        """An array of a port as (H, W, C)."""
        height, width, channels = (
            int(self.plan.tensors[row, column]) for column in (abi.HEIGHT, abi.WIDTH, abi.CHANNELS)
        )
        if layout == "NCHW":
            return feed.reshape(channels, height, width).transpose(1, 2, 0)
        return feed.reshape(height, width, channels)


def _island_session(step: IslandStep, threads: int, providers: Sequence[Any]) -> EndableSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4  # what it raises says it all
    try:
        return EndableSession(step.node.attrs["model"], options, providers, island_title(step))
    except Exception as error:
        error.add_note(island_title(step))
        raise


def island_title(step: IslandStep) -> str:
    """How errors name an island: by its first nodes."""
    nodes = step.node.attrs["nodes"]
    return f"{', '.join(nodes[:3])}{' and more' if len(nodes) > 3 else ''}"


def known_providers(providers: Sequence[Any]) -> Sequence[Any]:
    """The same providers. Raises UsageError for one that ONNX Runtime does not have here."""
    available = ort.get_available_providers()
    for each in providers:
        name = each if isinstance(each, str) else each[0]
        if name not in available:
            raise UsageError(f"island provider {name}: not here; there is {', '.join(available)}")
    return providers
