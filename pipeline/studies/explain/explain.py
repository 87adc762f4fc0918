"""What each layer of a network costs, and how much of it a clip makes the engine compute again.

    explain(model, frames) -> Explanation: one Row a layer or island, Totals, perhaps a Heatmap

Frames take the way that they take in a run. Nothing here judges (`verdict`) or prints.
"""

import math
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillframe.models.model import Model, Sizing
from stillframe.pipeline.inference.backend_slot import BackendSlot
from stillframe.pipeline.inference.backends import (
    Backend,
    BorrowedBackend,
    OnnxRuntimeBackend,
    ReuseBackend,
)
from stillframe.pipeline.inference.observer import ObservedFrame
from stillframe.pipeline.inference.runner import Runner
from stillframe.pipeline.inference.settings import Settings, StudySettings
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.studies.explain.explanation import Explanation, Gate, Row, Totals
from stillframe.pipeline.studies.explain.heatmap import HeatmapCounter
from stillframe.reuse.gate.change_gate import ChangeGate
from stillframe.reuse.gate.gate_settings import GateSettings
from stillframe.reuse.introspection import LayerStats, layer_stats, layers

GATES: dict[Gate, GateSettings] = {
    "adaptive": GateSettings(),
    "exact": GateSettings(exact=True),
}
DENSE_STEPS = 3  # timed before the clip, and again after it
WARM_UP_SIDE = 64  # of the picture that loads the gate's kernels, pixels

Feed = Mapping[str, NDArray[Any]]


def explain(
    model: Model,
    frames: Iterable[Frame] | None = None,
    *,
    tolerance: float = 0.0,
    gate: Gate = "adaptive",
    threads: int | None = None,
    heatmap: bool = False,
    widen: bool = False,
) -> Explanation:
    """The model at its present size, and what the frames of a clip make of it.

    frames None, or empty: only what needs no clip, timed on a picture of noise. threads: None takes
    every core. heatmap: also count how often each position was computed. widen: see `ReuseSession`.
    """
    with (
        closing(ReuseBackend(model.path, threads or 0, tolerance, widen=widen)) as backend,
        closing(OnnxRuntimeBackend(model.path, threads or 0)) as peer,
    ):
        remaining = iter(frames or ())
        first = next(remaining, None)
        picture = _noise(model) if first is None else model.fit(first.image)[0]
        feed = model.feed(picture)
        backend.run(feed, None)
        peer.run(feed, None)
        counts = heatmap and first is not None
        counter = HeatmapCounter(backend.session, picture) if counts else None
        recorder = Recorder(backend, peer, counter)
        recorder.time_dense(feed)
        if first is not None:
            _warm_up(backend, feed, GATES[gate])
            with Runner(
                _fixed(model),
                Settings("layer", max_age_s=math.inf, gating=GATES[gate]),
                slot=BackendSlot(lambda path: BorrowedBackend(backend), incremental=True),
                study=StudySettings(run_unchanged=True),
                observer=recorder.observe,
            ) as runner:
                runner.step(first)
                for frame in remaining:
                    runner.step(frame)
                recorder.time_dense(model.feed(recorder.last_picture))
        return Explanation(
            model=model.name,
            size=model.size,
            tolerance=tolerance,
            gate=gate,
            threads=threads,
            rows=recorder.rows(),
            totals=recorder.totals(),
            memory=backend.session.memory,
            notes=backend.session.notes,
            all_island=backend.session.all_island,
            heatmap=counter.heatmap() if counter is not None else None,
        )


class Recorder:
    """Collects what steps record. The first frame of a clip is computed whole and not counted."""

    last_picture: NDArray[np.uint8]
    """(H, W, 3): what the network was fed last."""

    def __init__(
        self, backend: ReuseBackend, peer: Backend, counter: HeatmapCounter | None
    ) -> None:
        self._session, self._peer, self._counter = backend.session, peer, counter
        self._infos = layers(backend.session)
        self._dense: list[LayerStats] = []
        self._dense_ms: list[float] = []
        self._peer_ms: list[float] = []
        self._stats: list[LayerStats] = []
        self._reuse_ms: list[float] = []
        self._gate_ms: list[float] = []
        self._input: list[float] = []
        self._work: list[float] = []
        self._whole = 0
        self._seen = 0

    def time_dense(self, feed: Feed) -> None:
        """Time computing all of it, by the engine and by ONNX Runtime in turn."""
        for _ in range(DENSE_STEPS):
            began = time.perf_counter()
            self._session.step(feed, dense=True)
            self._dense_ms.append((time.perf_counter() - began) * 1e3)
            self._dense.append(layer_stats(self._session))
            began = time.perf_counter()
            self._peer.run(feed, None)
            self._peer_ms.append((time.perf_counter() - began) * 1e3)

    def observe(self, seen: ObservedFrame) -> None:
        """Take one frame's figures."""
        self._seen += 1
        if seen.task.fitted is not None:
            self.last_picture = seen.task.fitted
        if self._seen == 1 or seen.result is None:
            return
        spent_ms = seen.task.stop_watch.spent_ms
        self._reuse_ms.append(spent_ms.get("infer", 0.0))
        self._gate_ms.append(spent_ms.get("gate", 0.0))
        self._input.append(seen.result.active)
        done = self._session.last_stats
        if seen.outputs is None or done is None:  # a corrupt frame is answered by the last result
            self._stats.append(_nothing(self._dense[0]))
            self._work.append(0.0)
            return
        self._stats.append(layer_stats(self._session))
        self._work.append(done.work)
        self._whole += done.dense
        if self._counter is not None:
            self._counter.add()

    def totals(self) -> Totals:
        work = sum(info.multiply_adds for info in self._infos)
        dense_ms = float(np.median(self._dense_ms))
        peer_ms = float(np.median(self._peer_ms))
        if not self._reuse_ms:
            return Totals(work, dense_ms, peer_ms)
        return Totals(
            multiply_adds=work,
            dense_ms=dense_ms,
            ort_ms=peer_ms,
            reuse_ms=float(np.median(self._reuse_ms)),
            reuse_mean_ms=float(np.mean(self._reuse_ms)),
            gate_ms=float(np.mean(self._gate_ms)),
            input=float(np.mean(self._input)),
            work=float(np.mean(self._work)),
            frames=len(self._reuse_ms),
            unchanged=sum(share == 0 for share in self._input),
            dense=self._whole,
        )

    def rows(self) -> tuple[Row, ...]:
        """Layers and islands in the order in which they run."""
        dense_ms = np.median([each.nanoseconds for each in self._dense], axis=0) / 1e6
        if self._stats:
            active = np.mean([each.computed_share for each in self._stats], axis=0)
            changed = np.mean([each.changed_share for each in self._stats], axis=0)
            spent_ms = np.median([each.nanoseconds for each in self._stats], axis=0) / 1e6
        return tuple(
            Row(
                info.name,
                info.op,
                info.shape,
                info.multiply_adds,
                float(dense_ms[index]),
                active=float(active[index]) if self._stats else None,
                changed=float(changed[index]) if self._stats else None,
                reuse_ms=float(spent_ms[index]) if self._stats else None,
                persistent=info.persistent,
                why=info.why,
                bytes=info.bytes,
                last_reader=info.last_reader,
                cut_off=info.cut_off,
                after_global=info.after_global,
                reason=info.reason,
                nodes=info.nodes,
                algorithm=info.algorithm,
            )
            for index, info in enumerate(self._infos)
        )


def _warm_up(backend: ReuseBackend, feed: Feed, gating: GateSettings) -> None:
    """Load every kernel that frames need, which is a cost of the start and not of a frame."""
    session = backend.session
    if session.reads_pixels:
        marks = np.zeros(session.plan.graph.shapes[session.picture_inputs[0]][:2], np.uint8)
        marks[: max(1, marks.shape[0] // 4)] = 1
        session.step(feed, marks)
    session.reset()
    change_gate = ChangeGate(WARM_UP_SIDE, WARM_UP_SIDE, gating)
    for level in (0, 0, 99):
        picture = np.zeros((WARM_UP_SIDE, WARM_UP_SIDE, 3), np.uint8)
        picture[: WARM_UP_SIDE // 4] = level
        change_gate.step(picture)


def _nothing(stats: LayerStats) -> LayerStats:
    """Of a step that did not run."""
    zeros = np.zeros_like(stats.positions)
    return LayerStats(stats.positions, zeros, zeros, zeros)


def _fixed(model: Model) -> Model:
    """The model at its present size for every source."""
    return replace(model, form=replace(model.form, sizing=Sizing(model.size)))


def _noise(model: Model) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (*model.size, 3), np.uint8)
