"""Rules for detection transformers: DETR, RT-DETR, D-FINE, DEIM, RF-DETR."""

from collections.abc import Callable

from stillframe.models.decoders.boxes import NamedBoxes
from stillframe.models.decoders.queries import Activation, QueryBoxes
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
from stillframe.models.labels import COCO, COCO_CATEGORIES
from stillframe.models.model import IMAGENET, Form, Preprocessing

MANY = 0.5
"""Share of the queries that find nothing in a synthetic image, at least."""
MOST_QUERIES, MOST_CLASSES = 1000, 2000


def _boxes_and_logits(model: InspectedModel) -> tuple[int, int] | None:
    """Indices of the outputs pred_boxes (1, n, 4) and logits (1, n, classes), by their names."""
    boxes, logits = output_index(model, "pred_boxes"), output_index(model, "logits")
    shapes = fixed_shapes(model, *(3 for _ in model.outputs))
    if boxes is None or logits is None or not shapes:
        return None
    return (
        (boxes, logits) if shapes[boxes][2] == 4 and shapes[boxes][1] == shapes[logits][1] else None
    )


def _no_object(model: InspectedModel, logits: int) -> bool | None:
    """Whether the last column is "no object": it then wins in most queries of a synthetic image.

    None: the sample does not tell. With a sigmoid for each class most logits are negative, and no
    class wins everywhere.
    """
    values = model.sample_outputs[logits][0]
    last = float((values.argmax(1) == values.shape[1] - 1).mean())
    if last > MANY and values.shape[1] > 1 and float((values[:, -1] > 0).mean()) > MANY:
        return True
    return False if float((values < 0).mean()) > MANY and last < MANY else None


def _is_query_model(softmax: bool) -> Callable[[InspectedModel], Match]:
    def matches(model: InspectedModel) -> Match:
        indices = _boxes_and_logits(model)
        if indices is None or _no_object(model, indices[1]) is (not softmax):
            return Match.NONE
        return Match.NAMED

    return matches


def _query_form(
    activation: Activation, preprocessing: Preprocessing
) -> Callable[[InspectedModel], Form]:
    def form(model: InspectedModel) -> Form:
        indices = _boxes_and_logits(model)
        assert indices is not None  # it matches
        count = fixed_shape(model.shapes[indices[1]])[2] - (activation == "softmax")
        decoder = QueryBoxes(*indices, activation)
        return form_for(model, "detection", decoder, _labels(model, count), preprocessing)

    return form


def _labels(model: InspectedModel, count: int) -> tuple[str, ...]:
    """91 classes are COCO's categories, numbered as in its annotations."""
    own = own_labels(model)
    if not own and count == len(COCO_CATEGORIES):
        return COCO_CATEGORIES
    return labels_for(model, count)


def _is_rf_detr(model: InspectedModel) -> bool:
    names = {output.name for output in model.outputs}
    shapes = fixed_shapes(model, *(len(shape) for shape in model.shapes))
    return bool(shapes) and {"dets", "labels"} <= names


def _rf_detr(model: InspectedModel) -> Form:
    index = {output.name: place for place, output in enumerate(model.outputs)}
    count = fixed_shape(model.shapes[index["labels"]])[2]
    decoder = QueryBoxes(index["dets"], index["labels"], "sigmoid")
    return form_for(model, "detection", decoder, _labels(model, count), IMAGENET)


def _target_boxes(model: InspectedModel) -> NamedBoxes | None:
    """labels, boxes and scores of a graph that scales boxes to `orig_target_sizes`."""
    if "orig_target_sizes" not in model.side.constants:
        return None
    named = [output_index(model, word) for word in ("boxes", "scores", "labels")]
    if None in named or len(model.outputs) != len(named):
        return None
    boxes, scores, labels = (index for index in named if index is not None)
    return NamedBoxes(boxes=boxes, scores=scores, classes=labels)


def _d_fine(model: InspectedModel) -> Form:
    decoder = _target_boxes(model)
    assert decoder is not None  # it matches
    labels = own_labels(model) or _labels_of_top_pairs(model, decoder.scores)
    return form_for(model, "detection", decoder, labels, UNIT)


def _labels_of_top_pairs(model: InspectedModel, scores: int) -> tuple[str, ...]:
    """The graph keeps the best n of n * classes pairs, which tells how many classes there are."""
    rows = model.shapes[scores][-1]
    for node in model.proto.graph.node:
        pairs = model.inferred_shape(node.input[0]) if node.op_type == "TopK" else None
        if rows and pairs and len(pairs) == 2 and pairs[1] == rows * len(COCO):
            return COCO
    return labels_or_numbers(model)


def _combined_classes(model: InspectedModel) -> int:
    """Classes of the only output (1, n, 4 + classes) with queries instead of cells; else 0."""
    shapes = fixed_shapes(model, 3)
    if not shapes or not 4 < shapes[0][2] <= MOST_CLASSES or shapes[0][1] > MOST_QUERIES:
        return 0
    if any(strides_of(side, model.size, anchors) for side in shapes[0][1:] for anchors in (1, 3)):
        return 0
    return shapes[0][2] - 4


def _is_combined(model: InspectedModel) -> Match:
    classes = _combined_classes(model)
    if not classes or model.metadata.get("task", "detect") != "detect":
        return Match.NONE
    rows = model.sample_outputs[0][0]
    # Shares of the input out of a sigmoid: a list of what was found has pixels, or zeros.
    if rows.max() > 1 or rows.min() < 0 or rows[:, :4].min() <= 0:
        return Match.NONE
    if len(own_labels(model)) == classes:
        return Match.NAMED
    return Match.SIZE if classes == len(COCO) else Match.POSSIBLE


def _combined(model: InspectedModel) -> Form:
    labels = labels_for(model, _combined_classes(model))
    return form_for(model, "detection", QueryBoxes(0, 0, "none"), labels, UNIT)


RULES: tuple[FormRule, ...] = (
    FormRule(
        "d-fine",
        "detection",
        "outputs labels, boxes and scores, input orig_target_sizes; RT-DETR, D-FINE, DEIM",
        lambda model: _target_boxes(model) is not None,
        _d_fine,
        Match.NAMED,
    ),
    FormRule(
        "rf-detr",
        "detection",
        "outputs dets 1xnx4, relative centre and size, and labels 1xnxclasses before the sigmoid",
        _is_rf_detr,
        _rf_detr,
        Match.NAMED,
    ),
    FormRule(
        "rt-detr",
        "detection",
        "outputs pred_boxes 1xnx4 and logits 1xnxclasses before the sigmoid; D-FINE too",
        _is_query_model(softmax=False),
        _query_form("sigmoid", UNIT),
    ),
    FormRule(
        "detr",
        "detection",
        "outputs pred_boxes 1xnx4 and logits 1xnx(classes + no object) before the softmax",
        _is_query_model(softmax=True),
        _query_form("softmax", IMAGENET),
    ),
    FormRule(
        "rt-detr-combined",
        "detection",
        "1xnx(4 + classes), n queries: relative centre and size, probabilities; Ultralytics",
        _is_combined,
        _combined,
    ),
)
