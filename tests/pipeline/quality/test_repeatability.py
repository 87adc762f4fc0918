"""The noise of a camera, measured and added again."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from stillframe.models import zoo
from stillframe.pipeline.quality.repeatability import LEAST_LEVEL, CameraNoise, RepeatMeter, noisy
from tests import networks

Image = NDArray[np.uint8]


def scene(height: int = 120, width: int = 160) -> Image:
    rng = np.random.default_rng(0)
    image = rng.integers(40, 215, (height, width, 3)).astype(np.uint8)
    return np.asarray(cv2.GaussianBlur(image, (9, 9), 3), np.uint8)


@pytest.mark.parametrize("level", [0.5, 1.0, 4.0])
def test_noise_is_of_the_level_and_repeatable(level: float) -> None:
    image = scene()
    before = image.copy()
    once, again, other = (noisy(image, level, seed) for seed in ((1, 2), (1, 2), (1, 3)))
    assert (once == again).all()
    assert (once != other).any()
    assert (image == before).all()
    difference = once.astype(float) - image
    assert difference.mean() == pytest.approx(0, abs=0.02)
    assert difference.std() == pytest.approx(np.hypot(level, 12**-0.5), rel=0.03)  # rounded


def test_black_and_white_do_not_wrap_around() -> None:
    image = np.zeros((20, 20, 3), np.uint8)
    image[10:] = 255
    shot = noisy(image, 3.0, 0)
    assert shot[:10].max() < 20
    assert shot[10:].min() > 235


@pytest.mark.parametrize("level", [1.0, 3.0])
def test_the_level_of_a_camera_is_measured(level: float) -> None:
    """Noise of all channels together, as most cameras have after their own processing."""
    rng, noise = np.random.default_rng(1), CameraNoise()
    for index in range(40):
        image = scene().astype(float)
        image += rng.normal(0, level, (*image.shape[:2], 1))
        image[20:50, 3 * index : 3 * index + 20] = 255  # something moves
        noise.add(np.clip(np.rint(image), 0, 255).astype(np.uint8))
    assert noise.level == pytest.approx(level, rel=0.2)


def test_where_no_noise_is_seen_rounding_is_left() -> None:
    noise = CameraNoise()
    assert noise.level == LEAST_LEVEL
    for _ in range(40):
        noise.add(scene())
    assert noise.level == LEAST_LEVEL


def test_another_size_begins_afresh() -> None:
    noise = CameraNoise()
    for seed in range(10):
        noise.add(noisy(scene(), 8.0, seed))
    assert noise.level > 5
    noise.add(scene(64, 64))
    assert noise.level == LEAST_LEVEL


def test_a_network_is_compared_with_itself(tmp_path: Path) -> None:
    """Its only box has the picture's brightness for a score."""
    model = zoo.load(str(networks.brightness(tmp_path / "b.onnx")), confidence=0.5)
    shape = (*model.size, 3)
    meter, calls = RepeatMeter(model, lambda feed: outputs(feed)), []

    def box(score: float) -> list[NDArray[Any]]:
        return [np.array([[2, 2, 20, 20]], np.float32), np.array([score]), np.array([0])]

    def outputs(feed: dict[str, NDArray[Any]]) -> list[NDArray[Any]]:
        calls.append(feed[model.input_name].copy())
        return box(0.9 if len(calls) < 3 else 0.0)

    assert meter.kept is None
    for dense in (True, None, True, True):
        fitted, view = model.fit(np.full(shape, 120, np.uint8))
        meter.add(fitted, view, model.decode(box(0.9), view) if dense else None)
    figures = meter.figures()
    assert len(calls) == 3
    assert (calls[0] != calls[1]).any()
    assert figures["kept"] == meter.kept == pytest.approx(0.8, abs=1e-4)  # two of three, one lost
    assert (figures["frames"], figures["noise_level"]) == (3, LEAST_LEVEL)
