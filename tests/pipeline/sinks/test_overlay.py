"""Drawing results over pictures, at odd sizes and at the border."""

from fractions import Fraction

import numpy as np
import pytest
from numpy.typing import NDArray

from stillframe.models.model import View
from stillframe.models.results import (
    Classes,
    Depth,
    Detections,
    Evidence,
    Mask,
    Picture,
    Result,
    Tensors,
)
from stillframe.pipeline.inference.types import KINDS, Kind, StepResult
from stillframe.pipeline.media.frame import Frame
from stillframe.pipeline.sinks import overlay
from stillframe.pipeline.sinks.overlay import Overlay

Image = NDArray[np.uint8]
GREY = 120
SIZE = (181, 323)


def grey(height: int = SIZE[0], width: int = SIZE[1]) -> Image:
    return np.full((height, width, 3), GREY, np.uint8)


def boxes(*rows: tuple[float, float, float, float], points: int = 0) -> Detections:
    count = len(rows)
    landmarks = np.full((count, points, 2), 40.0, np.float32) if points else None
    return Detections(
        xyxy=np.array(rows, np.float32).reshape(-1, 4),
        confidence=np.linspace(0.9, 0.5, count, dtype=np.float32),
        class_id=np.arange(count) % 2,
        labels=("face", "a rather long name for a class"),
        landmarks=landmarks,
    )


def step(
    result: Result,
    kind: Kind = "computed",
    changed: NDArray[np.uint8] | None = None,
    image: Image | None = None,
) -> StepResult:
    picture = grey() if image is None else image
    size = changed.shape if changed is not None else picture.shape[:2]
    scale = size[1] / picture.shape[1], size[0] / picture.shape[0]
    view = View((picture.shape[0], picture.shape[1]), (size[0], size[1]), scale)
    frame = Frame(picture, 0, 0.0, 0, Fraction(1, 30))
    return StepResult(frame, result, kind, 0.25, changed, view, {})


def drawn_at(image: Image) -> NDArray[np.bool_]:
    return np.asarray((image != GREY).any(axis=2), np.bool_)


RESULTS: dict[str, Result] = {
    "no boxes": Detections.none(("face",)),
    "boxes": boxes((20, 40, 90, 120), (150, 60, 230, 140)),
    "boxes over every border": boxes((-30, -30, 20, 20), (300, 160, 400, 300), (0, 0, 323, 181)),
    "a box without area": boxes((50, 50, 50, 50)),
    "points": boxes((20, 40, 90, 120), points=5),
    "corners": boxes((20, 40, 90, 120), points=4),
    "probability": Mask(np.linspace(0, 1, 181 * 323, dtype=np.float32).reshape(SIZE), ("person",)),
    "classes": Mask(np.eye(181, 323, dtype=np.uint8), ("background", "line")),
    "classes of the frame": Classes(np.array([0.1, 0.9], np.float32), ("cat", "dog")),
    "depth": Depth(np.linspace(0, 9, 181 * 323, dtype=np.float32).reshape(SIZE)),
    "tensors": Tensors({"out": np.zeros((1, 5), np.float32)}),
    "picture": Picture(np.zeros((90, 200, 3), np.uint8)),
}


@pytest.mark.parametrize("how", ["boxes", "changed", "none"])
@pytest.mark.parametrize("name", RESULTS)
def test_every_result_is_drawn_without_touching_the_frame(name: str, how: Overlay) -> None:
    result = RESULTS[name]
    shown = step(result)
    image = overlay.render_step(shown, how)
    assert image.dtype == np.uint8
    expected = result.image.shape if isinstance(result, Picture) else (*SIZE, 3)
    assert image.shape == expected
    assert not drawn_at(shown.frame.image).any()


def test_no_overlay_is_the_frame_itself() -> None:
    shown = step(RESULTS["boxes"])
    assert overlay.render_step(shown, "none") is shown.frame.image


def test_a_box_is_drawn_on_its_border_and_not_inside() -> None:
    image = overlay.render_step(step(boxes((120, 60, 220, 160))), "boxes")
    marked = drawn_at(image)
    assert marked[60, 120:221].all()
    assert marked[160, 120:221].all()
    assert marked[60:161, 120].all()
    assert marked[60:161, 220].all()
    assert not marked[100:120, 160:180].any()
    assert not marked[170:].any()


@pytest.mark.parametrize("height", [120, 480, 2160])
def test_lines_and_letters_scale_with_the_picture(height: int) -> None:
    width = height * 16 // 9
    box = boxes((width / 4, height / 4, width / 2, height * 3 / 4))
    marked = drawn_at(overlay.draw_result(grey(height, width), box))
    middle = marked[height // 2]
    line = int(middle[: width * 3 // 8].sum())
    assert 3 <= line <= max(5, height / 90)
    above = marked[: height // 4 - height // 100, :]
    letters = int(above.any(axis=1).sum())
    assert height / 60 <= letters <= max(24, height / 12)


def test_each_class_has_its_colour() -> None:
    image = overlay.draw_result(grey(), boxes((20, 60, 90, 120), (150, 60, 230, 140)))
    assert tuple(image[90, 20]) == overlay.PALETTE[0]
    assert tuple(image[100, 150]) == overlay.PALETTE[1]


def test_a_label_stays_inside_the_picture() -> None:
    """Its plate is shifted left at the right border, and into the box at the top."""
    marked = drawn_at(overlay.draw_result(grey(), boxes((5, 1, 6, 2), (315, 1, 322, 8))))
    assert marked[0:12, 100:315].sum() > 500


def test_changed_tints_only_the_changed_pixels() -> None:
    changed = np.zeros((91, 162), np.uint8)
    changed[20:40, 100:140] = 1
    image = overlay.render_step(step(Detections.none(("face",)), "computed", changed), "changed")
    tinted = drawn_at(image)[: SIZE[0] * 3 // 4]  # below is the caption
    rows, columns = np.nonzero(tinted)
    assert abs(int(rows.min()) - 20 * 181 / 91) <= 2
    assert abs(int(rows.max()) - 40 * 181 / 91) <= 2
    assert abs(int(columns.min()) - 100 * 323 / 162) <= 2
    assert abs(int(columns.max()) - 140 * 323 / 162) <= 2
    inside = image[60, 240].astype(int)
    assert inside[0] > GREY > inside[1]


def test_changed_tints_all_of_a_new_frame_and_nothing_of_an_unchanged_one() -> None:
    none = Detections.none(("face",))
    assert drawn_at(overlay.render_step(step(none), "changed")).all()
    unchanged = step(none.with_evidence(Evidence("reused", 0.5)), "unchanged")
    assert not drawn_at(overlay.render_step(unchanged, "changed"))[: SIZE[0] * 3 // 4].any()


def test_the_tint_leaves_out_the_letterbox_bars() -> None:
    """A wide picture in a square input: only rows 70..90 of 160 show the picture."""
    changed = np.zeros((160, 160), np.uint8)
    changed[:70] = 1
    view = View((40, 320), (160, 160), (0.5, 0.5), (0.0, 70.0))
    image = overlay.tint_changes(grey(40, 320), changed, view)
    assert not drawn_at(image).any()


def test_a_mask_is_drawn_by_its_probability() -> None:
    share = np.zeros(SIZE, np.float32)
    share[50:100, 60:160] = 1
    marked = drawn_at(overlay.draw_result(grey(), Mask(share, ("person",))))
    assert marked[50:100, 60:160].all()
    assert not marked[:45].any()
    assert not marked[106:].any()


def test_detections_with_masks_show_them() -> None:
    detections = boxes((60, 50, 160, 100))
    cover = np.zeros((1, *SIZE), bool)
    cover[0, 60:90, 70:150] = True
    masked = Detections(
        detections.xyxy, detections.confidence, detections.class_id, detections.labels, masks=cover
    )
    assert drawn_at(overlay.draw_result(grey(), masked))[60:90, 70:150].all()


def test_every_result_has_a_painter_and_every_kind_a_caption() -> None:
    assert set(overlay.PAINTERS) == {type(result) for result in RESULTS.values()}
    assert set(overlay.CAPTIONS) == set(KINDS)


def test_classes_stand_in_the_corner_and_depth_is_coloured() -> None:
    image = np.full((120, 200, 3), 90, np.uint8)
    scores = np.array([0.02, 0.9, 0.08], np.float32)
    drawn = overlay.draw_result(image, Classes(scores, ("rare", "likely", "perhaps")))
    changed = np.argwhere((drawn != image).any(2))
    assert changed[:, 0].max() < 80
    one = overlay.draw_result(image, Classes(scores[:1], ("rare",)))  # the best is always drawn
    assert 0 < (one != image).any(2).sum() < len(changed)
    ramp = np.linspace(3, 9, 120 * 200, dtype=np.float32).reshape(120, 200)
    depth = overlay.draw_result(image, Depth(ramp)).astype(int).sum(2)
    assert depth[0, 0] < depth[60, 100] < depth[-1, -1]
    flat = overlay.draw_result(image, Depth(np.full((60, 100), 4, np.float32)))  # enlarged
    assert len(np.unique(flat.reshape(-1, 3), axis=0)) == 1
