"""Rules for detectors with a box for each anchor, or a map of centres: SSD, YOLO-NAS, CenterNet."""

from dataclasses import replace
from typing import Any

import numpy as np

from stillframe.models.decoders import boxes
from stillframe.models.decoders.anchors import AnchoredBoxes, anchor_sets
from stillframe.models.decoders.centernet import CenterNet
from stillframe.models.decoders.yolo import strides_of
from stillframe.models.forms.inspection import InspectedModel, output_index
from stillframe.models.forms.rule import (
    FormRule,
    Match,
    fixed_shape,
    fixed_shapes,
    form_for,
    labels_for,
)
from stillframe.models.forms.yolo import ULTRALYTICS
from stillframe.models.labels import COCO_CATEGORIES
from stillframe.models.model import Form, Preprocessing

SSD_RANGE = Preprocessing(scale=1 / 128, mean=(127 / 128,) * 3)
CENTERNET = Preprocessing(
    order="bgr",
    scale=1 / 255,
    mean=(0.408, 0.447, 0.470),
    deviation=(0.289, 0.274, 0.278),
    fit="letterbox",
)
"""Zhou's own, in the network's order."""
CENTERNET_STRIDE = 4
MAX_RELATIVE = 8.0
"""Largest relative coordinate of a box; one in pixels is far larger."""
ENDS = frozenset({"Sigmoid", "Clip", "HardSigmoid"})
"""Operators behind which a centres map is in 0..1."""


def _ssd_outputs(model: InspectedModel) -> tuple[int, int] | None:
    """Indices of the outputs (1, n, 4) boxes and (1, n, classes) scores."""
    shapes = fixed_shapes(model, 3, 3)
    if not shapes or shapes[0][1] != shapes[1][1]:
        return None
    candidates = [index for index in (0, 1) if shapes[index][2] == 4]
    if len(candidates) == 2:  # four classes: only the name tells
        named = output_index(model, "box", "loc")
        candidates = [] if named is None else [named]
    return (candidates[0], 1 - candidates[0]) if candidates else None


def _is_ssd(model: InspectedModel) -> bool:
    """The sample outputs are ordered relative corners and probabilities."""
    indices = _ssd_outputs(model)
    if indices is None:
        return False
    corners, scores = (model.sample_outputs[index] for index in indices)
    ordered = (corners[..., :2] <= corners[..., 2:] + 1e-3).mean()
    probabilities = scores.min() >= 0 and scores.max() <= 1
    return bool(probabilities and ordered > 0.99 and np.abs(corners).max() <= MAX_RELATIVE)


def _ssd(model: InspectedModel) -> Form:
    indices = _ssd_outputs(model)
    assert indices is not None  # it matches
    scores = model.sample_outputs[indices[1]][0]
    background = scores.shape[1] > 1 and bool(np.allclose(scores.sum(1), 1, atol=1e-3))
    labels = labels_for(model, scores.shape[1] - background)
    decoder = boxes.Ssd(*indices, background=background)
    return form_for(model, "detection", decoder, labels, SSD_RANGE)


def _is_yolo_nas(model: InspectedModel) -> bool:
    """Corners in pixels, one row a cell."""
    indices = _ssd_outputs(model)
    if indices is None or not strides_of(fixed_shape(model.shapes[indices[0]])[1], model.size):
        return False
    return not _is_ssd(model)


def _yolo_nas(model: InspectedModel) -> Form:
    indices = _ssd_outputs(model)
    assert indices is not None  # it matches
    labels = labels_for(model, fixed_shape(model.shapes[indices[1]])[2])
    decoder = boxes.Ssd(*indices, background=False, unit="pixels")
    preprocessing = replace(ULTRALYTICS, align="corner")
    return form_for(
        model, "detection", decoder, labels, preprocessing, confidence=0.25, overlap=0.7
    )


def _anchor_set(model: InspectedModel) -> str | None:
    indices = _ssd_outputs(model)
    if indices is None:
        return None
    sets = anchor_sets(fixed_shape(model.shapes[indices[0]])[1], model.size)
    return sets[0] if len(sets) == 1 and not _is_ssd(model) else None


def _anchored(model: InspectedModel) -> Form:
    indices, name = _ssd_outputs(model), _anchor_set(model)
    assert indices is not None and name is not None  # it matches  # noqa: PT018
    count = fixed_shape(model.shapes[indices[1]])[2] - 1
    ends = model.outputs[indices[1]].producers
    activation: Any = "softmax"
    if "Softmax" in ends:
        activation = "none"
    labels = labels_for(model, count)
    if count == len(COCO_CATEGORIES) - 1:
        labels = COCO_CATEGORIES[1:]
    decoder = AnchoredBoxes(*indices, name, activation)
    return form_for(model, "detection", decoder, labels, SSD_RANGE)


def _maps(model: InspectedModel) -> dict[str, int] | None:
    """Indices of the maps at a quarter of the size, by what they are; None for other outputs."""
    shapes = fixed_shapes(model, *(4 for _ in model.outputs))
    quarter = tuple(side // CENTERNET_STRIDE for side in model.size)
    if not shapes or len(shapes) not in (2, 3) or {shape[2:] for shape in shapes} != {quarter}:
        return None
    size, offset = output_index(model, "wh", "size"), output_index(model, "reg", "off")
    if size is None or (len(shapes) == 3) != (offset is not None) or size == offset:
        return None
    centres = next(i for i in range(len(shapes)) if i not in (size, offset))
    pairs = [shapes[i][1] for i in (size, offset) if i is not None]
    if any(depth != 2 for depth in pairs):
        return None
    return {"centre_map": centres, "size": size} | ({} if offset is None else {"offset": offset})


def _centernet(model: InspectedModel) -> Form:
    maps = _maps(model)
    assert maps is not None  # it matches
    centres = maps["centre_map"]
    labels = labels_for(model, fixed_shape(model.shapes[centres])[1])
    raw = not model.outputs[centres].producers <= ENDS
    decoder = CenterNet(centres, maps["size"], maps.get("offset"), raw)
    return form_for(model, "detection", decoder, labels, CENTERNET, confidence=0.3)


RULES: tuple[FormRule, ...] = (
    FormRule(
        "ssd",
        "detection",
        "boxes 1xnx4, relative corners (0..1), and probabilities 1xnxclasses",
        _is_ssd,
        _ssd,
        Match.SIZE,
    ),
    FormRule(
        "ssd-anchors",
        "detection",
        "offsets 1xnx4 and scores 1xnx(1 + classes) for the n anchors of ssd300, ssdlite320 or "
        "mobilenet-ssd",
        lambda model: _anchor_set(model) is not None,
        _anchored,
        Match.SIZE,
    ),
    FormRule(
        "yolo-nas",
        "detection",
        "boxes 1xcellsx4, corners in pixels, and probabilities 1xcellsxclasses",
        _is_yolo_nas,
        _yolo_nas,
        Match.SIZE,
    ),
    FormRule(
        "centernet",
        "detection",
        "maps at a quarter of the size: centres 1xclassesxhxw, wh 1x2xhxw and perhaps reg 1x2xhxw",
        lambda model: _maps(model) is not None,
        _centernet,
        Match.NAMED,
    ),
)
