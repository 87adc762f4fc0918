"""Quality over a clip, against the libraries that measure the same, and against hand-made cases."""

import contextlib
import io
from typing import Any

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from stillframe.errors import QualityError
from stillframe.models.results import Detections, Mask, Picture, Tensors
from stillframe.pipeline.quality.clip import ClipJudge
from stillframe.pipeline.quality.detection import PrecisionMeter, box_similarity, soft_loss
from stillframe.pipeline.quality.masks import BorderMeter, border
from stillframe.pipeline.quality.pictures import structural_similarity

LABELS = ("cat", "dog", "eel")


def boxes(xyxy: Any, scores: Any, classes: Any = None) -> Detections:
    xyxy = np.array(xyxy, np.float32).reshape(-1, 4)
    classes = np.zeros(len(xyxy), np.int64) if classes is None else np.array(classes, np.int64)
    return Detections(xyxy, np.array(scores, np.float32).reshape(-1), classes, LABELS)


def random_frames(seed: int, count: int = 12) -> list[tuple[Detections, Detections]]:
    """Boxes with a jitter, some missed, invented or found twice; scores of all sorts."""
    rng = np.random.default_rng(seed)
    frames = []
    for _ in range(count):
        many = int(rng.integers(0, 9))
        corners = rng.uniform(0, 80, (many, 2))
        truth = np.concatenate([corners, corners + rng.uniform(4, 30, (many, 2))], 1)
        classes = rng.integers(0, 2, many)
        chosen = rng.random(many) < 0.8
        moved = truth[chosen] + rng.normal(0, 1.5, (int(chosen.sum()), 4))
        moved[:, 2:] = np.maximum(moved[:, 2:], moved[:, :2] + 1)
        more = rng.uniform(0, 80, (int(rng.integers(0, 3)), 2))
        twice = moved[: len(moved) // 2] + 0.5  # found twice: one of them is wrong
        kinds = [classes[chosen], rng.integers(0, 3, len(more)), classes[chosen][: len(twice)]]
        moved = np.concatenate([moved, np.concatenate([more, more + 12], 1), twice])
        scores = np.round(rng.random(len(moved)), 2)
        frames.append(
            (boxes(moved, scores, np.concatenate(kinds)), boxes(truth, rng.random(many), classes))
        )
    return frames


def coco(frames: list[tuple[Detections, Detections]]) -> tuple[float, float]:
    """AP at 0.5 : 0.95 and at 0.5 as the COCO tools count them."""
    tools = pytest.importorskip("faster_coco_eval")
    truth: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    for index, (result, reference) in enumerate(frames):
        for side, into in ((reference, truth), (result, detections)):
            for box, score, label in zip(side.xyxy, side.confidence, side.class_id, strict=True):
                left, top, right, bottom = (float(each) for each in box)
                row = {
                    "image_id": index, "category_id": int(label), "iscrowd": 0,
                    "bbox": [left, top, right - left, bottom - top],
                    "area": (right - left) * (bottom - top), "id": len(into) + 1,
                }  # fmt: skip
                into.append(row if into is truth else row | {"score": float(score)})
    with contextlib.redirect_stdout(io.StringIO()):
        images = [{"id": index, "height": 200, "width": 200} for index in range(len(frames))]
        kinds = [{"id": index, "name": name} for index, name in enumerate(LABELS)]
        gt = tools.COCO({"images": images, "annotations": truth, "categories": kinds})
        run = tools.COCOeval_faster(gt, gt.loadRes(detections), "bbox")
        run.evaluate()
        run.accumulate()
        run.summarize()
    return float(run.stats[0]), float(run.stats[1])


@pytest.mark.parametrize("seed", range(6))
def test_average_precision_is_that_of_the_coco_tools(seed: int) -> None:
    frames = random_frames(seed)
    meter = PrecisionMeter()
    for result, reference in frames:
        meter.add(result, reference)
    every, half = coco(frames)
    assert meter.mean() == pytest.approx(every, abs=1e-6)
    assert meter.at(0.5) == pytest.approx(half, abs=1e-6)
    assert 0.1 < half < 0.99


def test_average_precision_without_boxes() -> None:
    meter = PrecisionMeter()
    meter.add(boxes([], []), boxes([], []))
    assert (meter.at(0.5), meter.mean()) == (None, None)
    meter.add(boxes([], []), boxes([(0, 0, 9, 9)], [0.5]))
    assert meter.at(0.5) == 0.0


def test_a_class_that_shows_once_weighs_what_it_is_by_box() -> None:
    """Three of one class found in each of ten frames, and a fourth of another missed once."""
    spots = [(20 * at, 0, 20 * at + 10, 10) for at in range(4)]
    detections = boxes(spots[:3], [0.9] * 3, [0] * 3)
    meter = PrecisionMeter()
    for index in range(10):
        rare = index == 5
        meter.add(detections, boxes(spots, [0.9] * 4, [0, 0, 0, 1]) if rare else detections)
    assert meter.at(0.5) == pytest.approx(0.5)
    assert meter.at(0.5, by_box=True) == pytest.approx(30 / 31)


def test_a_page_of_text_agrees_with_itself() -> None:
    spots = [(20 * at, 0, 20 * at + 10, 10) for at in range(150)]
    page = boxes(spots, np.linspace(0.5, 0.9, 150))
    meter = PrecisionMeter()
    meter.add(page, page)
    assert meter.at(0.5) == meter.mean() == pytest.approx(1.0)


def test_soft_loss_counts_scores_shapes_and_boxes_alone() -> None:
    here, away = (0, 0, 10, 10), (50, 50, 60, 60)
    dense = boxes([here], [0.9])
    assert soft_loss(dense, dense, 0.5) == (0.0, pytest.approx(0.4))
    assert soft_loss(boxes([here], [0.7]), dense, 0.5)[0] == pytest.approx(0.2)
    assert soft_loss(boxes([(0, 0, 10, 8)], [0.9]), dense, 0.5)[0] == pytest.approx(0.2 * 0.4)
    assert soft_loss(boxes([], []), dense, 0.5)[0] == pytest.approx(0.4)
    assert soft_loss(boxes([here, away], [0.9, 0.6]), dense, 0.5)[0] == pytest.approx(0.1)
    assert soft_loss(boxes([here, away], [0.9, 0.5]), dense, 0.5)[0] == pytest.approx(0.0)


def test_likeness_of_a_frame() -> None:
    one, both = boxes([(0, 0, 10, 10)], [0.9]), boxes([(0, 0, 10, 10), (50, 50, 60, 60)], [0.9, 1])
    assert (box_similarity(one, one), box_similarity(boxes([], []), boxes([], []))) == (1.0, 1.0)
    assert box_similarity(one, both) == pytest.approx(2 / 3)
    assert box_similarity(one, boxes([], [])) == 0.0


@pytest.mark.parametrize("noise", [0, 3, 40])
def test_structural_similarity_is_that_of_scikit_image(noise: int) -> None:
    metrics = pytest.importorskip("skimage.metrics")
    rng = np.random.default_rng(1)
    image = cv2.GaussianBlur(rng.integers(0, 256, (37, 52, 3)).astype(np.uint8), (5, 5), 2)
    other = np.clip(image + rng.normal(0, noise, image.shape), 0, 255).astype(np.uint8)
    expected = metrics.structural_similarity(
        image, other, channel_axis=2, gaussian_weights=True, sigma=1.5,
        use_sample_covariance=False, data_range=255,
    )  # fmt: skip
    assert structural_similarity(image, other) == pytest.approx(expected, abs=2e-5)


def test_pictures_of_two_sizes_are_reported() -> None:
    with pytest.raises(QualityError, match=r"picture: expected shape \(4, 4, 3\), got \(4, 5, 3\)"):
        structural_similarity(np.zeros((4, 5, 3), np.uint8), np.zeros((4, 4, 3), np.uint8))


def square(left: int, size: int = 20) -> Mask:
    values = np.zeros((60, 80), np.uint8)
    values[20 : 20 + size, left : left + size] = 1
    return Mask(values, ("room", "cat"))


def plain_border_f(ours: NDArray[np.bool_], theirs: NDArray[np.bool_], radius: int) -> float:
    """Every border pixel looked for one by one, within a disk."""
    disk = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2)
    reach = np.argwhere(disk) - radius
    a, b = ({tuple(each) for each in np.argwhere(border(side))} for side in (ours, theirs))

    def met(some: Any, others: Any) -> float:
        near = [p for p in some if any((p[0] + y, p[1] + x) in others for y, x in reach)]
        return len(near) / len(some)

    precision, recall = met(a, b), met(b, a)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


@pytest.mark.parametrize("shift", [0, 1, 2, 3, 7])
def test_borders_are_met_within_a_disk(shift: int) -> None:
    meter = BorderMeter()
    meter.add(square(30 + shift, 20), square(30))
    inside = square(30 + shift, 20).values == 1
    assert meter.value == pytest.approx(plain_border_f(inside, square(30).values == 1, 1))
    assert (meter.value == 1) == (shift <= 1)


def test_no_border_at_all_agrees() -> None:
    meter = BorderMeter()
    meter.add(Mask(np.zeros((9, 9), np.uint8), ("room",)), Mask(np.zeros((9, 9), np.uint8), ("a",)))
    assert meter.value == 1.0


def test_a_result_that_trails_by_two_frames_is_two_frames_stale() -> None:
    judge = ClipJudge()
    seen = [boxes([(8 * i, 0, 8 * i + 20, 20)], [0.9]) for i in range(10)]
    for index, dense in enumerate(seen):
        judge.add(seen[max(0, index - 2)], dense, index / 10)
    assert judge.figures()["stale_p95_s"] == pytest.approx(0.2)
    assert judge.figures()["stale_s"] == pytest.approx((0 + 0.1 + 8 * 0.2) / 10)


def test_missed_boxes_and_ghosts_are_counted_a_minute() -> None:
    judge = ClipJudge()
    dense, other = boxes([(0, 0, 9, 9)], [0.9]), boxes([(40, 40, 49, 49)], [0.9])
    for index in range(30):  # 3 s
        alone = judge.add(other if index < 6 else dense, dense, index / 10)
        assert alone == (0.0 if index < 6 else 1.0)
    figures = judge.figures()
    assert figures["missed_per_minute"] == figures["ghosts_per_minute"] == pytest.approx(6 * 20)
    assert figures["quality"] == figures["f1"] == pytest.approx(24 / 30)
    assert figures["boxes"] == 30


def test_an_empty_scene_agrees_and_its_precision_is_not_defined() -> None:
    judge = ClipJudge()
    for index in range(3):
        judge.add(boxes([], []), boxes([], []), float(index))
    figures = judge.figures()
    assert (figures["quality"], figures["ap"], figures["boxes"], figures["loss"]) == (
        1.0,
        None,
        0,
        0.0,
    )
    assert ClipJudge().figures()["quality"] == 1.0


def test_figures_of_the_other_tasks() -> None:
    image = np.full((20, 20, 3), 100, np.uint8)
    picture = ClipJudge()
    picture.add(Picture(image), Picture(image), 0.0)
    assert picture.figures() | {"psnr": 99.0, "ssim": 1.0} == picture.figures()
    mask = ClipJudge()
    mask.add(square(30), square(40), 0.0)
    figures = mask.figures()
    assert (figures["kind"], 0 < float(figures["border_f"] or 0) < 1) == ("miou", True)
    raw = ClipJudge()
    for ours in ([[0.1, 0.9]], [[0.9, 0.1]]):
        raw.add(Tensors({"y": np.array(ours)}), Tensors({"y": np.array([[0.2, 0.8]])}), 0.0)
    assert raw.figures()["top1"] == 0.5
    assert raw.figures()["closeness"] == pytest.approx(
        1 - float(raw.figures()["relative_error"] or 9)
    )


def test_pictures_are_on_the_scale_of_the_others() -> None:
    rng = np.random.default_rng(3)
    image = rng.integers(0, 256, (40, 40, 3)).astype(np.uint8)
    judge = ClipJudge()
    qualities = [
        judge.add(Picture(each), Picture(image), float(index))
        for index, each in enumerate((image, image // 2, 255 - image))
    ]
    assert qualities[0] == 1.0
    assert all(0 <= each < 1 for each in qualities[1:])
    figures = judge.figures()
    assert (
        figures["quality"]
        == figures["kept"]
        == figures["ssim"]
        == pytest.approx(np.mean(qualities))
    )
    assert figures["strict"] == figures["psnr"]
