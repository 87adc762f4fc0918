"""The filter as a library, and on frames that are skipped, damaged or fail."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import stillframe
from stillframe.errors import ModelError, UsageError
from stillframe.models import zoo
from stillframe.models.results import Detections, Evidence, Mask
from stillframe.pipeline.filter.effects import EFFECTS, EffectSettings
from stillframe.pipeline.filter.filter import Filter
from stillframe.pipeline.filter.planes import Planes
from stillframe.pipeline.filter.source import PlaneFrame
from stillframe.pipeline.inference.settings import Settings
from stillframe.pipeline.inference.types import Kind, StepResult
from stillframe.pipeline.media.frame import Frame
from tests import networks, streams
from tests.networks import BOX

SIZE = 64, 96
HIDING = [name for name, row in EFFECTS.items() if row.hides]


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A detector whose one box is BOX and whose score is the picture's brightness."""
    return networks.brightness(tmp_path_factory.mktemp("models") / "brightness.onnx")


@pytest.fixture(scope="module")
def painter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return networks.negative(tmp_path_factory.mktemp("models") / "negative.onnx")


def noisy(seed: int = 0, low: int = 120) -> np.ndarray[Any, np.dtype[np.uint8]]:
    return np.random.default_rng(seed).integers(low, 256, (*SIZE, 3), dtype=np.uint8)


def shot(picture: Planes, index: int = 0, **more: Any) -> PlaneFrame:
    tick = Fraction(1, 25)
    return PlaneFrame(picture, index, float(index * tick), index, tick, **more)


def changed(before: Any, after: Any) -> Any:
    return (before != after).any(2)


# --- as a library --------------------------------------------------------------------------------


@pytest.mark.parametrize("effect", HIDING)
def test_a_picture_is_returned_with_the_effect_and_the_input_is_unchanged(
    network: Path, effect: Any
) -> None:
    image = noisy()
    original = image.copy()
    with stillframe.Filter(model=network, effect=effect) as f:
        out = f(image)
        assert isinstance(f.result, Detections)
        assert f.result.xyxy[0].tolist() == list(BOX)
        np.testing.assert_allclose(f.hidden[0], [-2, -1.6, 62, 49.6], atol=0.01)
    np.testing.assert_array_equal(image, original)
    assert out.shape == image.shape
    assert out.dtype == np.uint8
    apart = changed(image, out)
    assert apart[10:38, 12:48].mean() > 0.98
    assert not apart[51:].any()
    assert not apart[:, 63:].any()


def test_none_is_bit_exact_and_needs_no_model() -> None:
    image = noisy()
    with Filter(effect="none") as f:
        out = f(image)
        assert f.result is None
    np.testing.assert_array_equal(out, image)
    assert out is not image


def test_boxes_are_the_default(network: Path) -> None:
    with Filter(network) as f:
        assert f.effect_settings.effect == "boxes"
        image = noisy()
        apart = changed(image, f(image))
    assert apart[8:40, 10].all()
    assert not apart[30:36, 20:40].any()


def test_upscale_gives_the_models_picture(painter: Path) -> None:
    image = noisy()
    with Filter(painter, effect="upscale") as f:
        out = f(image)
    np.testing.assert_allclose(out, 255 - image, atol=1)


@pytest.mark.parametrize("layout", streams.CHROMA_OF)
def test_upscale_is_a_new_picture_in_the_streams_layout(painter: Path, layout: str) -> None:
    with Filter(painter, effect="upscale", reuse="frame") as f:
        first = f.filter_planes(shot(streams.even(layout, *SIZE, 60), 0))
        again = f.filter_planes(shot(streams.even(layout, *SIZE, 60), 1))
        other = f.filter_planes(shot(streams.even(layout, *SIZE, 200), 2))
    assert again is first  # the model's picture was turned into planes once
    assert first.layout.name == layout
    full = first.layout.name == "gray"
    expected = 255 - (60 - 16) * 255 / 219
    got = float(first.parts[0][30, 40])
    assert got == pytest.approx(expected * 219 / 255 + 16, abs=2), full
    assert float(other.parts[0][30, 40]) < 60


def test_a_frame_brings_its_own_time(network: Path) -> None:
    image = noisy()
    dark = np.zeros_like(image)
    with Filter(network, effect="mask", hold_s=0.5, reuse="off") as f:
        f(Frame(image, 0, 1.0, 25, Fraction(1, 25)))
        assert len(f.hidden) == 1
        f(Frame(dark, 1, 1.4, 35, Fraction(1, 25)))
        assert len(f.hidden) == 1
        f(Frame(dark, 2, 1.6, 40, Fraction(1, 25)))
        assert len(f.hidden) == 0
    with Filter(network, effect="mask", hold_s=0.5, reuse="off", rate=2) as f:
        hidden = []
        for picture in (image, dark, dark):
            f(picture)
            hidden.append(len(f.hidden))
    assert hidden == [1, 1, 0]


@pytest.mark.parametrize(
    "image", [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)]
)
def test_other_arrays_than_pictures_are_refused(network: Path, image: Any) -> None:
    with Filter(network) as f, pytest.raises(UsageError, match=r"expected a picture \(h, w, 3\)"):
        f(image)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"effect": "smear"}, "effect: expected one of boxes, blur, pixelate"),
        ({"effect": "blur", "grow": -1}, "grow: expected 0 .. 10"),
        ({"effect": "blur", "hold_s": float("nan")}, "hold: expected 0 seconds or more, got nan"),
        ({"effect": "blur", "cells": 0}, "cells: expected 1 or more"),
        ({"effect": "blur", "shape": "star"}, "shape: expected one of oval, box"),
        ({"effect": "blur", "classes": ("cow",)}, "classes: brightness knows "),
        ({"effect": "upscale"}, "effect upscale: expected a model for image, got brightness"),
        ({"effect": "blur", "reuse": "some"}, "reuse: expected one of"),
        ({"effect": "mask", "colour": (0, 0, 300)}, "colour: expected three levels of 0..255"),
        ({"effect": "mask", "rate": 0}, "rate: expected more than 0"),
    ],
)
def test_settings_that_make_no_sense_are_refused(
    network: Path, arguments: dict[str, Any], words: str
) -> None:
    with pytest.raises(UsageError) as raised:
        Filter(network, **arguments)
    assert words in str(raised.value)


def test_a_model_for_another_task_is_refused(painter: Path) -> None:
    with pytest.raises(UsageError, match="effect blur: expected a model for detection or segment"):
        Filter(painter, effect="blur")


def test_effects_that_hide_accept_low_confidences(network: Path) -> None:
    dim = np.full((*SIZE, 3), 80, np.uint8)  # a score of 0.31
    for effect, confidence, count in (("mask", None, 1), ("mask", 0.5, 0), ("boxes", None, 0)):
        with Filter(network, effect=effect, confidence=confidence) as f:
            f(dim)
            assert len(f.result) == count  # type: ignore[arg-type]


def test_only_the_chosen_classes_are_hidden(network: Path) -> None:
    model = zoo.load(str(network))
    (name, other) = (model.labels[1], model.labels[0])
    image = noisy()
    with Filter(model, effect="mask", classes=[name]) as f:
        assert changed(image, f(image)).any()
    with Filter(model, effect="mask", classes=[other]) as f:
        assert not changed(image, f(image)).any()


# --- planes --------------------------------------------------------------------------------------


@pytest.mark.parametrize("layout", streams.CHROMA_OF)
@pytest.mark.parametrize("effect", [*HIDING, "boxes"])
def test_planes_change_only_near_detections(network: Path, layout: str, effect: Any) -> None:
    picture = streams.noise(layout, *SIZE)
    picture.parts[0][:] //= 4
    picture.parts[0][:] += 180
    before = picture.data.copy()
    with Filter(network, effect=effect) as f:
        out = f.filter_planes(shot(picture))
    assert out.data.shape == before.shape
    old = Planes.over(before, picture.layout, picture.colours, SIZE)
    for part, was, (x, y) in zip(out.parts, old.parts, picture.layout.shifts, strict=True):
        apart = part != was
        assert apart.any()
        assert not apart[51 >> y :].any()
        assert not apart[: 51 >> y, 80 >> x :].any()


# --- what a user expects of an anonymiser --------------------------------------------------------


class Scripted:
    """A runner that answers with scripted kinds and boxes, and records the frames that it gets."""

    def __init__(self, *answers: tuple[Kind, list[tuple[float, float, float, float]]]) -> None:
        self._answers = iter(answers)
        self.frames: list[Frame] = []

    def step(self, frame: Frame) -> StepResult:
        self.frames.append(frame)
        kind, boxes = next(self._answers)
        result = Detections(
            xyxy=np.array(boxes, np.float32).reshape(-1, 4),
            confidence=np.ones(len(boxes), np.float32),
            class_id=np.zeros(len(boxes), np.int64),
            labels=("face",),
            evidence=Evidence("computed" if kind == "computed" else "reused", 0.0),
        )
        return StepResult(frame, result, kind, 1.0, None, None, {})

    def close(self) -> None:
        """Nothing to give back."""


@pytest.fixture
def scripted(network: Path) -> Iterator[Any]:
    filters: list[Filter] = []

    def filtered(*answers: Any, **settings: Any) -> tuple[Filter, Scripted]:
        f = Filter(network, effect="mask", **settings)
        runner = Scripted(*answers)
        f._runner = runner  # type: ignore[assignment]
        filters.append(f)
        return f, runner

    yield filtered
    for f in filters:
        f.close()


FACE = (30.0, 20.0, 50.0, 44.0)


def hides(f: Filter, image: Any, face: tuple[float, float, float, float]) -> bool:
    """Whether the next picture comes out without the content of the face's box."""
    left, top, right, bottom = map(round, face)
    return bool(changed(image, f(image))[top:bottom, left:right].all())


def test_a_face_that_is_lost_for_a_few_frames_stays_hidden(scripted: Any) -> None:
    lost = [("computed", [])] * 20
    f, _ = scripted(("computed", [FACE]), *lost, hold_s=0.5)
    image = noisy(low=200)
    assert [hides(f, image, FACE) for _ in range(14)] == [True] * 13 + [False]
    f, _ = scripted(("computed", [FACE]), *lost, hold_s=0.0)
    assert [hides(f, image, FACE) for _ in range(2)] == [True, False]


def test_a_face_that_moves_while_frames_are_skipped_stays_hidden(scripted: Any) -> None:
    """Walking pace: a face's width in eight frames; the model runs on every fourth."""
    step = 2.5
    answers = []
    for number in range(12):
        seen = number // 4 * 4
        at = tuple(v + step * seen * (i % 2 == 0) for i, v in enumerate(FACE))
        answers.append(("computed" if number == seen else "skipped", [at]))
    f, _ = scripted(*answers)
    image = noisy(low=200)
    for number in range(12):
        at = tuple(v + step * number * (i % 2 == 0) for i, v in enumerate(FACE))
        assert hides(f, image, at), number  # type: ignore[arg-type]


def test_a_damaged_picture_is_computed_itself_and_never_reused(scripted: Any) -> None:
    f, runner = scripted(*[("computed", [FACE])] * 4)
    image = noisy()
    tick = Fraction(1, 25)
    for number, corrupt in enumerate((False, True, False, False)):
        f(Frame(image, number, number / 25, number, tick, corrupt=corrupt))
    assert [frame.corrupt for frame in runner.frames] == [False] * 4
    assert [frame.discontinuity for frame in runner.frames] == [False, True, True, False]


def test_a_picture_that_could_not_be_analysed_is_not_returned(network: Path) -> None:
    class Broken:
        def step(self, frame: Frame) -> StepResult:
            raise ModelError("out of memory")

        def close(self) -> None:
            """Nothing to give back."""

    with Filter(network, effect="blur") as f:
        f._runner = Broken()  # type: ignore[assignment]
        with pytest.raises(ModelError, match="out of memory"):
            f(noisy())


@pytest.mark.parametrize("probable", [False, True])
def test_segments_are_hidden_and_old_ones_are_widened(network: Path, probable: bool) -> None:
    pixels = np.zeros(SIZE, np.float32 if probable else np.uint8)
    pixels[20:40, 30:60] = 1
    mask = Mask(pixels, ("person",) if probable else ("ground", "person"))

    class Segmenting:
        kind: Kind = "computed"

        def step(self, frame: Frame) -> StepResult:
            age = 0.0 if self.kind == "computed" else 0.2
            result = mask.with_evidence(Evidence("reused" if age else "computed", age))
            return StepResult(frame, result, self.kind, 1.0, None, None, {})

        def close(self) -> None:
            """Nothing to give back."""

    image = noisy()
    with Filter(network, effect="mask") as f:
        f._runner = runner = Segmenting()  # type: ignore[assignment]
        fresh = changed(image, f(image))
        runner.kind = "skipped"
        stale = changed(image, f(image))
    assert fresh[20:40, 30:60].all()
    assert not fresh[:17].any()
    assert stale.sum() > fresh.sum()


def test_a_filter_is_made_from_checked_settings(network: Path) -> None:
    effect_settings, settings = EffectSettings("mask", hold_s=0.0), Settings("off")
    with Filter.from_settings(zoo.load(str(network)), effect_settings, settings) as f:
        image = noisy()
        assert changed(image, f(image)).any()
