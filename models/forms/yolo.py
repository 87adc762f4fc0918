"""Rules for the exports of the YOLO family."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from stillframe.models.decoders import boxes, rotated, yolo
from stillframe.models.forms.inspection import InspectedModel
from stillframe.models.forms.rule import (
    UNIT,
    FormRule,
    Match,
    Shape,
    fixed_shape,
    form_for,
    labels_for,
    labels_or_numbers,
    own_labels,
)
from stillframe.models.model import Decoder, Form, Preprocessing

ULTRALYTICS = replace(UNIT, fit="letterbox", fill=114)
MEGVII = Preprocessing(order="bgr", fit="letterbox", align="corner", fill=114)

V5_ANCHORS = 3  # boxes per cell
DEFAULT_KEY_POINTS = (17, 3)  # (key points, numbers per point) of COCO's persons
DOTA_CLASSES = 15
"""Of the aerial images that published oriented boxes are trained on."""
RAW_HEAD_RANK = 5
"""Of raw heads (1, anchors, h, w, depth), which older exports of YOLOv5 have beside the boxes."""


def _task_allows(model: InspectedModel, task: str) -> bool:
    """The metadata names this task, or none."""
    return bool(model.metadata.get("task", task) == task)


def _named(model: InspectedModel, classes: int, task: str) -> bool:
    """The metadata names this task, or that many classes."""
    return model.metadata.get("task") == task or len(own_labels(model)) == classes > 0


def _only_shape(model: InspectedModel) -> Shape:
    """The shape (1, rows, depth) or (1, depth, rows) of the only output that holds boxes, or ()."""
    shapes = [fixed_shape(shape) for shape in model.shapes]
    if not shapes or len(shapes[0]) != 3 or shapes[0][0] != 1:
        return ()
    return shapes[0] if all(len(shape) == RAW_HEAD_RANK for shape in shapes[1:]) else ()


def _row_depth(model: InspectedModel, anchors: int, minimum: int) -> int:
    """Depth of an output (1, rows, depth) that has `anchors` rows a cell; 0 for any other."""
    shape = _only_shape(model)
    if not shape or shape[2] < minimum or not _task_allows(model, "detect"):
        return 0
    return shape[2] if yolo.strides_of(shape[1], model.size, anchors) else 0


def _rows(anchors: int, decoded: bool | None = None) -> Callable[[InspectedModel], Match]:
    """Of versions with objectness. decoded: whether centres are in pixels; None: either way."""

    def matches(model: InspectedModel) -> Match:
        depth = _row_depth(model, anchors, 6)
        if not depth or (own_labels(model) and len(own_labels(model)) != depth - 5):
            return Match.NONE
        if decoded is not None and _decoded_in_graph(model) != decoded:
            return Match.NONE
        return Match.NAMED if _named(model, depth - 5, "detect") else Match.SIZE

    return matches


def _column_depth(model: InspectedModel, shape: Shape, minimum: int) -> int:
    """Depth of an output (1, depth, cells) or (1, cells, depth), at least minimum; else 0."""
    if not shape:
        return 0
    _, first, second = shape
    if first >= minimum and yolo.strides_of(second, model.size):
        return first
    return second if second >= minimum and yolo.strides_of(first, model.size) else 0


def _decoded_in_graph(model: InspectedModel) -> bool:
    """The centres of one-row-a-cell boxes are pixels rather than offsets within the cell."""
    centres = model.sample_outputs[0][0, :, :2]
    grid = yolo.cells(model.size, yolo.strides_of(len(centres), model.size) or yolo.STRIDES)
    distance_to_cell = np.abs(centres / grid[:, 2:] - grid[:, :2])
    return bool(np.median(distance_to_cell) < np.median(np.abs(centres)))


def _row_form(
    decoder: Decoder, preprocessing: Preprocessing, confidence: float
) -> Callable[[InspectedModel], Form]:
    def form(model: InspectedModel) -> Form:
        labels = labels_for(model, _only_shape(model)[2] - 5)
        return form_for(model, "detection", decoder, labels, preprocessing, confidence=confidence)

    return form


def _v8_classes(model: InspectedModel, extra: int) -> int:
    """Number of classes of (1, 4 + classes + extra, cells), or the last two exchanged; else 0."""
    return max(0, _column_depth(model, _only_shape(model), 5 + extra) - 4 - extra)


def _is_v8(model: InspectedModel) -> Match:
    classes = _v8_classes(model, 0)
    if not classes or not _task_allows(model, "detect"):
        return Match.NONE
    if _named(model, classes, "detect"):
        return Match.NAMED
    # Rows of objectness and classes look the same; they are far more common than exchanged axes.
    exchanged = _only_shape(model)[2] == classes + 4
    objectness = exchanged and classes > 1
    return Match.SHAPE if objectness else Match.SIZE


def _v8(model: InspectedModel) -> Form:
    labels = labels_for(model, _v8_classes(model, 0))
    return form_for(
        model, "detection", yolo.yolo_v8, labels, ULTRALYTICS, confidence=0.25, overlap=0.7
    )


def _is_oriented(model: InspectedModel) -> Match:
    classes = _v8_classes(model, 1)
    if not classes or not _task_allows(model, "obb"):
        return Match.NONE
    if model.metadata.get("task") == "obb":  # names alone may be those of one class more
        return Match.NAMED
    return Match.SIZE if classes == DOTA_CLASSES else Match.POSSIBLE


def _oriented(model: InspectedModel) -> Form:
    labels = labels_for(model, _v8_classes(model, 1))
    decoder = rotated.yolo_v8_oriented
    return form_for(model, "detection", decoder, labels, ULTRALYTICS, confidence=0.25, overlap=0.7)


def _is_listed_oriented(model: InspectedModel) -> Match:
    shape = _only_shape(model)
    if not shape or shape[2] != 7 or not _task_allows(model, "obb"):
        return Match.NONE
    return Match.NAMED if model.metadata.get("task") == "obb" else Match.SHAPE


def _listed_oriented(model: InspectedModel) -> Form:
    labels, decoder = labels_or_numbers(model), rotated.end_to_end_oriented
    return form_for(model, "detection", decoder, labels, ULTRALYTICS, confidence=0.25)


def _mask_outputs(model: InspectedModel) -> tuple[Shape, int] | None:
    """(shape of the boxes, number of mask prototypes); None for other outputs."""
    shapes = sorted(map(fixed_shape, model.shapes), key=len)
    if [len(s) for s in shapes] != [3, 4]:
        return None
    rows, (_, prototypes, height, width) = shapes
    quarter = model.size[0] // 4, model.size[1] // 4
    return (
        (rows, prototypes)
        if (height, width) == quarter and _task_allows(model, "segment")
        else None
    )


def _mask_classes(model: InspectedModel, version: int) -> int:
    """Number of classes of a segmentation export of this YOLO version; 0 for any other model.

    Versions 5 and 8 have candidate boxes, 26 has boxes already suppressed in the graph.
    """
    outputs = _mask_outputs(model)
    if outputs is None:
        return 0
    shape, prototypes = outputs
    depth = {
        5: shape[2] - 5 if yolo.strides_of(shape[1], model.size, V5_ANCHORS) else 0,
        8: _column_depth(model, shape, 5 + prototypes) - 4,
        26: shape[2] - 5 if shape[2] == 6 + prototypes else 0,
    }[version]
    return max(0, depth - prototypes)


def _has_masks(version: int) -> Callable[[InspectedModel], Match]:
    def matches(model: InspectedModel) -> Match:
        classes = _mask_classes(model, version)
        if not classes:
            return Match.NONE
        named = version != 26 and len(own_labels(model)) == classes
        return Match.NAMED if named else Match.SIZE

    return matches


def _masks_form(decoder: Decoder, version: int, overlap: float) -> Callable[[InspectedModel], Form]:
    def form(model: InspectedModel) -> Form:
        listed = version == 26
        labels = (
            labels_or_numbers(model) if listed else labels_for(model, _mask_classes(model, version))
        )
        return form_for(
            model, "detection", decoder, labels, ULTRALYTICS, confidence=0.25, overlap=overlap
        )

    return form


def _key_point_shape(model: InspectedModel) -> tuple[int, int]:
    """(key points, numbers per point), from the metadata if it has them."""
    match model.metadata.get("kpt_shape"):
        case [int(count), (2 | 3) as per_point]:
            return count, per_point
    return DEFAULT_KEY_POINTS


def _pose_match(model: InspectedModel, fits: bool) -> Match:
    if not fits or not _task_allows(model, "pose"):
        return Match.NONE
    return Match.NAMED if model.metadata.get("task") == "pose" else Match.SIZE


def _is_pose(model: InspectedModel) -> Match:
    """Without metadata only the key points of one class, which are COCO's persons."""
    depth = _column_depth(model, _only_shape(model), _pose_depth(model, 5))
    classes = depth - _pose_depth(model, 4)
    fits = classes > 0 if model.metadata.get("task") == "pose" else classes == 1
    return _pose_match(model, fits)


def _is_listed_pose(model: InspectedModel) -> Match:
    shape = _only_shape(model)
    return _pose_match(model, bool(shape) and shape[2] == _pose_depth(model, 6))


def _v8_points(model: InspectedModel) -> Form:
    points, per_point = _key_point_shape(model)
    labels = labels_for(model, _column_depth(model, _only_shape(model), 5) - 4 - points * per_point)
    decoder = partial(yolo.yolo_v8_points, per_point=per_point)
    return form_for(model, "detection", decoder, labels, ULTRALYTICS, confidence=0.25, overlap=0.7)


def _listed_points(model: InspectedModel) -> Form:
    decoder = partial(boxes.end_to_end_points, per_point=_key_point_shape(model)[1])
    return form_for(
        model, "detection", decoder, labels_or_numbers(model), ULTRALYTICS, confidence=0.25
    )


def _pose_depth(model: InspectedModel, before: int) -> int:
    """Numbers of a box: those before its key points, and the key points."""
    points, per_point = _key_point_shape(model)
    return before + points * per_point


RULES: tuple[FormRule, ...] = (
    FormRule(
        "yolov5-seg",
        "detection",
        "boxes 1x(3 a cell)x(5 + classes + k) and prototypes 1xkx(H/4)x(W/4)",
        _has_masks(5),
        _masks_form(yolo.yolo_v5_masks, 5, 0.45),
    ),
    FormRule(
        "yolov8-seg",
        "detection",
        "boxes 1x(4 + classes + k)xcells and prototypes 1xkx(H/4)x(W/4)",
        _has_masks(8),
        _masks_form(yolo.yolo_v8_masks, 8, 0.7),
    ),
    FormRule(
        "yolo26-seg",
        "detection",
        "listed boxes 1xnx(6 + k) and prototypes 1xkx(H/4)x(W/4)",
        _has_masks(26),
        _masks_form(boxes.end_to_end_masks, 26, 0.7),
    ),
    FormRule(
        "yolov8-pose",
        "detection",
        "1x(4 + classes + key points)xcells, key points from the metadata, or 17 of three numbers",
        _is_pose,
        _v8_points,
    ),
    FormRule(
        "yolo26-pose",
        "detection",
        "listed boxes 1xnx(6 + key points), key points from the metadata, or 17 of three numbers",
        _is_listed_pose,
        _listed_points,
    ),
    FormRule(
        "yolov8-obb",
        "detection",
        "oriented boxes 1x(4 + classes + 1)xcells, with task obb in the metadata",
        _is_oriented,
        _oriented,
    ),
    FormRule(
        "yolo26-obb",
        "detection",
        "listed oriented boxes 1xnx7: centre and size in pixels, score, class, angle",
        _is_listed_oriented,
        _listed_oriented,
    ),
    FormRule(
        "yolov5",
        "detection",
        "1x(3 a cell)x(5 + classes), decoded in the graph; YOLOv7 too",
        _rows(V5_ANCHORS),
        _row_form(yolo.yolo_v5, ULTRALYTICS, 0.25),
    ),
    FormRule(
        "yolov6",
        "detection",
        "1xcellsx(5 + classes), decoded in the graph",
        _rows(1, decoded=True),
        _row_form(yolo.yolo_v5, ULTRALYTICS, 0.3),
    ),
    FormRule(
        "yolox",
        "detection",
        "1xcellsx(5 + classes), centres as offsets within the cell",
        _rows(1, decoded=False),
        _row_form(yolo.yolox, MEGVII, 0.3),
    ),
    FormRule(
        "yolov8",
        "detection",
        "1x(4 + classes)xcells; YOLOv9, v11, v12 and v26 without its end-to-end head too",
        _is_v8,
        _v8,
    ),
)
