"""CONTENDERS: what a benchmark lets run against each other, one row each.

All of them get the same cleaned model file and the same number of threads.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from stillframe.extras import install_command
from stillframe.pipeline.inference.backends import Feed, OnnxRuntimeBackend, ReuseBackend
from stillframe.pipeline.inference.frame_skipping import FrameSkipping
from stillframe.pipeline.inference.profile import TuningProfile
from stillframe.reuse.gate.change_gate import ChangeMap, GateSettings
from stillframe.reuse.plan.memory_report import MemoryReport

Outputs = Sequence[NDArray[Any]]


class UnavailableError(Exception):
    """A contender cannot take part here; the message says why."""


@dataclass(frozen=True, slots=True)
class ContenderSetting:
    """What contenders are made of. path: the cleaned model. tolerance, gate and cadence: of reuse;
    profile: of reuse, instead of the first two."""

    path: Path
    threads: int = 1
    tolerance: float = 0.1
    gate: GateSettings = field(default_factory=GateSettings)
    profile: TuningProfile | None = None
    cadence: FrameSkipping = field(default_factory=FrameSkipping)


class Contender(Protocol):
    """Runs one model. work: the share of all multiply-adds that the last run did."""

    work: float

    def run(self, feed: Feed, change: ChangeMap | None) -> Outputs:
        """All outputs in the model's order; they may be views that the next run overwrites.

        change: which pixels differ from the last feed; None: all of them.
        """
        ...

    def reset(self) -> None:
        """Forget the frames so far."""
        ...

    def close(self) -> None: ...


class Onnxruntime:
    """ONNX Runtime on the CPU. Its workers do not spin: they would take the others' cores."""

    work = 1.0

    def __init__(self, setting: ContenderSetting) -> None:
        self._engine = OnnxRuntimeBackend(setting.path, setting.threads)

    def run(self, feed: Feed, change: ChangeMap | None) -> Outputs:
        return self._engine.run(feed, None)

    def reset(self) -> None:
        """Nothing is kept between frames."""

    def close(self) -> None:
        self._engine.close()


class Openvino:
    """OpenVINO on the CPU, for least latency, computing in float32 like all others."""

    work = 1.0

    def __init__(self, setting: ContenderSetting) -> None:
        try:
            import openvino
        except ImportError as error:
            raise UnavailableError(
                f"OpenVINO is not installed: {install_command('bench')}"
            ) from error
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": setting.threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        try:
            self._model: Any = openvino.Core().compile_model(str(setting.path), "CPU", config)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise UnavailableError(f"OpenVINO cannot compile the model: {reason[:200]}") from error
        self._request: Any = self._model.create_infer_request()

    def run(self, feed: Feed, change: ChangeMap | None) -> Outputs:
        results = self._request.infer(dict(feed), share_inputs=True, share_outputs=True)
        return list(results.to_tuple())

    def reset(self) -> None:
        """Nothing is kept between frames."""

    def close(self) -> None:
        self._request = self._model = None


class Reuse:
    """stillframe's own engine, as `run` has it. dense: it computes everything in every frame."""

    def __init__(
        self,
        setting: ContenderSetting,
        *,
        tolerance: float,
        dense: bool = False,
        profile: TuningProfile | None = None,
    ) -> None:
        self.work = 1.0
        self._dense = dense
        self._engine = ReuseBackend(setting.path, setting.threads, tolerance, profile)

    def run(self, feed: Feed, change: ChangeMap | None) -> Outputs:
        outputs = self._engine.run(feed, None if self._dense else change)
        stats = self._engine.session.last_stats
        self.work = 1.0 if stats is None else stats.work
        return outputs

    @property
    def memory(self) -> MemoryReport:
        return self._engine.session.memory

    def reset(self) -> None:
        self._engine.session.reset()

    def close(self) -> None:
        self._engine.close()


@dataclass(frozen=True, slots=True)
class ContenderRow:
    """One contender. name: what its figures are called (`ort_ms`). gate: how it is told what
    changed, for those that want to know. paced: whether frames pass it by, by the cadence."""

    name: str
    title: str
    make: Callable[[ContenderSetting], Contender]
    gate: Callable[[ContenderSetting], GateSettings] | None = None
    paced: bool = False


CONTENDERS: tuple[ContenderRow, ...] = (
    ContenderRow("ort", "ONNX Runtime", Onnxruntime),
    ContenderRow("openvino", "OpenVINO", Openvino),
    ContenderRow("dense", "own dense", lambda s: Reuse(s, tolerance=0.0, dense=True)),
    ContenderRow(
        "exact",
        "reuse, exact",
        lambda s: Reuse(s, tolerance=0.0),
        lambda s: GateSettings(exact=True),
    ),
    ContenderRow(
        "reuse",
        "reuse at tolerance",
        lambda s: Reuse(s, tolerance=s.tolerance, profile=s.profile),
        lambda s: s.profile.gate if s.profile is not None else s.gate,
        paced=True,
    ),
)

BASELINES = ("ort", "openvino")
"""Contenders that are not ours: the faster one is what there is to beat."""


def contender(name: str) -> ContenderRow:
    return next(row for row in CONTENDERS if row.name == name)
