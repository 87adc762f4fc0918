"""The built networks: their published counts, sizes, and activations that stay sane."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray

from stillframe.errors import ModelError
from stillframe.models.architectures import architectures
from stillframe.models.architectures.convolutional import resnet50, style, vgg16


@dataclass(frozen=True)
class Case:
    """A network as published: weights counted without BN's running mean and variance."""

    name: str
    size: tuple[int, int]
    weights: int
    gmac: float
    ops: dict[str, int]
    options: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return " ".join([self.name, *map(str, self.options.values())])


BUILDERS = {"resnet50": resnet50, "vgg16": vgg16, "style": style}
CASES = [
    # torchvision: 25,557,032 weights, 4.09 GMAC; BN folded or not, the biases are in the count
    Case(
        "resnet50", (224, 224), 25_557_032, 4.09, {"Conv": 53, "BatchNormalization": 53, "Gemm": 1}
    ),
    # torchvision: 138,357,544 weights, 15.5 GMAC
    Case("vgg16", (224, 224), 138_357_544, 15.47, {"Conv": 13, "MaxPool": 5, "Gemm": 3}),
    # pytorch/examples fast_neural_style TransformerNet: 1,679,235 weights
    Case(
        "style",
        (256, 256),
        1_679_235,
        10.08,
        {"Conv": 16, "InstanceNormalization": 15, "Pad": 16, "Resize": 2},
    ),
    Case(
        "style",
        (256, 256),
        1_679_235,
        8.27,
        {"Conv": 14, "ConvTranspose": 2, "InstanceNormalization": 15, "Pad": 14},
        {"upsampling": "transposed"},
    ),
]


def shapes(model: onnx.ModelProto) -> dict[str, list[int]]:
    inferred = onnx.shape_inference.infer_shapes(model, strict_mode=True).graph
    values = [*inferred.input, *inferred.value_info, *inferred.output]
    return {v.name: [d.dim_value for d in v.type.tensor_type.shape.dim] for v in values}


def multiplies(model: onnx.ModelProto) -> int:
    sizes, total = shapes(model), 0
    weights = {i.name: list(i.dims) for i in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "Conv":
            total += np.prod(sizes[node.output[0]]) * np.prod(weights[node.input[1]][1:])
        elif node.op_type == "ConvTranspose":
            total += np.prod(sizes[node.input[0]]) * np.prod(weights[node.input[1]][1:])
        elif node.op_type == "Gemm":
            total += np.prod(weights[node.input[1]])
    return int(total)


def run(model: onnx.ModelProto, image: NDArray[np.float32], *also: str) -> list[NDArray[Any]]:
    tapped = onnx.ModelProto()
    tapped.CopyFrom(model)
    tapped.graph.output.extend(onnx.ValueInfoProto(name=name) for name in also)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(tapped.SerializeToString(), options)
    out: list[NDArray[Any]] = session.run(None, {"image": image})
    return out


@pytest.mark.parametrize("case", CASES, ids=str)
def test_counts_are_the_published_ones(case: Case) -> None:
    model = BUILDERS[case.name](case.size, **case.options)
    weights = sum(
        int(np.prod(c.dims))
        for c in model.graph.initializer
        if not c.name.endswith((".mean", ".variance", ".pads", ".factors")) and c.name != "half"
    )
    assert weights == case.weights
    for constant in model.graph.initializer:
        if constant.name.startswith("dense"):
            constant.ClearField("raw_data")  # half a gigabyte that shapes do not need
    assert multiplies(model) / 1e9 == pytest.approx(case.gmac, rel=0.002)
    ops = [n.op_type for n in model.graph.node]
    assert {op: ops.count(op) for op in case.ops} == case.ops


def test_every_architecture_has_a_case() -> None:
    assert {c.name for c in CASES} == set(BUILDERS)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_activations_keep_their_size(case: Case) -> None:
    model = BUILDERS[case.name]((64, 64), width=0.25, **case.options)
    rng = np.random.default_rng(1)
    image = rng.normal(size=(1, 3, 64, 64)).astype(np.float32)
    if case.name == "style":
        image = np.clip(image * 60 + 120, 0, 255)
    onnx.checker.check_model(model, full_check=True)
    layers = [n.output[0] for n in model.graph.node if n.op_type in ("Conv", "Gemm", "Add")]
    layers = [name for name in layers if name not in (model.graph.output[0].name, "down1")]
    values = run(model, image, *layers)[1:]
    assert len(values) > 10
    spans = {n: float(v.std()) for n, v in zip(layers, values, strict=True)}
    assert all(0.1 < span < 20 for span in spans.values()), spans


def test_the_same_seed_writes_the_same_file_and_another_does_not() -> None:
    one, two, other = (style(width=0.1, seed=seed).SerializeToString() for seed in (1, 1, 2))
    assert one == two
    assert one != other


@pytest.mark.parametrize("size", [(44, 60), (32, 36)])
def test_style_gives_a_picture_of_the_same_size(size: tuple[int, int]) -> None:
    image = np.random.default_rng(2).uniform(0, 255, (1, 3, *size)).astype(np.float32)
    for upsampling in ("nearest", "transposed"):
        model = style(width=0.1, upsampling=upsampling)
        (picture,) = run(model, image)
        assert picture.shape == image.shape
        assert 0 <= picture.min() < 60 < 200 < picture.max() <= 255


def test_style_pads_by_reflection() -> None:
    model = style(width=0.1)
    modes = {a.s for n in model.graph.node if n.op_type == "Pad" for a in n.attribute}
    assert modes == {b"reflect"}


def test_resnet_takes_any_size() -> None:
    model = resnet50(width=0.05, classes=7)
    for size in ((33, 47), (64, 32)):
        (scores,) = run(model, np.zeros((1, 3, *size), np.float32))
        assert scores.shape == (1, 7)


def test_vgg_refuses_a_size_that_it_cannot_halve_five_times() -> None:
    with pytest.raises(ModelError, match="vgg16: expected a size of multiples of 32, got 100x64"):
        vgg16((64, 100))


def test_path_writes_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STILLFRAME_CACHE", str(tmp_path))
    first = architectures.path("style", width=0.1)
    before = first.stat().st_mtime_ns
    assert architectures.path("style", width=0.1) == first
    assert first.stat().st_mtime_ns == before
    assert architectures.path("style", (32, 32), width=0.1) != first
    onnx.checker.check_model(str(first))


def test_unknown_name_lists_the_known() -> None:
    with pytest.raises(ModelError, match="'vgg19': one of resnet50, vgg16, style, yolo11n"):
        architectures.path("vgg19")
