"""What each pixel belongs to: maps and masks, over the source's own pixels."""

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stillframe.errors import ModelError
from stillframe.models.decoders.segmentation import ClassMap, Probability, class_indices
from stillframe.models.model import Decoder, Form, Sizing, View
from stillframe.models.results import Mask

Array = NDArray[Any]
LABELS = ("ground", "person", "car")

# a source of 20x10 in the middle of 32x32, one and a half times its size
LETTERBOX = View(source=(10, 20), size=(32, 32), scale=(1.5, 1.5), offset=(1.0, 8.0))
SAME = View(source=(9, 11), size=(9, 11), scale=(1.0, 1.0))


def form(decoder: Decoder, labels: tuple[str, ...] = LABELS) -> Form:
    return Form("segmentation", decoder, Sizing((32, 32)), labels=labels)


def decoded(decoder: Decoder, outputs: list[Array], view: View, *labels: str) -> Mask:
    mask = decoder(outputs, view, form(decoder, labels or LABELS))
    assert isinstance(mask, Mask)
    return mask


def turned(values: Array) -> Array:
    """(1, C, H, W) -> (1, H, W, C)."""
    return np.ascontiguousarray(values.transpose(0, 2, 3, 1))


def test_each_pixel_belongs_to_the_greatest_of_its_channels() -> None:
    scores = np.random.default_rng(1).normal(size=(1, 3, 9, 11)).astype(np.float32)
    want = [[max(range(3), key=lambda c: scores[0, c, y, x]) for x in range(11)] for y in range(9)]
    mask = decoded(ClassMap(), [scores], SAME)
    np.testing.assert_array_equal(mask.values, want)
    assert mask.values.dtype == np.uint8
    np.testing.assert_array_equal(decoded(ClassMap("nhwc"), [turned(scores)], SAME).values, want)


def test_classes_are_enlarged_without_making_up_others() -> None:
    scores = np.zeros((1, 3, 8, 8), np.float32)  # a quarter of the input
    scores[0, 2, :, 4:] = 1
    mask = decoded(ClassMap(), [scores], LETTERBOX)
    assert mask.values.shape == (10, 20)
    assert set(np.unique(mask.values)) == {0, 2}  # never the 1 between them
    np.testing.assert_array_equal(mask.values[:, :10], 0)
    np.testing.assert_array_equal(mask.values[:, 11:], 2)


def test_what_fit_added_around_the_picture_is_cut_off() -> None:
    chance = np.zeros((1, 1, 32, 32), np.float32)
    chance[0, 0, 8:23, 1:31] = 1  # just the picture
    np.testing.assert_array_equal(decoded(Probability(), [chance], LETTERBOX, "person").values, 1)
    around = decoded(Probability(), [1 - chance], LETTERBOX, "person")
    np.testing.assert_array_equal(around.values, 0)


def test_sigmoid_is_added_where_it_is_missing_and_never_overflows() -> None:
    raw = np.array([[-1e9, -2, 0, 1, 3e38]], np.float32)
    view = View((1, 5), (1, 5), (1.0, 1.0))
    from_raw = decoded(Probability(raw=True), [raw[None, None]], view, "person")
    want = [[0, 1 / (1 + np.exp(2)), 0.5, 1 / (1 + np.exp(-1)), 1]]
    np.testing.assert_allclose(from_raw.values, want, atol=1e-6)
    from_sigmoid = decoded(
        Probability("nhwc"), [np.array([0, 0.2, 0.4, 1, 1.02]).reshape(1, 1, 5, 1)], view, "x"
    )
    np.testing.assert_allclose(from_sigmoid.values, [[0, 0.2, 0.4, 1, 1]], atol=1e-6)


def test_result_does_not_change_when_the_engine_reuses_its_memory() -> None:
    chance = np.full((1, 1, 9, 11), 0.25, np.float32)
    scores = np.zeros((1, 3, 9, 11), np.float32)
    whole = np.ones((1, 9, 11), np.uint8)
    masks = [
        decoded(Probability(), [chance], SAME, "person").values,
        decoded(ClassMap(), [scores], SAME).values,
        decoded(class_indices, [whole], SAME).values,
    ]
    chance[:], scores[0, 2], whole[:] = 0.75, 9, 2
    assert [float(values.max()) for values in masks] == [0.25, 0, 1]


@pytest.mark.parametrize("shape", [(1, 9, 11), (1, 1, 9, 11), (1, 9, 11, 1)])
def test_whole_numbers_are_classes_already(shape: tuple[int, ...]) -> None:
    which = np.random.default_rng(2).integers(0, 3, (9, 11))
    mask = decoded(class_indices, [which.reshape(shape)], SAME)
    np.testing.assert_array_equal(mask.values, which)
    assert mask.labels == LABELS


def test_share_counts_source_pixels() -> None:
    which = np.zeros((1, 9, 11), np.int64)
    which[0, :3] = 2
    summary = decoded(class_indices, [which], SAME).to_dict()["mask"]
    assert summary == {"size": [9, 11], "share": {"ground": 0.6667, "car": 0.3333}}


WRONG: list[tuple[Decoder, tuple[int, ...], int, str]] = [
    (ClassMap(), (1, 4, 9, 11), 0, "segmentation: expected outputs 1x3xhxw, got 1x4x9x11"),
    (ClassMap("nhwc"), (1, 3, 9, 11), 0, "segmentation: expected outputs 1xhxwx3, got 1x3x9x11"),
    (Probability(), (1, 2, 9, 11), 0, "mask: expected outputs 1x1xhxw, got 1x2x9x11"),
    (class_indices, (1, 9, 11), 3, "segmentation: 3 classes expected, got class 3"),
    (class_indices, (1, 9, 11, 2), 0, "segmentation: expected outputs 1xhxw, got 1x9x11x2"),
]


@pytest.mark.parametrize(("decoder", "shape", "value", "message"), WRONG)
def test_wrong_outputs_are_named(
    decoder: Decoder, shape: tuple[int, ...], value: int, message: str
) -> None:
    kind = np.int64 if decoder is class_indices else np.float32
    with pytest.raises(ModelError) as caught:
        decoder([np.full(shape, value, kind)], SAME, form(decoder))
    assert message in str(caught.value)
