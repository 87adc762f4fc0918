"""Whole-frame reuse against the truth: a drawn desktop of which every changed pixel is known,
encoded, decoded and run through the gate as a user's recording would be."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest

from stillframe import sample_videos
from stillframe.models import zoo
from stillframe.pipeline.inference.runner import Runner
from stillframe.pipeline.inference.settings import Settings
from stillframe.pipeline.inference.types import StepResult
from stillframe.pipeline.media.open_source import open_source
from stillframe.reuse.gate.gate_settings import GateSettings
from stillframe.sample_videos import SceneFrame
from tests import networks

FOR_EVER = Settings(max_age_s=float("inf"))


@dataclass(frozen=True)
class Played:
    """A clip's frames after the gate, each with the truth about it and the truth about the frame
    that its result was computed from."""

    steps: list[StepResult]
    truths: list[SceneFrame]
    bases: list[SceneFrame]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STILLFRAME_CACHE", str(folder))
        yield folder


def play(
    cache: Path, name: str, size: tuple[int, int], seconds: float, seed: int = 0, fps: float = 30
) -> Played:
    options = {"size": size, "seconds": seconds, "seed": seed, "fps": fps}
    model = zoo.load(networks.brightness(cache / "brightness.onnx", size[1], size[0]))
    truths = list(sample_videos.truth(name, **options))
    played = Played([], truths, [])
    base = truths[0]
    with (
        open_source(sample_videos.resolve(name, **options)) as source,
        Runner(model, FOR_EVER) as runner,
    ):
        for frame, truth in zip(source, truths, strict=True):
            step = runner.step(frame)
            base = truth if step.kind == "computed" else base
            played.steps.append(step)
            played.bases.append(base)
    return played


@pytest.mark.parametrize("seed", [0, 1])
def test_exactly_the_unchanged_frames_of_a_screen_are_skipped(cache: Path, seed: int) -> None:
    played = play(cache, "screen", (480, 270), 3.0, seed)
    still = [truth.index for truth in played.truths if truth.unchanged]
    skipped = [step.frame.index for step in played.steps if step.kind == "unchanged"]
    assert len(still) > len(played.truths) // 4
    assert set(still) - set(skipped) == set(), "unchanged frames that met the network"
    tolerance = GateSettings().pixel * GateSettings().least_noise
    for index in skipped:
        now, then = played.truths[index].clean, played.bases[index].clean
        apart = cv2.absdiff(now, then).max(axis=2)
        assert cv2.erode(apart, np.ones((3, 3))).max() <= tolerance, (
            f"frame {index} keeps the result of frame {played.bases[index].index}, but differs"
        )


def test_no_frame_of_a_moving_camera_is_skipped(cache: Path) -> None:
    played = play(cache, "pan", (320, 180), 1.0)
    moving = [step for step, truth in zip(played.steps, played.truths, strict=True)
              if not truth.unchanged]  # fmt: skip
    assert len(moving) > len(played.steps) // 2
    assert {step.kind for step in moving} == {"computed"}


def test_a_cut_is_computed_in_the_frame_in_which_it_comes(cache: Path) -> None:
    played = play(cache, "cuts", (320, 180), 4.0, fps=10)
    cuts = [truth.index for truth in played.truths if truth.cut]
    assert len(cuts) == 2
    for index in cuts:
        assert (played.steps[index].kind, played.steps[index].active) == ("computed", 1.0)
