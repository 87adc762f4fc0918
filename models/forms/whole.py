"""Rules for what is said of the whole picture, and for depth and matting."""

from stillframe.models.decoders.classification import ClassScores
from stillframe.models.decoders.depth import depth_map
from stillframe.models.decoders.segmentation import Probability
from stillframe.models.decoders.tensors import TensorDecoder
from stillframe.models.forms.inspection import InspectedModel, output_index, reads_lines
from stillframe.models.forms.maps import (
    FLOAT_TYPES,
    common_preprocessing,
    dense_map,
    only_planes,
    sample_range,
)
from stillframe.models.forms.rule import (
    UNIT,
    FormRule,
    Match,
    fixed_shape,
    form_for,
    labels_for,
    own_labels,
)
from stillframe.models.model import IMAGENET, Form, Preprocessing

IMAGENET_CLASSES = frozenset({1000, 1001, 21841, 21843})
"""Of ImageNet, with and without a background, and of ImageNet-21k."""
ROUNDING = 1e-3
"""How far probabilities of all classes may be from 1 in all."""
HALF_BGR = Preprocessing(order="bgr", scale=1 / 255, mean=(0.5,) * 3, deviation=(0.5,) * 3)
"""What PaddleOCR feeds its recognisers."""
EMBEDDING_WORDS = ("embed", "feature", "pooler", "last_hidden")
DEPTH_WORDS = ("depth", "disp")
ALPHA_WORDS = ("pha", "alpha", "matte")


def _row_length(model: InspectedModel) -> int:
    """n of a single output (1, n) or (1, n, 1, 1); 0 for any other."""
    shape = fixed_shape(model.shapes[0])
    row = len(model.shapes) == 1 and len(shape) in (2, 4) and shape[0] == 1
    fits = row and all(side == 1 for side in shape[2:])
    return shape[1] if fits and model.outputs[0].element in FLOAT_TYPES else 0


def _is_classification(model: InspectedModel) -> Match:
    count = _row_length(model)
    if count < 2:
        return Match.NONE
    if model.metadata.get("task") == "classify" or len(own_labels(model)) == count:
        return Match.NAMED
    probabilities = model.outputs[0].producers <= {"Softmax", "Sigmoid"}
    return Match.SIZE if probabilities or count in IMAGENET_CLASSES else Match.POSSIBLE


def _classification(model: InspectedModel) -> Form:
    raw = not model.outputs[0].producers <= {"Softmax", "Sigmoid"}
    if raw:  # probabilities by other means
        low, _ = sample_range(model)
        raw = low < 0 or abs(float(model.sample_outputs[0].sum()) - 1) > ROUNDING
    labels = labels_for(model, _row_length(model))
    ultralytics = model.metadata.get("task") == "classify"
    preprocessing = UNIT if ultralytics else common_preprocessing(model)
    return form_for(model, "classification", ClassScores(raw), labels, preprocessing)


def _is_embedding(model: InspectedModel) -> Match:
    output = model.outputs[0]
    shape = fixed_shape(output.shape)
    if output.element not in FLOAT_TYPES or len(shape) not in (2, 3) or shape[0] != 1:
        return Match.NONE
    if any(word in output.name.lower() for word in EMBEDDING_WORDS):
        return Match.NAMED
    if len(shape) == 2 and output.producers <= {"LpNormalization", "ReduceL2"}:
        return Match.SIZE
    return Match.POSSIBLE if len(shape) == 2 else Match.NONE


def _embedding(model: InspectedModel) -> Form:
    names = tuple(output.name for output in model.outputs)
    return form_for(model, "tensors", TensorDecoder(names), (), common_preprocessing(model))


def _text_line(model: InspectedModel) -> Form:
    names = tuple(output.name for output in model.outputs)
    return form_for(model, "tensors", TensorDecoder(names), (), HALF_BGR)


def _is_depth(model: InspectedModel) -> Match:
    dense = dense_map(model)
    output = model.outputs[0]
    fits = dense and dense.channels == 1 and dense.scale <= 1 and output.element in FLOAT_TYPES
    if not fits:
        return Match.NONE
    if any(word in output.name.lower() for word in DEPTH_WORDS):
        return Match.NAMED
    low, high = sample_range(model)
    return Match.SHAPE if low >= 0 and high > 1 and only_planes(model) else Match.POSSIBLE


def _depth(model: InspectedModel) -> Form:
    return form_for(model, "depth", depth_map, (), IMAGENET)


def _alpha(model: InspectedModel) -> int | None:
    """Index of the output that is an opacity, by its name."""
    index = output_index(model, *ALPHA_WORDS)
    dense = None if index is None else dense_map(model, index)
    return index if dense and dense.channels == 1 and dense.scale <= 1 else None


def _matting(model: InspectedModel) -> Form:
    index = _alpha(model)
    assert index is not None  # it matches
    dense = dense_map(model, index)
    assert dense is not None  # as above
    decoder = Probability(dense.layout, output=index)
    return form_for(model, "segmentation", decoder, ("foreground",), UNIT)


RULES: tuple[FormRule, ...] = (
    FormRule(
        "classify",
        "classification",
        "scores of the whole picture 1xclasses; by names, a softmax or ImageNet's 1000 classes",
        _is_classification,
        _classification,
    ),
    FormRule(
        "depth-map",
        "depth",
        "a value for each pixel 1xhxw or 1x1xhxw, called depth or disparity",
        _is_depth,
        _depth,
    ),
    FormRule(
        "matting",
        "segmentation",
        "an opacity 1x1xHxW called pha or alpha, perhaps with the foreground; RVM, MODNet",
        lambda model: _alpha(model) is not None,
        _matting,
        Match.NAMED,
    ),
    FormRule(
        "text-line",
        "tensors",
        "scores of signs at each place of a line 1xplacesxsigns, signs in the metadata; PaddleOCR",
        lambda model: reads_lines(model.proto, model.shapes),
        _text_line,
        Match.NAMED,
    ),
    FormRule(
        "embedding",
        "tensors",
        "a vector 1xn, or one a token 1xtokensxn, called an embedding or a feature",
        _is_embedding,
        _embedding,
    ),
)
