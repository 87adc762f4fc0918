"""Effects in the stream's own planes: hidden content is gone, and nothing else changes."""

from collections.abc import Iterator

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from stillframe.models.results import Detections, Mask
from stillframe.pipeline.filter.obscure import (
    OBSCURE_METHODS,
    Area,
    ObscureStyle,
    Shape,
    box_area,
    mask_area,
)
from stillframe.pipeline.filter.overlay_yuv import draw_on_planes
from stillframe.pipeline.filter.planes import (
    FULL,
    LAYOUTS,
    LIMITED,
    MATRICES,
    RGB,
    Colours,
    Planes,
    PlanesToRgb,
    RgbToPlanes,
    likely_matrix,
    plane_views,
)
from stillframe.pipeline.media.to_rgb import RgbConverter
from tests import streams

EVERY = [*LAYOUTS, "rgb24"]
SIZE = 61, 83  # odd, so that chroma has half a sample over
BOX = 21.3, 13.7, 58.2, 44.9
BEYOND = -9.0, 30.0, 22.0, 80.0


def noise(layout: str, seed: int = 0) -> Planes:
    if layout != "rgb24":
        return streams.noise(layout, *SIZE, seed=seed)
    picture: Planes = Planes.empty(RGB, Colours(), SIZE)
    draw = np.random.default_rng(seed)
    picture.data[:] = draw.integers(0, 256, picture.data.size, dtype=np.uint8)
    return picture


def copied(picture: Planes) -> Planes:
    copy: Planes = Planes.over(
        picture.data.copy(), picture.layout, picture.colours, (picture.height, picture.width)
    )
    return copy


def per_plane(
    picture: Planes, pixels: NDArray[np.bool_]
) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """For each plane, which samples stand for any of the pixels."""
    for number, ((x, y), part) in enumerate(zip(picture.layout.shifts, picture.parts, strict=True)):
        whole = np.pad(pixels, ((0, -pixels.shape[0] % (1 << y)), (0, -pixels.shape[1] % (1 << x))))
        cells = whole.reshape(whole.shape[0] >> y, 1 << y, whole.shape[1] >> x, 1 << x)
        yield number, cells.any((1, 3))[: part.shape[0], : part.shape[1]]


def inside(box: tuple[float, float, float, float]) -> NDArray[np.bool_]:
    pixels = np.zeros(SIZE, bool)
    left, top = max(0, int(np.floor(box[0]))), max(0, int(np.floor(box[1])))
    pixels[top : int(np.ceil(box[3])), left : int(np.ceil(box[2]))] = True
    return pixels


def differs(first: NDArray[np.uint8], second: NDArray[np.uint8]) -> NDArray[np.bool_]:
    apart: NDArray[np.bool_] = first != second
    return apart.any(2) if apart.ndim == 3 else apart


@pytest.mark.parametrize("shape", ["oval", "box"])
@pytest.mark.parametrize("box", [BOX, BEYOND], ids=["within", "beyond"])
@pytest.mark.parametrize("effect", OBSCURE_METHODS)
@pytest.mark.parametrize("layout", EVERY)
def test_samples_outside_the_box_are_unchanged_and_the_middle_is_gone(
    layout: str, effect: str, box: tuple[float, float, float, float], shape: Shape
) -> None:
    before = noise(layout)
    after = copied(before)
    where = box_area(after, box, shape, soft=OBSCURE_METHODS[effect].soft)
    assert where is not None
    OBSCURE_METHODS[effect].hide(after, where, ObscureStyle())
    across, down = before.layout.cell  # samples that share their chroma share their fate
    assert where.left % across == where.top % down == 0
    if where.cover is not None:
        bare = np.zeros((-(-SIZE[0] // down), -(-SIZE[1] // across)), bool)
        rows, columns = where.cover.shape
        bare[where.top // down :, where.left // across :][:rows, :columns] = where.cover == 0
        assert bare.any()
        luma = bare.repeat(down, 0).repeat(across, 1)[: SIZE[0], : SIZE[1]]
        for number, outside in per_plane(before, luma):
            assert not differs(before.parts[number], after.parts[number])[outside].any()
    whole = (
        np.floor(box[0] / across) * across,
        np.floor(box[1] / down) * down,
        np.ceil(box[2] / across) * across,
        np.ceil(box[3] / down) * down,
    )
    for number, touched in per_plane(before, inside(whole)):
        changed = differs(before.parts[number], after.parts[number])
        assert not changed[~touched].any()
        assert changed[touched].mean() > (0.93 if shape == "box" else 0.6)


@pytest.mark.parametrize("effect", OBSCURE_METHODS)
@pytest.mark.parametrize("layout", EVERY)
def test_an_oval_grown_by_the_default_hides_the_whole_box(layout: str, effect: str) -> None:
    """The output depends on the box's content only through its averages."""
    margin = 0.3
    wide, high = BOX[2] - BOX[0], BOX[3] - BOX[1]
    grown = (
        BOX[0] - margin * wide,
        BOX[1] - margin * high,
        BOX[2] + margin * wide,
        BOX[3] + margin * high,
    )
    picture = noise(layout)
    where = box_area(picture, grown, "oval", soft=OBSCURE_METHODS[effect].soft)
    assert where is not None
    assert where.cover is not None
    hidden = cv2.resize(where.cover, None, fx=picture.layout.cell[0], fy=picture.layout.cell[1],
                        interpolation=cv2.INTER_NEAREST)  # fmt: skip
    left, top, right, bottom = (round(v) for v in BOX)
    middle = hidden[top - where.top : bottom - where.top, left - where.left : right - where.left]
    assert middle.min() > 230
    assert np.mean(middle == 255) > 0.95


@pytest.mark.parametrize("layout", EVERY)
def test_a_mask_lets_nothing_through(layout: str) -> None:
    leaving = []
    for seed in (1, 2):
        picture = noise(layout, seed)
        where = box_area(picture, BOX, "box", soft=False)
        assert where is not None
        OBSCURE_METHODS["mask"].hide(picture, where, ObscureStyle(colour=(200, 30, 90)))
        leaving.append(picture)
    for number, touched in per_plane(leaving[0], inside(BOX)):
        assert not differs(leaving[0].parts[number], leaving[1].parts[number])[touched].any()


@pytest.mark.parametrize("effect", ["blur", "pixelate"])
@pytest.mark.parametrize("side", [24, 200, 700])
def test_averages_leave_no_detail(effect: str, side: int) -> None:
    """Stripes as fine as facial features become an even grey."""
    picture = streams.even("yuv420p", 720, 720, 40)
    stripe = max(2, side // 24)
    columns = np.arange(720) // stripe % 2 * 180 + 40
    picture.parts[0][:] = columns.astype(np.uint8)
    where = box_area(picture, (5, 5, 5 + side, 5 + side), "box", soft=False)
    assert where is not None
    OBSCURE_METHODS[effect].hide(picture, where, ObscureStyle())
    left = picture.parts[0][5 + side // 4 : 5 + 3 * side // 4, 5 + side // 4 : 5 + 3 * side // 4]
    assert float(left.std()) < 12  # of 90 before


@pytest.mark.parametrize("cells", [1, 3, 9])
def test_pixelate_gives_as_many_squares_as_asked_for(cells: int) -> None:
    picture = streams.noise("gray", 200, 200)
    where = box_area(picture, (10, 10, 190, 100), "box", soft=False)
    assert where is not None
    OBSCURE_METHODS["pixelate"].hide(picture, where, ObscureStyle(cells=cells))
    part = picture.parts[0][10:100, 10:190]
    assert 1 + np.count_nonzero(np.diff(part.astype(int), axis=1).any(0)) == cells
    assert 1 + np.count_nonzero(np.diff(part.astype(int), axis=0).any(1)) == max(
        1, round(cells / 2)
    )


def test_an_oval_at_the_border_is_inscribed_in_the_whole_box() -> None:
    """Cut off first, it would be a narrower oval and leave the face's edge in view."""
    picture = streams.noise("gray", 100, 100)
    where = box_area(picture, (-40, 20, 40, 80), "oval", soft=False)
    assert where is not None
    assert where.cover is not None
    assert (where.left, where.right) == (0, 40)
    assert where.cover[30, :38].all()  # the widest row begins at the border
    assert where.cover[3, 0]


def test_boxes_outside_the_picture_and_empty_ones_have_no_area() -> None:
    picture = streams.noise("yuv420p", *SIZE)
    for box in ((-20.0, -20.0, -2.0, -2.0), (90.0, 5.0, 99.0, 9.0), (5.0, 70.0, 9.0, 90.0)):
        assert box_area(picture, box, "box", soft=False) is None


@pytest.mark.parametrize("layout", EVERY)
def test_a_segment_is_hidden_where_it_is_and_nowhere_else(layout: str) -> None:
    before = noise(layout)
    after = copied(before)
    pixels = np.zeros(SIZE, bool)
    cv2.circle(blank := pixels.astype(np.uint8), (70, 50), 15, 1, -1)
    pixels = blank.astype(bool)
    where = mask_area(after, pixels, 0.0)
    assert where is not None
    OBSCURE_METHODS["mask"].hide(after, where, ObscureStyle())
    cells = np.zeros(SIZE, bool)
    across, down = before.layout.cell
    for y, x in zip(*np.nonzero(pixels), strict=True):
        top, left = y // down * down, x // across * across
        cells[top : top + down, left : left + across] = True
    for number, touched in per_plane(before, cells):
        changed = differs(before.parts[number], after.parts[number])
        assert not changed[~touched].any()
    np.testing.assert_array_equal(
        after.parts[0][cells], after.parts[0][50, 70][None].repeat(cells.sum(), 0)
    )
    assert mask_area(after, np.zeros(SIZE, bool), 0.1) is None
    wide = mask_area(after, pixels, 0.1)
    assert isinstance(wide, Area)
    assert wide.left <= where.left - 4


# --- colours -------------------------------------------------------------------------------------


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", MATRICES)
def test_a_colour_has_the_levels_that_ffmpeg_gives_it(matrix: str, full: bool) -> None:
    colours = Colours(matrix, full)
    for colour in (
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (255, 255, 255),
        (0, 0, 0),
        (20, 160, 90),
    ):
        image = np.full((16, 16, 3), colour, np.uint8)
        planes = RgbToPlanes(LAYOUTS["yuv444p"], colours)(image)
        levels = colours.levels(colour, LAYOUTS["yuv444p"])
        for part, (level,) in zip(planes.parts, levels, strict=True):
            assert abs(int(part[8, 8]) - level) <= 2, (colour, part[8, 8], level)


@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("matrix", MATRICES)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_converting_to_planes_and_back_gives_the_same_picture(
    layout: str, matrix: str, full: bool
) -> None:
    colours = Colours(matrix, full)
    image = np.full((32, 48, 3), (180, 90, 60), np.uint8)
    image[:, 24:] = (30, 90, 200)
    if layout == "gray":
        image[...] = image.mean(2, keepdims=True)
    planes = RgbToPlanes(LAYOUTS[layout], colours)(image)
    back = PlanesToRgb(LAYOUTS[layout], colours, (32, 48))(planes)
    apart = np.abs(back.astype(int) - image)
    apart[:, 20:28] = 0  # chroma bleeds over the edge
    assert apart.max() <= 4


@pytest.mark.parametrize(("height", "number"), [(480, 5), (720, 1)])
@pytest.mark.parametrize("layout", ["yuv420p", "yuv422p", "yuv444p"])
def test_the_model_sees_the_same_rgb_as_from_any_other_source(
    layout: str, height: int, number: int
) -> None:
    picture = streams.noise(layout, 64, 96, colours=Colours(likely_matrix(height)))
    frame = av.VideoFrame(96, 64, layout)
    for into, part in zip(plane_views(frame, picture.layout), picture.parts, strict=True):
        into[:] = part
    frame.colorspace, frame.color_range = number, LIMITED
    got = PlanesToRgb(picture.layout, picture.colours, (64, 96))(picture)
    np.testing.assert_array_equal(got, RgbConverter().convert(frame))
    full = PlanesToRgb(picture.layout, Colours("bt709", True), (64, 96))(picture)
    frame.color_range, frame.colorspace = FULL, 1
    np.testing.assert_array_equal(full, RgbConverter().convert(frame))


# --- marks ---------------------------------------------------------------------------------------


def detections(*boxes: tuple[float, float, float, float], landmarks: bool = False) -> Detections:
    count = len(boxes)
    return Detections(
        xyxy=np.array(boxes, np.float32),
        confidence=np.full(count, 0.9, np.float32),
        class_id=np.arange(count) % 2,
        labels=("face", "cat"),
        landmarks=np.full((count, 5, 2), 200, np.float32) if landmarks else None,
    )


@pytest.mark.parametrize("layout", EVERY)
def test_a_box_is_drawn_in_its_colour_and_its_inside_is_untouched(layout: str) -> None:
    size = 240, 320
    before = (
        streams.even("yuv444p", *size, 120)
        if layout == "rgb24"
        else streams.even(layout, *size, 120)
    )
    if layout == "rgb24":
        before = Planes.empty(RGB, Colours(), size)
        before.data[:] = 120
    after = copied(before)
    draw_on_planes(after, detections((100, 80, 220, 200)))
    changed = differs(before.parts[0], after.parts[0])
    assert not changed[90:190, 110:210].any()
    assert not changed[205:].any()
    assert not changed[:, :94].any()
    assert changed[100:180, 100].all()
    assert changed[100:180, 219].all()
    if layout in ("yuv420p", "yuv444p"):
        rgb = PlanesToRgb(after.layout, after.colours, size)(after)
        assert np.abs(rgb[150, 100].astype(int) - (0, 158, 255)).max() <= 6


def test_boxes_that_reach_beyond_the_picture_are_clipped() -> None:
    picture = streams.noise("yuv420p", *SIZE)
    draw_on_planes(
        picture, detections((-50, -50, 500, 500), (80, 50, 83, 61), (0, 0, 0, 0), landmarks=True)
    )


@pytest.mark.parametrize("layout", EVERY)
def test_segments_are_tinted_and_the_rest_is_untouched(layout: str) -> None:
    before = noise(layout)
    pixels = np.zeros(SIZE, bool)
    pixels[20:41, 30:61] = True
    for result in (
        Mask(pixels.astype(np.uint8), ("ground", "person")),
        Mask(pixels.astype(np.float32), ("person",)),
    ):
        after = copied(before)
        draw_on_planes(after, result)
        changed = differs(before.parts[0], after.parts[0])
        assert changed[22:39, 32:59].mean() > 0.9
        assert not changed[:18].any()
        assert not changed[:, :28].any()
        assert not changed[43:].any()
