"""Networks of today, as built: published counts, sane values, and the engine's answers on them."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from stillframe.errors import ModelError
from stillframe.models.architectures.architectures import ARCHITECTURES
from stillframe.models.architectures.builder import textured
from stillframe.models.catalog import MODELS
from stillframe.models.decoders.tensors import TensorDecoder
from stillframe.models.formats.side_inputs import KNOWN_CONSTANTS
from stillframe.reuse.session import ReuseSession

Size = tuple[int, int]
Feed = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Published:
    """A network as its authors count it."""

    name: str
    weights: float
    """Millions, with batch norms folded."""
    gmac: float
    """At `size`; half of what they call FLOPs."""
    size: Size
    small: Size
    """For the tests of every run."""
    outputs: Mapping[str, tuple[int, ...]]
    """At the small size."""
    attention: bool = False
    """Whether the published count includes products of queries, keys and values."""
    listed: bool = False
    """Whether the outputs are rows in the order of scores, which a last bit may exchange."""

    def __str__(self) -> str:
        return self.name


NETWORKS = (
    # Ultralytics: fused summaries, FLOPs / 2 of the tables of models
    Published("yolo11n", 2.616, 3.25, (640, 640), (128, 128), {"output0": (1, 84, 336)}),
    Published("yolo12n", 2.59, 3.25, (640, 640), (128, 128), {"output0": (1, 84, 336)}),
    Published("yolo26n", 2.409, 2.7, (640, 640), (128, 128), {"output0": (1, 300, 6)}, listed=True),
    # its authors: 20 M weights, 60 GFLOPs
    Published(
        "rtdetr-r18",
        20.0,
        30.0,
        (640, 640),
        (96, 96),
        {"logits": (1, 189, 80), "pred_boxes": (1, 189, 4)},
        attention=True,
        listed=True,
    ),
    # its authors: 4 M weights (3.76 without rounding), 7 GFLOPs (7.12)
    Published(
        "dfine-n",
        3.76,
        3.56,
        (640, 640),
        (128, 128),
        {"labels": (1, 300), "boxes": (1, 300, 4), "scores": (1, 300)},
        attention=True,
        listed=True,
    ),
    # its authors: 1.51 M weights, 5.15 GFLOPs
    Published(
        "deimv2-pico",
        1.51,
        2.58,
        (640, 640),
        (128, 128),
        {"labels": (1, 200), "boxes": (1, 200, 4), "scores": (1, 200)},
        attention=True,
        listed=True,
    ),
    # its authors: 31.9 GFLOPs; 30.5 M weights, of which 3.6 M are groups of queries for training
    Published(
        "rfdetr-nano",
        26.9,
        15.95,
        (384, 384),
        (128, 128),
        {"dets": (1, 64, 4), "labels": (1, 64, 91)},
        attention=True,
        listed=True,
    ),
    # its authors: 3.749 M weights; the multiply-adds are our own count
    Published(
        "rvm-mobilenetv3",
        3.749,
        4.62,
        (576, 1024),
        (128, 128),
        {
            "fgr": (1, 3, 128, 128),
            "pha": (1, 1, 128, 128),
            "r1o": (1, 16, 32, 32),
            "r2o": (1, 20, 16, 16),
            "r3o": (1, 40, 8, 8),
            "r4o": (1, 64, 4, 4),
        },
    ),
    # torchvision: 3,440,060 weights with batch norms apart, 0.583 GMAC
    Published(
        "ssdlite-mobilenetv3",
        3.44,
        0.583,
        (320, 320),
        (128, 128),
        {"boxes": (1, 522, 4), "scores": (1, 522, 91)},
    ),
    # 24.8 M weights, 0.6 M of them unread or positions; timm's count of the encoder and the head's
    Published(
        "depth-anything-s",
        24.8,
        57.6,
        (518, 518),
        (126, 126),
        {"predicted_depth": (1, 126, 126)},
        attention=True,
    ),
    # timm: vit_small_patch14_dinov2, 22.1 M weights (with positions for 518x518), 46.76 GMAC there
    Published(
        "dinov2-s",
        22.1,
        46.76,
        (518, 518),
        (112, 112),
        {"last_hidden_state": (1, 65, 384), "pooler_output": (1, 384)},
        attention=True,
    ),
)


@cache
def built(name: str, size: Size) -> onnx.ModelProto:
    return ARCHITECTURES[name](size)


def shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    graph = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True).graph
    values = [*graph.input, *graph.value_info, *graph.output]
    sizes = {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}
    return sizes | {i.name: list(i.dims) for i in model.graph.initializer}


def multiplies(model: onnx.ModelProto, *, attention: bool) -> int:
    """Multiply-adds; attention: also those of two computed tensors."""
    sizes, total = shapes(model), 0
    constant = {i.name for i in model.graph.initializer}
    for node in model.graph.node:
        first, out = sizes[node.input[0]] if node.input[0] else [], sizes[node.output[0]]
        if node.op_type == "Conv":
            total += int(np.prod(out) * np.prod(sizes[node.input[1]][1:]))
        elif node.op_type == "ConvTranspose":
            total += int(np.prod(first) * np.prod(sizes[node.input[1]][1:]))
        elif node.op_type in ("MatMul", "Gemm") and (attention or node.input[1] in constant):
            total += int(np.prod(out) * first[-1])
    return total


def feed_of(name: str, model: onnx.ModelProto, shift: int) -> Feed:
    """A still picture in which a square has moved by `shift` pixels; ones and zeros beside it."""
    feed: Feed = {}
    for port in model.graph.input:
        shape = [d.dim_value for d in port.type.tensor_type.shape.dim]
        feed[port.name] = np.zeros(shape, np.float32)
        if port.type.tensor_type.elem_type == onnx.TensorProto.INT64:
            feed[port.name] = np.full(shape, 640)
        elif len(shape) == 1:
            feed[port.name] += 1
        elif len(shape) == 4 and shape[1] == 3:
            picture = textured(shape[2], shape[3]) * 255
            side = int((shape[2] * shape[3] * 0.04) ** 0.5)
            corner = slice(20 + shift, 20 + shift + side)
            picture[corner, corner] = textured(side, side, seed=1) * 255
            for channel, (gain, bias) in enumerate(MODELS[name].form.preprocessing.gains()):
                feed[port.name][0, channel] = picture[..., channel] * gain + bias
    return feed


def rows_of(outputs: list[NDArray[Any]]) -> NDArray[np.float64]:
    """The outputs as (rows, numbers), each output as a share of its largest value."""
    parts = [np.asarray(o, np.float64).reshape(o.shape[1], -1) for o in outputs]
    return np.concatenate([part / max(np.abs(part).max(), 1e-9) for part in parts], 1)


def onnxruntime_outputs(model: onnx.ModelProto, feed: Feed, *also: str) -> list[NDArray[Any]]:
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in also)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(tapped.SerializeToString(), options)
    results: list[NDArray[Any]] = session.run(None, feed)
    return results


def weights(model: onnx.ModelProto) -> int:
    """Numbers that training sets: not those of shapes, grids and positions."""
    named = (i for i in model.graph.initializer if not i.name.startswith("constant."))
    return sum(int(np.prod(i.dims)) for i in named if "position" not in i.name)


@pytest.mark.parametrize("row", NETWORKS, ids=str)
def test_weights_are_as_many_as_published(row: Published) -> None:
    model = built(row.name, row.small)
    onnx.checker.check_model(model, full_check=True)
    assert weights(model) / 1e6 == pytest.approx(row.weights, rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("row", NETWORKS, ids=str)
def test_multiply_adds_are_as_many_as_published(row: Published) -> None:
    model = ARCHITECTURES[row.name](row.size)
    assert multiplies(model, attention=row.attention) / 1e9 == pytest.approx(row.gmac, rel=0.05)


@pytest.mark.parametrize("row", NETWORKS, ids=str)
def test_values_stay_sane(row: Published) -> None:
    model = built(row.name, row.small)
    layers = [n.output[0] for n in model.graph.node if n.op_type in ("Conv", "Add", "Gemm")]
    ends = {o.name for o in model.graph.output}
    layers = [name for name in layers if name not in ends and not name.startswith("constant.")]
    values = onnxruntime_outputs(model, feed_of(row.name, model, 0), *layers)
    spans = {n: float(v.std()) for n, v in zip(layers, values[len(ends) :], strict=True)}
    assert len(spans) > 40
    assert {n: s for n, s in spans.items() if not 0.02 < s < 10} == {}


@pytest.mark.parametrize("row", NETWORKS, ids=str)
def test_attention_is_not_saturated(row: Published) -> None:
    """Most positions attend to more than one."""
    model = built(row.name, row.small)
    soft = [n.output[0] for n in model.graph.node if n.op_type == "Softmax"]
    shape = shapes(model)
    soft = [name for name in soft if len(shape[name]) == 4 and shape[name][-1] == shape[name][-2]]
    values = onnxruntime_outputs(model, feed_of(row.name, model, 0), *soft)[len(row.outputs) :]
    for name, value in zip(soft, values, strict=True):
        positions = float(np.median(1 / np.square(value).sum(-1)))
        assert positions > 1.2, name


@pytest.mark.parametrize("row", NETWORKS, ids=str)
def test_the_engine_agrees(row: Published) -> None:
    shapes = assert_engine_agrees(row, built(row.name, row.small))
    assert shapes == dict(row.outputs)


@pytest.mark.slow
@pytest.mark.parametrize("row", NETWORKS, ids=str)
def test_the_engine_agrees_at_the_published_size(row: Published) -> None:
    assert_engine_agrees(row, ARCHITECTURES[row.name](row.size))


def assert_engine_agrees(row: Published, model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """Exact reuse is bit for bit its own dense result, which is near ONNX Runtime's; -> the
    outputs' shapes."""
    first, second = feed_of(row.name, model, 0), feed_of(row.name, model, 9)
    expected = onnxruntime_outputs(model, second)
    data = model.SerializeToString()
    with ReuseSession(data, threads=1) as session:
        dense = session.run(None, second)
    with ReuseSession(data, threads=1) as session:
        session.run(None, first)
        reused = session.run(None, second)
    for a, b, c in zip(dense, reused, expected, strict=True):
        assert np.isfinite(c).all()
        assert np.array_equal(a, b)
        if not row.listed:
            assert np.abs(a - c).max() <= 1e-3 * np.abs(c).max()
    if row.listed:
        apart = np.abs(rows_of(dense)[:, None] - rows_of(expected)[None]).max(-1)
        assert apart.min(1).max() <= 1e-3
        assert apart.min(0).max() <= 1e-3
    return {o.name: v.shape for o, v in zip(model.graph.output, expected, strict=True)}


@pytest.mark.parametrize("row", NETWORKS, ids=str)
def test_the_catalogue_names_its_outputs(row: Published) -> None:
    """All but those that are fed back, which come last: a result is of what stands before them."""
    form = MODELS[row.name].form
    names = [name for name in row.outputs if name not in form.side.state]
    assert isinstance(form.decoder, TensorDecoder)
    assert form.decoder.names == tuple(names) == tuple(row.outputs)[: len(names)]
    assert set(form.side.state) == {*row.outputs} - {*names}


@pytest.mark.parametrize("row", NETWORKS, ids=str)
def test_inputs_beside_the_picture_are_fed(row: Published) -> None:
    beside = [port.name for port in built(row.name, row.small).graph.input][1:]
    state = MODELS[row.name].form.side.state
    assert set(beside) == {*state.values(), *KNOWN_CONSTANTS} & set(beside)
    assert set(state) <= set(row.outputs)


def test_the_same_seed_writes_the_same_file_and_another_does_not() -> None:
    one, two, other = (
        ARCHITECTURES["yolo11n"]((32, 32), seed=seed).SerializeToString() for seed in (1, 1, 2)
    )
    assert one == two
    assert one != other


def test_every_network_has_published_counts() -> None:
    older = {"resnet50", "vgg16", "style"}
    assert {row.name for row in NETWORKS} == set(ARCHITECTURES) - older


@pytest.mark.parametrize("name", ["yolo11n", "dinov2-s"])
def test_a_size_that_does_not_fit_is_refused(name: str) -> None:
    with pytest.raises(ModelError, match=r"expected a size of multiples of .*, got 100x64"):
        ARCHITECTURES[name]((64, 100))


def test_metadata_are_those_of_the_familys_exporter() -> None:
    metadata = {p.key: p.value for p in built("yolo26n", (128, 128)).metadata_props}
    assert metadata["task"] == "detect"
    assert metadata["stride"] == "32"
    assert metadata["imgsz"] == "[128, 128]"
    assert metadata["end2end"] == "True"
    assert metadata["names"].startswith("{0: 'person', 1: 'bicycle'")
