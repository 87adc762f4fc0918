"""Rules for detectors outside the YOLO family, and for graphs that end in a list of boxes."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from stillframe.models.decoders import boxes, picodet
from stillframe.models.decoders.detection import YOLO_ANCHORS, centerface, yolo_v3
from stillframe.models.decoders.pnet import STRIDE_PX, WINDOW_PX, pnet
from stillframe.models.decoders.text import text_lines
from stillframe.models.decoders.yolo import strides_of
from stillframe.models.forms.inspection import InspectedModel, output_index
from stillframe.models.forms.rule import (
    UNIT,
    FormRule,
    Match,
    fixed_shape,
    fixed_shapes,
    form_for,
    labels_for,
    labels_or_numbers,
    own_labels,
)
from stillframe.models.forms.yolo import ULTRALYTICS, V5_ANCHORS
from stillframe.models.model import IMAGENET, Decoder, Form, Preprocessing, Sizing

UNCHANGED = Preprocessing()
DARKNET = replace(UNIT, fit="letterbox", fill=128)
PADDLE_TEXT = Preprocessing(order="bgr", scale=1 / 255, mean=(0.5,) * 3, deviation=(0.5,) * 3)
MTCNN = Preprocessing(scale=1 / 128, mean=(127.5 / 128,) * 3)

TEXT_OUTPUTS = ("sigmoid_0.tmp_0", "fetch_name_0")  # PaddleOCR's names of its only output
NANODET_LEVELS = 3


def _is_listed(model: InspectedModel, depth: int, *ranks: int) -> bool:
    """One output, of one of these ranks, with `depth` numbers a row and batch 1 or open."""
    if len(model.shapes) != 1 or len(model.shapes[0]) not in ranks:
        return False
    *front, rows, last = model.shapes[0]
    return last == depth and all(d in (1, None) for d in front) and not _are_cells(model, rows)


def _are_cells(model: InspectedModel, rows: int | None) -> bool:
    """There is a row for each cell of the grid: candidates, not a list of what was found."""
    counts = (1, V5_ANCHORS)
    return rows is not None and any(strides_of(rows, model.size, count) for count in counts)


def _is_nms(model: InspectedModel) -> Match:
    if not _is_listed(model, 6, 2, 3) or model.metadata.get("task", "detect") != "detect":
        return Match.NONE
    named = model.metadata.get("task") == "detect" or bool(own_labels(model))
    return Match.NAMED if named else Match.SHAPE


def _listed_form(
    decoder: Decoder, preprocessing: Preprocessing, confidence: float = 0.25
) -> Callable[[InspectedModel], Form]:
    def form(model: InspectedModel) -> Form:
        labels = labels_or_numbers(model)
        return form_for(model, "detection", decoder, labels, preprocessing, confidence=confidence)

    return form


def _named_boxes(model: InspectedModel) -> boxes.NamedBoxes | None:
    """The outputs that are boxes, scores and classes by their names; None without them."""
    if "orig_target_sizes" in model.side.constants:
        return None  # `queries` has them
    box = output_index(model, "detection_boxes", "det_boxes", "boxes")
    scores = output_index(model, "detection_scores", "det_scores", "scores")
    classes = output_index(model, "detection_classes", "det_classes", "classes", "labels")
    if box is None or scores is None or classes is None:
        return None
    ranks = [len(model.shapes[index]) for index in (box, scores, classes)]
    if model.shapes[box][-1] != 4 or ranks not in ([2, 1, 1], [3, 2, 2]):
        return None
    tensorflow = "detection_boxes" in model.outputs[box].name.lower()
    return boxes.NamedBoxes(
        boxes=box,
        scores=scores,
        classes=classes,
        count=output_index(model, "num_det", "num_boxes"),
        unit="relative" if tensorflow else "pixels",
        first="y" if tensorflow else "x",
    )


def _named_boxes_form(model: InspectedModel) -> Form:
    decoder = _named_boxes(model)
    assert decoder is not None  # it matches
    preprocessing = UNCHANGED if decoder.unit == "relative" else UNIT
    if "det_boxes" in model.outputs[decoder.boxes].name.lower():
        preprocessing = ULTRALYTICS  # a YOLO that ends in EfficientNMS
    return form_for(model, "detection", decoder, labels_or_numbers(model), preprocessing)


def _is_paddle(model: InspectedModel) -> bool:
    """A list nx6 and its length, of an export that asks for the picture's scale."""
    shapes = model.shapes
    listed = len(shapes) == 2 and len(shapes[0]) == 2 and shapes[0][1] == 6
    return listed and "int" in model.outputs[1].element and "scale_factor" in model.side.constants


def _gfl(model: InspectedModel) -> picodet.GeneralizedFocal | None:
    return picodet.match_outputs([fixed_shape(shape) for shape in model.shapes], model.size)


def _gfl_form(model: InspectedModel) -> Form:
    gfl = _gfl(model)
    assert gfl is not None  # it matches
    count = fixed_shape(model.shapes[gfl.levels[0].scores])[2]
    preprocessing = UNIT if len(gfl.levels) == NANODET_LEVELS else IMAGENET
    labels = labels_for(model, count)
    return form_for(model, "detection", gfl, labels, preprocessing, confidence=0.4, overlap=0.5)


def _is_pnet(model: InspectedModel) -> bool:
    shapes = fixed_shapes(model, 4, 4)
    if not shapes:
        return False
    nhwc = model.image_input.layout == "nhwc"
    depths = {s[3] if nhwc else s[1] for s in shapes}
    sides = {s[1:3] if nhwc else s[2:4] for s in shapes}
    windows = [(side - WINDOW_PX) / STRIDE_PX + 1 for side in model.size]
    close = all(abs(a - b) < 2 for side in sides for a, b in zip(side, windows, strict=True))
    return depths == {2, 4} and len(sides) == 1 and close


def _is_centerface(model: InspectedModel) -> bool:
    shapes = fixed_shapes(model, 4, 4, 4, 4)
    sides = [(s[2] * 4, s[3] * 4) for s in shapes or []]
    return bool(
        shapes and [s[1] for s in shapes] == [1, 2, 2, 10] and set(sides) == {tuple(model.size)}
    )


def _is_text(model: InspectedModel) -> bool:
    names = (model.image_input.name, model.outputs[0].name)
    named = names in [("x", output) for output in TEXT_OUTPUTS]
    return named and fixed_shapes(model, 4) == [(1, 1, *model.size)]


def _is_yolo_v3(model: InspectedModel) -> bool:
    shapes = fixed_shapes(model, 4, 4)
    if not shapes or shapes[0][1] != shapes[1][1]:
        return False
    depth, remainder = divmod(shapes[0][1], len(YOLO_ANCHORS[16]))
    sides = {(model.size[0] // stride, model.size[1] // stride) for stride in YOLO_ANCHORS}
    return depth > 5 and not remainder and {s[2:] for s in shapes} == sides


def _yolo_v3(model: InspectedModel) -> Form:
    count = fixed_shape(model.shapes[0])[1] // len(YOLO_ANCHORS[16]) - 5
    labels = labels_for(model, count)
    return form_for(model, "detection", yolo_v3, labels, DARKNET, confidence=0.3)


def _centerface(model: InspectedModel) -> Form:
    """The network takes any size: the one in the file is left over from its export."""
    form = form_for(model, "detection", centerface, ("face",), UNCHANGED, overlap=0.3)
    return replace(form, sizing=Sizing(base=(544, 960), longest=960))


def _single_class(
    decoder: Decoder,
    label: str,
    preprocessing: Preprocessing,
    *,
    confidence: float = 0.5,
    overlap: float = 0.45,
    multiple: int = 32,
) -> Callable[[InspectedModel], Form]:
    """The form of a detector with a single class."""
    options: dict[str, Any] = {"confidence": confidence, "overlap": overlap, "multiple": multiple}
    return lambda model: form_for(model, "detection", decoder, (label,), preprocessing, **options)


RULES: tuple[FormRule, ...] = (
    FormRule(
        "nms",
        "detection",
        "listed boxes 1xnx6: corners in pixels, score, class; YOLOv10, YOLO26, exports with NMS",
        _is_nms,
        _listed_form(boxes.end_to_end, ULTRALYTICS),
    ),
    FormRule(
        "yolov7-nms",
        "detection",
        "listed boxes nx7: batch, corners in pixels, class, score",
        lambda model: _is_listed(model, 7, 2, 3),
        _listed_form(boxes.yolo_v7_end_to_end, ULTRALYTICS),
    ),
    FormRule(
        "detection-output",
        "detection",
        "listed boxes 1x1xnx7: batch, class, score, relative corners (0..1)",
        lambda model: _is_listed(model, 7, 4),
        _listed_form(boxes.detection_output, UNCHANGED, 0.5),
    ),
    FormRule(
        "nms-parts",
        "detection",
        "outputs named boxes (nx4), scores and classes or labels, each with or without a batch",
        lambda model: _named_boxes(model) is not None,
        _named_boxes_form,
        Match.NAMED,
    ),
    FormRule(
        "paddle",
        "detection",
        "listed boxes nx6: class, score, corners in pixels; and their number; PaddleDetection",
        _is_paddle,
        _listed_form(boxes.paddle, IMAGENET, 0.5),
        Match.NAMED,
    ),
    FormRule(
        "picodet",
        "detection",
        "for each stride 1xcellsxclasses and 1xcellsx(4 * 8, 11 or 17); NanoDet too",
        lambda model: _gfl(model) is not None,
        _gfl_form,
        Match.SIZE,
    ),
    FormRule(
        "pnet",
        "detection",
        "offsets of depth 4 and probabilities of depth 2 for each 12x12 window, two pixels apart",
        _is_pnet,
        _single_class(pnet, "face", MTCNN, confidence=0.6, overlap=0.5, multiple=2),
        Match.SIZE,
    ),
    FormRule(
        "yolov3-tiny",
        "detection",
        "two maps 1x3(5 + classes) at strides 16 and 32, before the sigmoid, usual anchors",
        _is_yolo_v3,
        _yolo_v3,
        Match.SIZE,
    ),
    FormRule(
        "centerface",
        "detection",
        "four maps at a quarter of the size, of 1, 2, 2 and 10 channels",
        _is_centerface,
        _centerface,
        Match.SIZE,
    ),
    FormRule(
        "text",
        "detection",
        "a map 1x1xHxW of the probability of text, under PaddleOCR's names",
        _is_text,
        _single_class(text_lines, "text", PADDLE_TEXT),
        Match.NAMED,
    ),
)
