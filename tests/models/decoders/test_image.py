"""Networks that answer with a picture."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from stillframe.errors import ModelError
from stillframe.models import catalog, zoo
from stillframe.models.decoders.image import VALUE_RANGES, ImageDecoder
from stillframe.models.model import Form, Model, Sizing, View
from stillframe.models.results import Picture

Array = NDArray[Any]
SAME = View((5, 7), (5, 7), (1.0, 1.0))


def shown(painter: ImageDecoder, output: Array, view: View = SAME) -> Array:
    result = painter([output], view, Form("image", painter, Sizing(view.size)))
    assert isinstance(result, Picture)
    return result.image


def drawn(size: tuple[int, int]) -> Array:
    """(H, W, 3) uint8: flat colours, edges, thin lines and text."""
    image = np.empty((*size, 3), np.uint8)
    image[:] = (200, 180, 60)
    cv2.rectangle(image, (10, 10), (size[1] // 2, size[0] // 2), (30, 90, 200), -1)
    cv2.circle(image, (2 * size[1] // 3, size[0] // 2), size[0] // 4, (220, 40, 60), -1)
    cv2.line(image, (0, size[0] - 8), (size[1], size[0] // 2), (20, 20, 20), 2)
    cv2.putText(image, "still", (20, size[0] - 20), cv2.FONT_HERSHEY_DUPLEX, 1, (250, 250, 250), 2)
    return image


@pytest.mark.parametrize("span", VALUE_RANGES)
def test_black_and_white_are_where_the_network_has_them(span: tuple[int, int]) -> None:
    black, white = span
    levels = np.linspace(black, white, 256)[:, None].repeat(3, 1).T.reshape(1, 3, 1, 256)
    view = View((1, 256), (1, 256), (1.0, 1.0))
    image = shown(ImageDecoder(black=black, white=white), levels.astype(np.float32), view)
    np.testing.assert_array_equal(image, np.arange(256)[None, :, None].repeat(3, 2))


def test_values_beyond_are_cut_off_and_the_rest_rounded() -> None:
    row = np.array([-3, -0.001, 0.4 / 255, 0.6 / 255, 254.6 / 255, 1.2, 1e9], np.float32)
    output = np.broadcast_to(row, (1, 3, 5, 7))
    want = [0, 0, 0, 1, 255, 255, 255]
    np.testing.assert_array_equal(shown(ImageDecoder(), output)[0, :, 0], want)


def test_channels_are_where_the_network_has_them() -> None:
    output = np.zeros((1, 3, 5, 7), np.float32)
    output[0, 0] = 1
    last = np.ascontiguousarray(output.transpose(0, 2, 3, 1))
    assert shown(ImageDecoder(), output)[2, 3].tolist() == [255, 0, 0]
    assert shown(ImageDecoder("nhwc"), last)[2, 3].tolist() == [255, 0, 0]
    assert shown(ImageDecoder(order="bgr"), output)[2, 3].tolist() == [0, 0, 255]


def test_enlarged_picture_keeps_only_what_lay_under_the_source() -> None:
    # a source of 20x10 in the middle of 32x32, one and a half times its size; the answer is double
    view = View((10, 20), (32, 32), (1.5, 1.5), (1.0, 8.0))
    output = np.zeros((1, 3, 64, 64), np.float32)
    output[0, :, 16:46, 2:62] = 1
    image = shown(ImageDecoder(), output, view)
    assert image.shape == (30, 60, 3)
    assert image.min() == 255


def test_picture_does_not_change_when_the_engine_reuses_its_memory() -> None:
    output = np.zeros((1, 3, 5, 7), np.float32)
    image = shown(ImageDecoder(), output)
    output[:] = 1
    assert image.max() == 0


@pytest.mark.parametrize("shape", [(1, 1, 5, 7), (1, 5, 7, 3), (3, 5, 7)])
def test_other_shapes_are_named(shape: tuple[int, ...]) -> None:
    message = r"image: expected one output of 3 channels \(nchw\), got " + "x".join(map(str, shape))
    with pytest.raises(ModelError, match=message):
        shown(ImageDecoder(), np.zeros(shape, np.float32))


def answer(model: Model, image: Array) -> Array:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(str(model.path), options)
    fitted, view = model.fit(image)
    result: Any = model.decode(session.run(None, model.feed(fitted)), view)
    assert isinstance(result, Picture)
    return result.image


def loaded(name: str, size: tuple[int, int]) -> Model:
    try:
        return zoo.load(name, input_size=size)
    except ModelError as e:
        pytest.skip(str(e))


@pytest.mark.fetch
@pytest.mark.parametrize("name", ["animevideo-x2", "span-x2"])
def test_upscaler_doubles_a_picture_and_keeps_its_colours(name: str) -> None:
    whole = drawn((160, 240))
    half = cv2.resize(whole, (120, 80), interpolation=cv2.INTER_AREA)
    image = answer(loaded(name, (80, 120)), half)
    assert image.shape == whole.shape
    plain = np.asarray(cv2.resize(half, (240, 160), interpolation=cv2.INTER_LINEAR))
    swapped = np.ascontiguousarray(image[:, :, ::-1])
    assert cv2.PSNR(image, whole) > 24 > 15 > cv2.PSNR(swapped, whole)
    assert cv2.PSNR(image, plain) > 24
    np.testing.assert_allclose(image.mean((0, 1)), whole.mean((0, 1)), atol=6)

    def sharpness(picture: Array) -> float:
        return float(cv2.Laplacian(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY), cv2.CV_64F).var())

    assert sharpness(image) > 2 * sharpness(plain)


def test_upscaler_takes_any_size_as_it_is() -> None:
    sizing = catalog.MODELS["animevideo-x2"].form.sizing
    assert sizing.for_source(353, 287) == (353, 287)
    assert sizing.for_source(994, 1768) == (360, 640)


def test_style_row_gives_a_picture_of_the_input_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STILLFRAME_CACHE", str(tmp_path))
    image = answer(loaded("style", (64, 96)), drawn((64, 96)))
    assert image.shape == (64, 96, 3)
    assert image.std() > 20
