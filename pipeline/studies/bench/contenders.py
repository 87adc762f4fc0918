"""CONTENDERS: what a benchmark runs against each other, one row each.

All of them get the same cleaned model file and the same number of threads.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from numpy.typing import NDArray

from stillframe.cores import bounded_threads
from stillframe.errors import shortened
from stillframe.extras import install_command
from stillframe.pipeline.inference.backends import (
    Backend,
    Feed,
    OnnxRuntimeBackend,
    ReuseBackend,
    infer_openvino,
)
from stillframe.pipeline.inference.frame_skipping import FrameSkipping
from stillframe.pipeline.inference.profile import TuningProfile
from stillframe.pipeline.inference.settings import Settings
from stillframe.reuse.gate.change_map import ChangeMap
from stillframe.reuse.gate.gate_settings import GateSettings
from stillframe.reuse.introspection import MemoryReport

Outputs = list[NDArray[Any]]


class UnavailableError(Exception):
    """A contender cannot take part here; the message says why."""


@dataclass(frozen=True, slots=True)
class ContenderSetting:
    """What contenders are made from."""

    path: Path
    """The cleaned model."""
    threads: int = 1
    tolerance: float = 0.1
    """Of reuse."""
    gate: GateSettings = field(default_factory=GateSettings)
    """Of reuse."""
    profile: TuningProfile | None = None
    """Of reuse, instead of tolerance and gate."""
    frame_skipping: FrameSkipping = field(default_factory=FrameSkipping)
    """Of reuse: which frames it does not compute."""


class Contender(Backend, Protocol):
    """A backend that counts its work and can start afresh."""

    work: float
    """Share of all multiply-adds that the last run did."""

    def reset(self) -> None:
        """Forget the frames so far."""
        ...


class Onnxruntime:
    """ONNX Runtime on the CPU. Its workers do not spin: they would take the others' cores."""

    incremental = False
    cache_bytes = 0
    work = 1.0

    def __init__(self, setting: ContenderSetting) -> None:
        self._backend = OnnxRuntimeBackend(setting.path, setting.threads)

    def run(self, feed: Feed, change: ChangeMap | None) -> Outputs:
        return self._backend.run(feed, None)

    def reset(self) -> None:
        """Nothing is kept between frames."""

    def close(self) -> None:
        self._backend.close()


class Openvino:
    """OpenVINO on the CPU, for least latency, computing in float32 like all others."""

    incremental = False
    cache_bytes = 0
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
            "INFERENCE_NUM_THREADS": bounded_threads(setting.threads),
            "INFERENCE_PRECISION_HINT": "f32",
        }
        try:
            self._model: Any = openvino.Core().compile_model(str(setting.path), "CPU", config)
        except RuntimeError as error:
            reason = " ".join(str(error).split())
            raise UnavailableError(
                f"OpenVINO cannot compile the model: {shortened(reason)}"
            ) from error
        self._request: Any = self._model.create_infer_request()
        self._title = str(setting.path)

    def run(self, feed: Feed, change: ChangeMap | None) -> Outputs:
        results = infer_openvino(self._request, feed, self._title, share_outputs=True)
        return list(results.to_tuple())

    def reset(self) -> None:
        """Nothing is kept between frames."""

    def close(self) -> None:
        self._request = self._model = None


class Reuse:
    """The reuse engine, as `run` has it."""

    incremental = True

    def __init__(
        self,
        setting: ContenderSetting,
        *,
        tolerance: float,
        profile: TuningProfile | None = None,
    ) -> None:
        self.work = 1.0
        self._backend = ReuseBackend(setting.path, setting.threads, tolerance, profile)

    def run(self, feed: Feed, change: ChangeMap | None) -> Outputs:
        outputs = self._backend.run(feed, change)
        stats = self._backend.session.last_stats
        self.work = 1.0 if stats is None else stats.work
        return outputs

    @property
    def memory(self) -> MemoryReport:
        return self._backend.session.memory

    @property
    def cache_bytes(self) -> int:
        return self._backend.cache_bytes

    def reset(self) -> None:
        self._backend.session.reset()

    def close(self) -> None:
        self._backend.close()


def _everything(setting: ContenderSetting) -> Settings:
    return Settings("off")


def _exact(setting: ContenderSetting) -> Settings:
    return Settings("exact")


def _reuse(setting: ContenderSetting) -> Settings:
    """Without the rolling refresh; benchmarks/refresh.py measures that."""
    gate = setting.profile.gate if setting.profile is not None else setting.gate
    return Settings("layer", max_age_s=math.inf, gating=gate)


@dataclass(frozen=True, slots=True)
class ContenderRow:
    """One contender."""

    name: str
    """What its figures are called, as in `ort_ms`."""
    title: str
    make: Callable[[ContenderSetting], Contender]
    """Raises UnavailableError."""
    settings: Callable[[ContenderSetting], Settings] = _everything
    """How its frames are analysed."""
    skips_frames: bool = False
    """Whether the setting's frame skipping is for it."""


CONTENDERS: tuple[ContenderRow, ...] = (
    ContenderRow("ort", "ONNX Runtime", Onnxruntime),
    ContenderRow("openvino", "OpenVINO", Openvino),
    ContenderRow("dense", "own dense", lambda s: Reuse(s, tolerance=0.0)),
    ContenderRow("exact", "reuse, exact", lambda s: Reuse(s, tolerance=0.0), _exact),
    ContenderRow(
        "reuse",
        "reuse at tolerance",
        lambda s: Reuse(s, tolerance=s.tolerance, profile=s.profile),
        _reuse,
        skips_frames=True,
    ),
)

BASELINES = ("ort", "openvino")
"""Contenders that are not ours. Gains are relative to the faster one."""


def contender(name: str) -> ContenderRow:
    return next(row for row in CONTENDERS if row.name == name)
