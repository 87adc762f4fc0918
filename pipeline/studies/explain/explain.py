"""What each layer of a network costs, and how much of it a clip makes the engine compute again.

    explain(model, frames) -> Explanation: one Row a layer or island, Totals, perhaps Heat

Frames take the way that they take in a run: fit, gate, feed, step. Nothing here judges (`verdict`)
or prints.
"""

import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from stillframe.models.model import Model
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.studies.explain.heatmap import Heat, HeatMeter
from stillframe.reuse.gate.change_gate import ChangeGate, GateSettings
from stillframe.reuse.ir.graph import ISLAND, Graph, Node
from stillframe.reuse.kernels import abi
from stillframe.reuse.memory.liveness import described
from stillframe.reuse.plan.memory_report import MemoryReport
from stillframe.reuse.plan.plan import IslandStep, Plan
from stillframe.reuse.session import ReuseSession

Gate = Literal["adaptive", "exact"]
GATES: dict[Gate, GateSettings] = {
    "adaptive": GateSettings(),
    "exact": GateSettings(exact=True),
}
HAND_OVER = "Export"
CALLER = "the copy for islands or the caller"
GLOBAL = frozenset({"GlobalPool", "Moments"})  # one position changes what all of them read
DENSE_STEPS = 3  # timed before the clip, and again after it


@dataclass(frozen=True, slots=True)
class Row:
    """One instruction of the plan, or one island.

    operator: the engine's name, "Island", or "Export" (a copy for an island or the caller). shape:
    (H, W, C), of an island its first output's own. multiply_adds: 0 where an operator has none or,
    of islands, nobody knows. dense_ms: median of computing all of it. active, changed: share of the
    positions computed and of those marked as changed, mean over the frames after the first, of an
    island the share of frames in which it ran; reuse_ms: median over the same. None without a clip.
    persistent: whether the values survive to the next frame, and why or why not; None where the
    engine keeps none. bytes: what they take, 0 for a view of another tensor. last_reader: in words.
    cut_off: whether a result near what is stored is left unstored. behind: the tensor of the first
    global operator that this depends on, "" if none. reason, nodes: why an island is one, and what
    it holds.
    """

    name: str
    operator: str
    shape: tuple[int, ...]
    multiply_adds: int
    dense_ms: float
    active: float | None = None
    changed: float | None = None
    reuse_ms: float | None = None
    persistent: bool | None = None
    why: str = ""
    bytes: int = 0
    last_reader: str = ""
    cut_off: bool = False
    behind: str = ""
    reason: str = ""
    nodes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums and means over the frames after the first, which is computed whole.

    dense_ms: median of a step that computes everything. reuse_ms, reuse_mean_ms: of a step of the
    clip; gate_ms: mean of finding what changed. input: share of the picture that was new. work:
    multiply-adds done, as a share of all. unchanged, dense: frames with nothing to do, and frames
    computed whole. All but multiply_adds and dense_ms are None or 0 without a clip.
    """

    multiply_adds: int
    dense_ms: float
    reuse_ms: float | None = None
    reuse_mean_ms: float | None = None
    gate_ms: float | None = None
    input: float | None = None
    work: float | None = None
    frames: int = 0
    unchanged: int = 0
    dense: int = 0


@dataclass(frozen=True, slots=True)
class Explanation:
    """A model, explained. size: (H, W) of its input. heat: None unless asked for."""

    model: str
    size: tuple[int, int]
    tolerance: float
    gate: Gate
    threads: int | None
    rows: tuple[Row, ...]
    totals: Totals
    memory: MemoryReport
    notes: tuple[str, ...]
    heat: Heat | None = field(default=None, repr=False)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, the heat left out."""
        return {
            "model": self.model,
            "size": list(self.size),
            "tolerance": self.tolerance,
            "gate": self.gate,
            "threads": self.threads,
            "totals": asdict(self.totals),
            "memory": asdict(self.memory),
            "notes": list(self.notes),
            "rows": [asdict(row) for row in self.rows],
        }


def explain(
    model: Model,
    frames: Iterable[Frame] | None = None,
    *,
    tolerance: float = 0.0,
    gate: Gate = "adaptive",
    threads: int | None = None,
    heat: bool = False,
) -> Explanation:
    """The model at its present size, and what the frames of a clip make of it.

    frames None, or empty: only what needs no clip, timed on a picture of noise. threads: None takes
    every core. heat: also count how often each position was computed.
    """
    with ReuseSession(model.path, tolerance=tolerance, threads=threads) as session:
        remaining = iter(frames or ())
        first = next(remaining, None)
        picture = _noise(model) if first is None else model.fit(first.image)[0]
        feed = model.feed(picture)
        session.step(feed, dense=True)
        watch = _Watch(session, model)
        watch.dense(feed)
        islands = replay(session.plan, feed)
        meter = HeatMeter(session.plan, picture) if heat and first is not None else None
        if first is not None:
            finder = ChangeGate(*model.size, GATES[gate])
            session.reset()
            watch.step(first, finder, None)
            for frame in remaining:
                watch.step(frame, finder, meter)
            watch.dense(model.feed(finder.reference))
        return Explanation(
            model=model.name,
            size=model.size,
            tolerance=tolerance,
            gate=gate,
            threads=threads,
            rows=watch.rows(islands),
            totals=watch.totals(),
            memory=session.memory,
            notes=session.notes,
            heat=meter.heat() if meter is not None else None,
        )


class _Watch:
    """Collects what steps record. Times in milliseconds."""

    def __init__(self, session: ReuseSession, model: Model) -> None:
        self._session, self._plan, self._model = session, session.plan, model
        port = next(p for p in self._plan.graph.inputs if p.name == model.input_name)
        self._maps = port.layout != "raw"  # else only islands read it, and they take no map
        written = self._plan.tensors[self._plan.instructions[:, abi.TARGET]]
        self._positions = np.maximum(written[:, abi.HEIGHT] * written[:, abi.WIDTH], 1)
        self._steps = [step for step in self._plan.steps if isinstance(step, IslandStep)]
        self._dense: list[NDArray[np.int64]] = []
        self._dense_ms: list[float] = []
        self._records: list[NDArray[np.int64]] = []
        self._due: list[list[bool]] = []
        self._reuse_ms: list[float] = []
        self._gate_ms: list[float] = []
        self._input: list[float] = []
        self._work: list[float] = []
        self._whole = 0

    def dense(self, feed: Mapping[str, NDArray[Any]]) -> None:
        """Time computing all of it."""
        for _ in range(DENSE_STEPS):
            begun = time.perf_counter()
            self._session.step(feed, dense=True)
            self._dense_ms.append((time.perf_counter() - begun) * 1e3)
            self._dense.append(self._plan.records.copy())

    def step(self, frame: Frame, finder: ChangeGate, meter: HeatMeter | None) -> None:
        """Take one frame through the network; the first one of all is not counted."""
        fitted, _ = self._model.fit(frame.image)
        if frame.discontinuity:
            finder.reset()
        begun = time.perf_counter()
        change = finder.step(fitted, trust=not frame.corrupt)
        found = time.perf_counter()
        feed = self._model.feed(finder.reference)
        fed = time.perf_counter()
        known = {self._model.input_name: change.mask} if self._maps else None
        first = change.reason == "first frame"
        _, stats = self._session.step(feed, known)
        ended = time.perf_counter()
        if first and not self._records:
            self._records.append(self._plan.records.copy())
            return
        self._records.append(self._plan.records.copy())
        self._reuse_ms.append((ended - fed) * 1e3)
        self._gate_ms.append((found - begun) * 1e3)
        self._input.append(float(change.active))
        self._work.append(stats.work)
        self._whole += stats.dense
        ran = bool(stats.islands_run)
        self._due.append([ran and (stats.dense or due) for due in due_islands(self._plan)])
        if meter is not None:
            meter.add(stats.dense, float(change.active))

    def totals(self) -> Totals:
        work = sum(layer.multiply_adds for layer in self._plan.layers)
        dense_ms = float(np.median(self._dense_ms))
        if not self._reuse_ms:
            return Totals(work, dense_ms)
        return Totals(
            multiply_adds=work,
            dense_ms=dense_ms,
            reuse_ms=float(np.median(self._reuse_ms)),
            reuse_mean_ms=float(np.mean(self._reuse_ms)),
            gate_ms=float(np.mean(self._gate_ms)),
            input=float(np.mean(self._input)),
            work=float(np.mean(self._work)),
            frames=len(self._reuse_ms),
            unchanged=sum(share == 0 for share in self._input),
            dense=self._whole,
        )

    def rows(self, islands: Mapping[int, float]) -> tuple[Row, ...]:
        """Layers and islands in the order in which they run. islands: ms by place in the steps."""
        plan, counted = self._plan, np.array(self._records[1:])
        dense = np.median(np.array(self._dense)[:, :, abi.NANOSECONDS], axis=0) / 1e6
        shares, spent = np.zeros((2, 0)), np.zeros(0)
        if len(counted):
            columns = counted[:, :, [abi.ACTIVE, abi.CHANGED]] / self._positions[:, None]
            shares = columns.mean(axis=0).T
            spent = np.median(counted[:, :, abi.NANOSECONDS], axis=0) / 1e6
        after = behind(plan.graph)
        found: list[Row] = []
        for place, step in enumerate(plan.steps):
            if isinstance(step, IslandStep):
                runs = [due[self._steps.index(step)] for due in self._due]
                found.append(_island_row(plan.graph, step.node, islands[place], runs))
                continue
            for index in range(step.first, step.end):
                layer = plan.layers[index]
                life = plan.lifetimes.lives.get(layer.name)
                kept = layer.op != HAND_OVER and life is not None
                root = plan.lifetimes.lives[life.root] if life else None
                found.append(
                    Row(
                        layer.name,
                        layer.op,
                        tuple(map(int, layer.shape)),
                        int(layer.multiply_adds),
                        float(dense[index]),
                        active=float(shares[0, index]) if len(counted) else None,
                        changed=float(shares[1, index]) if len(counted) else None,
                        reuse_ms=float(spent[index]) if len(counted) else None,
                        persistent=root.persistent if kept and root else None,
                        why=life.why if kept and life else "",
                        bytes=life.bytes if kept and life else 0,
                        last_reader=(life.last_reader or CALLER) if kept and life else "",
                        cut_off=plan.cutoffs.get(layer.name) == index,
                        behind=after.get(layer.name, ""),
                    )
                )
        return tuple(found)


def _island_row(graph: Graph, node: Node, spent_ms: float, runs: list[bool]) -> Row:
    share = float(np.mean(runs)) if runs else None
    return Row(
        name=", ".join(node.outputs),
        operator=ISLAND,
        shape=tuple(map(int, node.attrs["writes"][0].shape)),
        multiply_adds=0,
        dense_ms=spent_ms,
        active=share,
        changed=share,
        reuse_ms=None if share is None else spent_ms if share >= 0.5 else 0.0,
        last_reader=_last_reader(graph, node),
        reason=node.attrs["reason"],
        nodes=tuple(node.attrs["nodes"]),
    )


def _last_reader(graph: Graph, node: Node) -> str:
    readers = graph.readers()
    seen = [index for name in node.outputs for index in readers.get(name, ())]
    return described(graph, max(seen)) if seen else CALLER


def due_islands(plan: Plan) -> list[bool]:
    """Of each island, whether the last step left something new for it to read.

    A tensor that only islands touch counts as new when the island that writes it ran.
    """
    written: set[str] = set()
    due: list[bool] = []
    for step in plan.steps:
        if not isinstance(step, IslandStep):
            continue
        new = any(
            name in written or (name in plan.index and bool(plan.live[plan.index[name]].any()))
            for name in step.node.inputs
        )
        new = new or not any(name in plan.index for name in step.node.inputs)
        if new:
            written |= {port.name for port in step.node.attrs["writes"] if port.layout == "raw"}
        due.append(new)
    return due


def replay(plan: Plan, feed: Mapping[str, NDArray[Any]]) -> dict[int, float]:
    """Run each island alone on what the last step gave it: place in the steps -> median ms."""
    values: dict[str, NDArray[Any]] = dict(feed)
    spent: dict[int, float] = {}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = plan.live.shape[1]
    options.log_severity_level = 3
    for place, step in enumerate(plan.steps):
        if not isinstance(step, IslandStep):
            continue
        session = onnxruntime.InferenceSession(
            step.node.attrs["model"], options, providers=["CPUExecutionProvider"]
        )
        feeds = {}
        for port in step.node.attrs["reads"]:
            made = plan.exports[port.name] if port.name in plan.exports else values[port.name]
            feeds[port.name] = made if port.layout == "raw" else made.reshape(port.shape)
        times = []
        for _ in range(1 + DENSE_STEPS):
            begun = time.perf_counter()
            outputs = session.run(list(step.node.outputs), feeds)
            times.append((time.perf_counter() - begun) * 1e3)
        values.update(zip(step.node.outputs, outputs, strict=True))
        spent[place] = float(np.median(times[1:]))
    return spent


def behind(graph: Graph) -> dict[str, str]:
    """Tensor -> the first global operator's output that it depends on, where there is one.

    Vectors that no position reads any more, such as scores, are left out.
    """
    found: dict[str, str] = {}
    for node in graph.nodes:
        source = next((found[name] for name in node.inputs if name in found), "")
        if node.op in GLOBAL:
            source = node.output
        if source:
            found |= dict.fromkeys(node.outputs, source)
    return {
        name: source
        for name, source in found.items()
        if len(graph.shapes[name]) == 3 and graph.shapes[name][0] * graph.shapes[name][1] > 1
    }


def _noise(model: Model) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (*model.size, 3), np.uint8)
