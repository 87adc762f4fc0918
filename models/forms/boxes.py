"""How detectors outside the YOLO family are recognised, and boxes that a graph lists."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from stillframe.models.decoders import boxes, picodet
from stillframe.models.decoders.detection import YOLO_ANCHORS, centerface, yolo_v3
from stillframe.models.decoders.pnet import STRIDE_PX, WINDOW_PX, pnet
from stillframe.models.decoders.text import text_lines
from stillframe.models.forms.inspection import Seen
from stillframe.models.forms.rule import (
    UNIT,
    FormRow,
    form_for,
    known,
    known_shapes,
    labels_for,
    listed_labels,
)
from stillframe.models.forms.yolo import ULTRALYTICS
from stillframe.models.model import IMAGENET, Decoder, Form, Preprocessing, Sizing

AS_IT_IS = Preprocessing()
DARKNET = replace(UNIT, fit="letterbox", fill=128)
SIGNED = Preprocessing(scale=1 / 128, mean=(127 / 128,) * 3)
PADDLE_TEXT = Preprocessing(order="bgr", scale=1 / 255, mean=(0.5,) * 3, deviation=(0.5,) * 3)
MTCNN = Preprocessing(scale=1 / 128, mean=(127.5 / 128,) * 3)

TEXT_MAPS = ("sigmoid_0.tmp_0", "fetch_name_0")  # PaddleOCR's names of its only output
NANODET_LEVELS = 3
LARGEST_SHARE = 8.0
"""Of the picture, that a box may reach to; an answer in pixels is far beyond."""


def _listed(seen: Seen, depth: int, *ranks: int) -> bool:
    """One output of such a rank whose last size is depth and whose batch is one, or left open."""
    if len(seen.shapes) != 1 or len(seen.shapes[0]) not in ranks:
        return False
    *front, _, last = seen.shapes[0]
    return last == depth and all(d in (1, None) for d in front)


def _listed_form(
    decoder: Decoder, how: Preprocessing, confidence: float = 0.25
) -> Callable[[Seen], Form]:
    def form(seen: Seen) -> Form:
        labels = listed_labels(seen)
        return form_for(seen, "detection", decoder, labels, how, confidence=confidence)

    return form


def _place(seen: Seen, *words: str) -> int | None:
    """The first output whose name holds one of the words, the words in order of preference."""
    for word in words:
        for place, output in enumerate(seen.outputs):
            if word in output.name.lower():
                return place
    return None


def _parts(seen: Seen) -> boxes.Parts | None:
    """Which outputs hold the boxes, their scores and their classes, by name."""
    box = _place(seen, "detection_boxes", "det_boxes", "boxes")
    scores = _place(seen, "detection_scores", "det_scores", "scores")
    classes = _place(seen, "detection_classes", "det_classes", "classes", "labels")
    if box is None or scores is None or classes is None:
        return None
    ranks = [len(seen.shapes[place]) for place in (box, scores, classes)]
    if seen.shapes[box][-1] != 4 or ranks not in ([2, 1, 1], [3, 2, 2]):
        return None
    tensorflow = "detection_boxes" in seen.outputs[box].name.lower()
    return boxes.Parts(
        boxes=box,
        scores=scores,
        classes=classes,
        count=_place(seen, "num_det", "num_boxes"),
        unit="shares" if tensorflow else "pixels",
        first="y" if tensorflow else "x",
    )


def _parts_form(seen: Seen) -> Form:
    parts = _parts(seen)
    assert parts is not None  # it fits
    how = AS_IT_IS if parts.unit == "shares" else UNIT
    if "det_boxes" in seen.outputs[parts.boxes].name.lower():
        how = ULTRALYTICS  # EfficientNMS behind a YOLO
    return form_for(seen, "detection", parts, listed_labels(seen), how)


def _ssd_places(seen: Seen) -> tuple[int, int] | None:
    """Places of (1, n, 4) boxes and (1, n, classes) scores."""
    shapes = known_shapes(seen, 3, 3)
    if not shapes or shapes[0][1] != shapes[1][1]:
        return None
    fits = [place for place in (0, 1) if shapes[place][2] == 4]
    if len(fits) == 2:  # four classes: the name must say it
        named = _place(seen, "box", "loc")
        fits = [] if named is None else [named]
    return (fits[0], 1 - fits[0]) if fits else None


def _is_ssd(seen: Seen) -> bool:
    """Corners as shares of the picture, in order, and probabilities: so it answers."""
    places = _ssd_places(seen)
    if places is None:
        return False
    found, scores = (seen.first_answer[place] for place in places)
    ordered = (found[..., :2] <= found[..., 2:] + 1e-3).mean()
    chances = scores.min() >= 0 and scores.max() <= 1
    return bool(chances and ordered > 0.99 and np.abs(found).max() <= LARGEST_SHARE)


def _ssd(seen: Seen) -> Form:
    places = _ssd_places(seen)
    assert places is not None  # it fits
    scores = seen.first_answer[places[1]][0]
    background = scores.shape[1] > 1 and bool(np.allclose(scores.sum(1), 1, atol=1e-3))
    labels = labels_for(seen, scores.shape[1] - background)
    decoder = boxes.Ssd(*places, background=background)
    return form_for(seen, "detection", decoder, labels, SIGNED)


def _focal(seen: Seen) -> picodet.Focal | None:
    return picodet.arrangement([known(shape) for shape in seen.shapes], seen.size)


def _focal_form(seen: Seen) -> Form:
    focal = _focal(seen)
    assert focal is not None  # it fits
    count = known(seen.shapes[focal.levels[0].scores])[2]
    how = UNIT if len(focal.levels) == NANODET_LEVELS else IMAGENET
    labels = labels_for(seen, count)
    return form_for(seen, "detection", focal, labels, how, confidence=0.4, overlap=0.5)


def _is_pnet(seen: Seen) -> bool:
    shapes = known_shapes(seen, 4, 4)
    if not shapes:
        return False
    nhwc = seen.picture.layout == "nhwc"
    depths = {s[3] if nhwc else s[1] for s in shapes}
    sides = {s[1:3] if nhwc else s[2:4] for s in shapes}
    windows = [(side - WINDOW_PX) / STRIDE_PX + 1 for side in seen.size]
    near = all(abs(a - b) < 2 for have in sides for a, b in zip(have, windows, strict=True))
    return depths == {2, 4} and len(sides) == 1 and near


def _is_centerface(seen: Seen) -> bool:
    shapes = known_shapes(seen, 4, 4, 4, 4)
    sides = [(s[2] * 4, s[3] * 4) for s in shapes or []]
    return bool(
        shapes and [s[1] for s in shapes] == [1, 2, 2, 10] and set(sides) == {tuple(seen.size)}
    )


def _is_text(seen: Seen) -> bool:
    names = (seen.picture.name, seen.outputs[0].name)
    return known_shapes(seen, 4) == [(1, 1, *seen.size)] and names in [("x", m) for m in TEXT_MAPS]


def _is_yolo_v3(seen: Seen) -> bool:
    shapes = known_shapes(seen, 4, 4)
    if not shapes or shapes[0][1] != shapes[1][1]:
        return False
    depth, left = divmod(shapes[0][1], len(YOLO_ANCHORS[16]))
    sides = {(seen.size[0] // stride, seen.size[1] // stride) for stride in YOLO_ANCHORS}
    return depth > 5 and not left and {s[2:] for s in shapes} == sides


def _yolo_v3(seen: Seen) -> Form:
    count = known(seen.shapes[0])[1] // len(YOLO_ANCHORS[16]) - 5
    labels = labels_for(seen, count)
    return form_for(seen, "detection", yolo_v3, labels, DARKNET, confidence=0.3)


def _centerface(seen: Seen) -> Form:
    """Whatever size the file fixes is left over from its export: the network takes any."""
    form = form_for(seen, "detection", centerface, ("face",), AS_IT_IS, overlap=0.3)
    return replace(form, sizing=Sizing(base=(544, 960), longest=960))


def _fixed(
    decoder: Decoder,
    label: str,
    how: Preprocessing,
    *,
    confidence: float = 0.5,
    overlap: float = 0.45,
    multiple: int = 32,
) -> Callable[[Seen], Form]:
    """A form with a single class."""
    options: dict[str, Any] = {"confidence": confidence, "overlap": overlap, "multiple": multiple}
    return lambda seen: form_for(seen, "detection", decoder, (label,), how, **options)


ROWS: tuple[FormRow, ...] = (
    FormRow(
        "nms",
        "detection",
        "listed boxes 1xnx6: corners in pixels, score, class; YOLOv10, YOLO26, exports with NMS",
        lambda seen: _listed(seen, 6, 2, 3),
        _listed_form(boxes.end_to_end, ULTRALYTICS),
    ),
    FormRow(
        "yolov7-nms",
        "detection",
        "listed boxes nx7: batch, corners in pixels, class, score",
        lambda seen: _listed(seen, 7, 2, 3),
        _listed_form(boxes.batched, ULTRALYTICS),
    ),
    FormRow(
        "detection-output",
        "detection",
        "listed boxes 1x1xnx7: batch, class, score, corners as shares of the picture",
        lambda seen: _listed(seen, 7, 4),
        _listed_form(boxes.detection_output, AS_IT_IS, 0.5),
    ),
    FormRow(
        "nms-parts",
        "detection",
        "outputs named boxes (nx4), scores and classes or labels, each with or without a batch",
        lambda seen: _parts(seen) is not None,
        _parts_form,
    ),
    FormRow(
        "picodet",
        "detection",
        "for each stride 1xcellsxclasses and 1xcellsx(4 * 8, 11 or 17); NanoDet too",
        lambda seen: _focal(seen) is not None,
        _focal_form,
    ),
    FormRow(
        "ssd",
        "detection",
        "boxes 1xnx4, corners as shares of the picture, and probabilities 1xnxclasses",
        _is_ssd,
        _ssd,
    ),
    FormRow(
        "pnet",
        "detection",
        "offsets of depth 4 and chances of depth 2 for each window of 12x12, two pixels apart",
        _is_pnet,
        _fixed(pnet, "face", MTCNN, confidence=0.6, overlap=0.5, multiple=2),
    ),
    FormRow(
        "yolov3-tiny",
        "detection",
        "two maps 1x3(5 + classes) at strides 16 and 32, before the sigmoid, usual anchors",
        _is_yolo_v3,
        _yolo_v3,
    ),
    FormRow(
        "centerface",
        "detection",
        "four maps at a quarter of the size, of 1, 2, 2 and 10 channels",
        _is_centerface,
        _centerface,
    ),
    FormRow(
        "text",
        "detection",
        "a map 1x1xHxW of how likely each pixel is text, under PaddleOCR's names",
        _is_text,
        _fixed(text_lines, "text", PADDLE_TEXT),
    ),
)
