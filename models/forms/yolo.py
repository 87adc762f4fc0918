"""How the exports of the YOLO family are recognised."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np

from stillframe.models.decoders import boxes, yolo
from stillframe.models.forms.inspection import Seen
from stillframe.models.forms.rule import (
    UNIT,
    FormRow,
    Shape,
    form_for,
    known,
    known_shapes,
    labels_for,
    listed_labels,
)
from stillframe.models.model import Decoder, Form, Preprocessing

ULTRALYTICS = replace(UNIT, fit="letterbox", fill=114)
MEGVII = Preprocessing(order="bgr", fit="letterbox", align="corner", fill=114)

V5_ANCHORS = 3  # boxes a cell
KEY_POINTS = (17, 3)  # of a person, and numbers of each, where the file does not say


def _is(seen: Seen, *kinds: str) -> bool:
    """Does the file's own word for its task, if it has one, agree?"""
    return seen.metadata.get("task", kinds[0]) in kinds


def _one(seen: Seen) -> Shape:
    """The shape (1, rows, depth) or (1, depth, rows) of the only output, or ()."""
    shapes = known_shapes(seen, 3)
    return shapes[0] if shapes else ()


def _rows(seen: Seen, anchors: int, least: int) -> int:
    """Depth of (1, rows, depth) when every cell has that many rows; else 0."""
    shape = _one(seen)
    if not shape or shape[2] < least or not _is(seen, "detect"):
        return 0
    return shape[2] if yolo.strides_of(shape[1], seen.size, anchors) else 0


def _columns(seen: Seen, shape: Shape, least: int) -> int:
    """Depth of (1, depth, cells), or of (1, cells, depth) where nothing else has so few; else 0."""
    if not shape:
        return 0
    _, first, second = shape
    if first >= least and yolo.strides_of(second, seen.size):
        return first
    return second if second >= least and yolo.strides_of(first, seen.size) else 0


def _decoded_in_graph(seen: Seen) -> bool:
    """Are the centres of one-row-a-cell boxes pixels, not parts of a cell?"""
    centres = seen.first_answer[0][0, :, :2]
    grid = yolo.cells(seen.size, yolo.strides_of(len(centres), seen.size) or yolo.STRIDES)
    from_cell = np.abs(centres / grid[:, 2:] - grid[:, :2])
    return bool(np.median(from_cell) < np.median(np.abs(centres)))


def _with_rows(decoder: Decoder, how: Preprocessing, confidence: float) -> Callable[[Seen], Form]:
    def form(seen: Seen) -> Form:
        labels = labels_for(seen, _one(seen)[2] - 5)
        return form_for(seen, "detection", decoder, labels, how, confidence=confidence)

    return form


def _v8(seen: Seen) -> Form:
    labels = labels_for(seen, _columns(seen, _one(seen), 5) - 4)
    return form_for(
        seen, "detection", yolo.yolo_v8, labels, ULTRALYTICS, confidence=0.25, overlap=0.7
    )


def _beside_masks(seen: Seen) -> tuple[Shape, int] | None:
    """The boxes' shape and the number of prototypes, when that is what the outputs are."""
    shapes = sorted(map(known, seen.shapes), key=len)
    if [len(s) for s in shapes] != [3, 4]:
        return None
    rows, (_, kinds, height, width) = shapes
    quarter = seen.size[0] // 4, seen.size[1] // 4
    return (rows, kinds) if (height, width) == quarter and _is(seen, "segment") else None


def _masks(seen: Seen, version: int) -> int:
    """How many classes there are besides the masks' coefficients; 0 for another form.

    Versions 5 and 8 are as their names; 26 stands for boxes listed in the graph.
    """
    beside = _beside_masks(seen)
    if beside is None:
        return 0
    shape, kinds = beside
    depth = {
        5: shape[2] - 5 if yolo.strides_of(shape[1], seen.size, V5_ANCHORS) else 0,
        8: _columns(seen, shape, 5 + kinds) - 4,
        26: shape[2] - 5 if shape[2] == 6 + kinds else 0,
    }[version]
    return max(0, depth - kinds)


def _masks_form(decoder: Decoder, version: int, overlap: float) -> Callable[[Seen], Form]:
    def form(seen: Seen) -> Form:
        listed = version == 26
        labels = listed_labels(seen) if listed else labels_for(seen, _masks(seen, version))
        return form_for(
            seen, "detection", decoder, labels, ULTRALYTICS, confidence=0.25, overlap=overlap
        )

    return form


def _points(seen: Seen) -> tuple[int, int]:
    """Key points, and numbers of each."""
    match seen.metadata.get("kpt_shape"):
        case [int(count), (2 | 3) as per_point]:
            return count, per_point
    return KEY_POINTS


def _says_pose(seen: Seen) -> bool:
    return seen.metadata.get("task") == "pose"


def _v8_points(seen: Seen) -> Form:
    points, per_point = _points(seen)
    labels = labels_for(seen, _columns(seen, _one(seen), 5) - 4 - points * per_point)
    decoder = partial(yolo.yolo_v8_points, per_point=per_point)
    return form_for(seen, "detection", decoder, labels, ULTRALYTICS, confidence=0.25, overlap=0.7)


def _listed_points(seen: Seen) -> Form:
    decoder = partial(boxes.end_to_end_points, per_point=_points(seen)[1])
    return form_for(seen, "detection", decoder, listed_labels(seen), ULTRALYTICS, confidence=0.25)


def _pose_depth(seen: Seen, before: int) -> int:
    """How many numbers a box has besides its key points and those before them."""
    points, per_point = _points(seen)
    return before + points * per_point


ROWS: tuple[FormRow, ...] = (
    FormRow(
        "yolov5-seg",
        "detection",
        "boxes 1x(3 a cell)x(5 + classes + k) and prototypes 1xkx(H/4)x(W/4)",
        lambda seen: _masks(seen, 5) > 0,
        _masks_form(yolo.yolo_v5_masks, 5, 0.45),
    ),
    FormRow(
        "yolov8-seg",
        "detection",
        "boxes 1x(4 + classes + k)xcells and prototypes 1xkx(H/4)x(W/4)",
        lambda seen: _masks(seen, 8) > 0,
        _masks_form(yolo.yolo_v8_masks, 8, 0.7),
    ),
    FormRow(
        "yolo26-seg",
        "detection",
        "listed boxes 1xnx(6 + k) and prototypes 1xkx(H/4)x(W/4)",
        lambda seen: _masks(seen, 26) > 0,
        _masks_form(boxes.end_to_end_masks, 26, 0.7),
    ),
    FormRow(
        "yolov8-pose",
        "detection",
        "1x(4 + classes + key points)xcells, and metadata that says so",
        lambda seen: _says_pose(seen) and _columns(seen, _one(seen), _pose_depth(seen, 5)) > 0,
        _v8_points,
    ),
    FormRow(
        "yolo26-pose",
        "detection",
        "listed boxes 1xnx(6 + key points), and metadata that says so",
        lambda seen: (
            _says_pose(seen) and bool(_one(seen)) and _one(seen)[2] == _pose_depth(seen, 6)
        ),
        _listed_points,
    ),
    FormRow(
        "yolov5",
        "detection",
        "1x(3 a cell)x(5 + classes), decoded in the graph; YOLOv7 too",
        lambda seen: _rows(seen, V5_ANCHORS, 6) > 0,
        _with_rows(yolo.yolo_v5, ULTRALYTICS, 0.25),
    ),
    FormRow(
        "yolov6",
        "detection",
        "1xcellsx(5 + classes), decoded in the graph",
        lambda seen: _rows(seen, 1, 6) > 0 and _decoded_in_graph(seen),
        _with_rows(yolo.yolo_v5, ULTRALYTICS, 0.3),
    ),
    FormRow(
        "yolox",
        "detection",
        "1xcellsx(5 + classes), centres as parts of a cell",
        lambda seen: _rows(seen, 1, 6) > 0,
        _with_rows(yolo.yolox, MEGVII, 0.3),
    ),
    FormRow(
        "yolov8",
        "detection",
        "1x(4 + classes)xcells; YOLOv9, v11 and v12 too",
        lambda seen: _is(seen, "detect") and _columns(seen, _one(seen), 5) > 0,
        _v8,
    ),
)
