"""Variants: what a sweep plays on a clip, one row each, all with the same number of threads.

Most rows are a `Settings`, so they are exactly what `stillframe run` does with the options named.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Literal, Protocol

import numpy as np

from stillframe.models.model import Model
from stillframe.models.results import Result
from stillframe.pipeline.inference.backend_slot import BackendSlot
from stillframe.pipeline.inference.backends import OpenvinoBackend, ReuseBackend
from stillframe.pipeline.inference.profile import TuningProfile
from stillframe.pipeline.inference.runner import Runner
from stillframe.pipeline.inference.settings import Settings
from stillframe.pipeline.inference.types import StepResult
from stillframe.pipeline.media.frame import Frame
from stillframe.reuse.gate.gate_settings import GateSettings
from stillframe.reuse.introspection import layer_stats, layers

Family = Literal["dense", "exact", "reuse", "gate", "profile", "both", "frame", "every", "tracked"]

TOLERANCES = (0.02, 0.05, 0.1, 0.15, 0.2, 0.4, 0.8)
GATES: dict[str, GateSettings] = {
    "pixel=2": GateSettings(pixel=2.0),
    "pixel=6": GateSettings(pixel=6.0),
    "margin=2": GateSettings(margin=2),
    "margin=8": GateSettings(margin=8),
}
SKIPS = (2, 4, 8)
# Tolerance, None: whole frames; and which of the frames that change the network computes.
BOTH = ((0.05, 2), (0.1, 2), (0.4, 2), (0.1, 4), (0.4, 4), (None, 2), (None, 4))
# Tolerance, and which frames, behind a gate that lets almost all change through.
FINE = ((0.02, 1), (0.02, 2), (0.05, 2), (0.02, 4), (0.05, 4))
FINE_GATE = GateSettings(pixel=2.0, least_noise=1.0)
FOLLOWED = ((0.05, 2), (0.1, 2), (0.1, 4), (None, 2))  # of these, with boxes that are followed too
BOXES = ("detection",)  # the task of which something can be followed
_ORDINALS = {2: "every 2nd", 4: "every 4th", 8: "every 8th"}


@dataclass(frozen=True, slots=True)
class Played:
    """What a variant made of one frame."""

    result: Result
    work: float
    """Multiply-adds done, as a share of all."""
    active: float
    """Share of the picture that was treated as new."""


class Variant(Protocol):
    """Analyses the frames of one clip in order."""

    def play(self, frame: Frame) -> Played: ...

    def layer_shares(self) -> dict[str, float]:
        """Of each layer, the share of its positions that the last frame computed; empty: unknown.

        Apart from `play`, so that it is not timed.
        """
        ...

    def close(self) -> None: ...


class RunnerVariant:
    """What `stillframe run` does with these settings."""

    last: StepResult | None = None
    """What the last frame gave, for pictures."""

    def __init__(self, model: Model, settings: Settings) -> None:
        self._runner = Runner(model, settings)
        self._layers: _Layers | None = None

    def play(self, frame: Frame) -> Played:
        self.last = step = self._runner.step(frame)
        if step.kind != "computed":
            return Played(step.result, 0.0, 0.0)
        backend = self._runner.backend
        if not isinstance(backend, ReuseBackend):
            return Played(step.result, 1.0, step.active)
        stats = backend.session.last_stats
        assert stats is not None
        return Played(step.result, stats.work, step.active)

    def layer_shares(self) -> dict[str, float]:
        backend = self._runner.backend
        if self.last is None or not isinstance(backend, ReuseBackend):
            return {}
        if self._layers is None or self._layers.backend is not backend:
            self._layers = _Layers(backend)
        return self._layers.shares(self.last.kind == "computed")

    def close(self) -> None:
        self._runner.close()


class DenseVariant:
    """The reuse engine, computing everything in every frame: what quality is measured against."""

    def __init__(self, model: Model, threads: int) -> None:
        slot = BackendSlot(lambda path: ReuseBackend(path, threads), incremental=True)
        # With age 0 no result stands for another frame, so corrupt frames are computed too.
        self._runner = Runner(model, Settings("off", max_age_s=0.0), slot=slot)

    def play(self, frame: Frame) -> Played:
        return Played(self._runner.step(frame).result, 1.0, 1.0)

    def layer_shares(self) -> dict[str, float]:
        return {}

    def close(self) -> None:
        self._runner.close()


class OpenvinoVariant(RunnerVariant):
    """OpenVINO, computing everything."""

    def __init__(self, model: Model, threads: int) -> None:
        slot = BackendSlot(lambda path: OpenvinoBackend(path, threads), incremental=False)
        self._runner = Runner(model, Settings("off", threads=threads), slot=slot)
        self._layers = None


class _Layers:
    """The layers of a backend that multiply."""

    def __init__(self, backend: ReuseBackend) -> None:
        self.backend = backend
        infos = layers(backend.session)
        self._multiplies = np.array([info.multiply_adds > 0 for info in infos], bool)
        self._names = [info.name for info in infos if info.multiply_adds]

    def shares(self, ran: bool) -> dict[str, float]:
        """By name the share of the positions that the last frame computed. ran: it was computed."""
        if not ran:
            return dict.fromkeys(self._names, 0.0)
        shares = layer_stats(self.backend.session).computed_share[self._multiplies]
        return dict(zip(self._names, shares.tolist(), strict=True))


@dataclass(frozen=True, slots=True)
class VariantRow:
    """One variant."""

    name: str
    """Unique."""
    title: str
    family: Family
    make: Callable[[Model], Variant]
    options: str | None = None
    """What to give `stillframe run` for the same; None: it has no such option."""
    tasks: tuple[str, ...] = ()
    """Those that it is for; empty: all."""
    every: int = 1
    """The network runs on one in so many of the frames that change."""


BASELINE = "dense"


def baseline(threads: int) -> VariantRow:
    """What quality is measured against; it plays in every round."""
    return VariantRow(
        BASELINE, "everything, own engine", "dense", lambda model: DenseVariant(model, threads)
    )


def variants(
    threads: int, profile: TuningProfile | None = None, profile_path: Path | None = None
) -> tuple[VariantRow, ...]:
    """All rows but the baseline."""

    def runs(name: str, title: str, family: Family, settings: Settings) -> VariantRow:
        options, every = options_of(settings, profile_path), settings.every or 1
        if settings.profile is not None:
            every = settings.profile.frame_skipping.every
        return VariantRow(
            name, title, family, lambda m: RunnerVariant(m, settings), options, every=every
        )

    off, frame, layer, exact = (
        Settings(reuse=reuse, threads=threads) for reuse in ("off", "frame", "layer", "exact")
    )
    rows = [runs("off", "everything, ONNX Runtime", "dense", off)]
    if find_spec("openvino") is not None:
        title = "everything, OpenVINO"
        rows.append(VariantRow("openvino", title, "dense", lambda m: OpenvinoVariant(m, threads)))
    if profile is not None:
        tuned = replace(layer, profile=profile)
        rows.append(runs("profile", f"profile {profile_path}", "profile", tuned))
    for share in TOLERANCES:
        at = replace(layer, tolerance=share)
        rows.append(runs(f"reuse-{share:g}", f"tolerance {share:g}", "reuse", at))
    rows.append(runs("exact", "exact", "exact", exact))
    rows.append(runs("frame", "whole frames only", "frame", frame))
    for name, gate in GATES.items():
        title = f"tolerance {layer.tolerance:g}, gate {name}"
        rows.append(runs(f"gate-{name}", title, "gate", replace(layer, gating=gate)))
    alone = replace(layer, tolerance=0.0)
    rows.append(runs("gate-alone", "gate alone, no tolerance", "gate", alone))
    for part, every in BOTH:
        mode, name, title = frame, "frame", "whole frames"
        if part is not None:
            mode = replace(layer, tolerance=part)
            name, title = f"reuse-{part:g}", f"tolerance {part:g}"
        title = f"{title}, {_ORDINALS[every]} frame"
        keeps = replace(mode, every=every)
        rows.append(runs(f"{name}-every-{every}", title, "both", keeps))
        if (part, every) in FOLLOWED:
            follows = replace(keeps, between="follow")
            row = runs(f"{name}-follow-{every}", f"{title}, followed", "both", follows)
            rows.append(replace(row, tasks=BOXES))
    for part, every in FINE:
        fine = replace(layer, tolerance=part, gating=FINE_GATE)
        title = f"tolerance {part:g}, fine gate"
        if every == 1:
            rows.append(runs(f"fine-{part:g}", title, "gate", fine))
            continue
        title, fine = f"{title}, {_ORDINALS[every]} frame", replace(fine, every=every)
        rows.append(runs(f"fine-{part:g}-every-{every}", title, "both", fine))
    skips = [replace(off, every=every) for every in SKIPS]
    for every, keeps in zip(SKIPS, skips, strict=True):
        rows.append(runs(f"every-{every}", f"{_ORDINALS[every]} frame", "every", keeps))
    for every, keeps in zip(SKIPS, skips, strict=True):
        title, follows = f"{_ORDINALS[every]} frame, tracked", replace(keeps, between="follow")
        rows.append(replace(runs(f"tracked-{every}", title, "tracked", follows), tasks=BOXES))
    return tuple(rows)


def options_of(settings: Settings, profile_path: Path | None = None) -> str:
    """What to give `stillframe run` for these settings, threads left out."""
    parts = [f"--reuse {settings.reuse}"]
    if settings.profile is not None:
        parts.append(f"--profile {profile_path}")
    elif settings.reuse == "layer":
        parts.append(f"--tolerance {settings.tolerance:g}")
    if settings.gating is not None:
        usual = GateSettings()
        parts += [
            f"--gate {each.name}={getattr(settings.gating, each.name):g}"
            for each in fields(GateSettings)
            if getattr(settings.gating, each.name) != getattr(usual, each.name)
        ]
    if settings.every is not None and settings.every > 1:
        parts.append(f"--every {settings.every}")
    if settings.between is not None:
        parts.append(f"--between {settings.between}")
    return " ".join(parts)


def chosen(rows: Sequence[VariantRow], names: Sequence[str]) -> tuple[VariantRow, ...]:
    """The rows whose name or family is listed, in their own order; all where nothing is listed."""
    return tuple(row for row in rows if not names or row.name in names or row.family in names)
