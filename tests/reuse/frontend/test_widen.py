"""Quantised models: what widening leaves of them, against the integers and the float network."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from onnxruntime.quantization import (
    CalibrationDataReader,
    QuantFormat,
    QuantType,
    quantize_dynamic,
    quantize_static,
)

from stillframe.errors import ModelError
from stillframe.reuse.frontend.widen import RULES
from stillframe.reuse.introspection import ISLAND, layers
from stillframe.reuse.session import ReuseSession
from tests.graph_cases import model, number, w

Array = NDArray[Any]
SHAPE = (1, 3, 24, 32)
SIDES = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
STEPS = (
    ("Conv", ["x", w(8, 3, 3, 3), w(8)], "a", SIDES | {"strides": [2, 2]}),
    ("Relu", ["a"], "b", {}),
    ("Conv", ["b", w(8, 1, 3, 3), w(8)], "c", SIDES | {"group": 8}),
    ("Sigmoid", ["c"], "d", {}),
    ("Mul", ["c", "d"], "e", {}),
    ("MaxPool", ["e"], "f", SIDES),
    ("Concat", ["b", "f"], "g", {"axis": 1}),
    ("Conv", ["g", w(6, 16, 1, 1), w(6)], "h", {}),
    ("LeakyRelu", ["h"], "i", {"alpha": 0.1}),
    ("AveragePool", ["i"], "j", {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ("Conv", ["i", w(6, 6, 3, 3), w(6)], "k", SIDES | {"strides": [2, 2]}),
    ("Add", ["j", "k"], "y", {}),
    ("GlobalAveragePool", ["y"], "l", {}),
    ("Flatten", ["l"], "m", {}),
    ("Gemm", ["m", w(5, 6), w(5)], "z", {"transB": 1}),
)
"""A convolution, an activation that quantising drops, a depthwise one, SiLU, pools, a head."""


def picture(seed: int = 0) -> dict[str, Array]:
    return {"x": np.random.default_rng(seed).normal(size=SHAPE).astype(np.float32)}


class Calibration(CalibrationDataReader):
    def __init__(self) -> None:
        self._feeds = iter([picture(seed) for seed in range(4)])

    def get_next(self) -> dict[str, Array]:
        return next(self._feeds, None)  # type: ignore[return-value]


def static(source: Path, target: Path, form: QuantFormat, **options: Any) -> None:
    quantize_static(str(source), str(target), Calibration(), quant_format=form, **options)


def unsigned_weights(source: Path, target: Path) -> None:
    """Integers of a product in ConvInteger and MatMulInteger, whose weights have a zero."""
    quantize_dynamic(str(source), str(target), weight_type=QuantType.QUInt8)


FORMS: dict[str, Callable[[Path, Path], None]] = {
    "QDQ": lambda source, target: static(source, target, QuantFormat.QDQ),
    "QDQ of channels": lambda source, target: static(
        source, target, QuantFormat.QDQ, per_channel=True, activation_type=QuantType.QInt8
    ),
    "QLinear": lambda source, target: static(source, target, QuantFormat.QOperator),
    "QLinear of channels": lambda source, target: static(
        source, target, QuantFormat.QOperator, per_channel=True
    ),
    "dynamic": unsigned_weights,
}


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quantised") / "float.onnx"
    path.write_bytes(model(STEPS, {"x": SHAPE}, ["y", "z"]))
    return path


def integers(path: Path | bytes, feeds: dict[str, Array]) -> list[Array]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [np.asarray(each) for each in session.run(None, feeds)]


@pytest.mark.parametrize("form", FORMS)
def test_a_widened_model_is_reused_and_as_near_to_the_float_one(
    form: str, source: Path, tmp_path: Path
) -> None:
    path = tmp_path / "quantised.onnx"
    FORMS[form](source, path)
    kinds = {node.op_type for node in onnx.load(path).graph.node}
    assert kinds & set(RULES)
    feeds = picture(3)
    truth, quantised = integers(str(source), feeds), integers(str(path), feeds)
    with ReuseSession(path, threads=1, widen=True) as session:
        assert not any(layer.op == ISLAND for layer in layers(session)), form
        assert not session.all_island
        assert "widened to float32" in session.notes[0]
        results = session.run(None, feeds)
        for exact, rounded, result in zip(truth, quantised, results, strict=True):
            size = np.abs(exact).max()
            assert np.abs(result - exact).max() < 0.1 * size
            assert np.abs(result - rounded).max() < 0.1 * size
            assert np.abs(result - exact).mean() < np.abs(rounded - exact).mean()
        feeds["x"][:, :, 4:9, 6:12] += 1
        outputs = session.run(None, feeds)
        assert session.last_stats is not None
        assert 0 < session.last_stats.work < 1
        with ReuseSession(path, threads=1, widen=True) as other:
            for result, dense in zip(outputs, other.run(None, feeds), strict=True):
                assert np.array_equal(result, dense)


@pytest.mark.parametrize("form", ["QDQ", "QLinear"])
def test_the_work_of_integers_is_counted(form: str, source: Path, tmp_path: Path) -> None:
    path = tmp_path / "quantised.onnx"
    FORMS[form](source, path)
    with ReuseSession(path, threads=1) as session, ReuseSession(source, threads=1) as floats:
        counted = [sum(layer.multiply_adds for layer in layers(each)) for each in (session, floats)]
        assert counted[0] == pytest.approx(counted[1], rel=1e-3)


def test_a_quantised_model_is_left_to_onnx_runtime_unless_widening_is_asked_for(
    source: Path, tmp_path: Path
) -> None:
    path = tmp_path / "quantised.onnx"
    FORMS["QDQ"](source, path)
    with ReuseSession(path, threads=1) as session:
        assert session.all_island
        assert "--widen" in session.notes[0]
        for result, rounded in zip(
            session.run(None, picture(3)), integers(str(path), picture(3)), strict=True
        ):
            assert np.abs(result - rounded).max() < 0.05 * np.abs(rounded).max()


def test_the_range_of_integers_stands_for_a_relu_that_quantising_dropped() -> None:
    zero = np.array(0, np.uint8)
    steps = [
        ("Conv", ["x", w(4, 3, 1, 1)], "c", {}),
        ("QuantizeLinear", ["c", number(0.01), zero], "q", {}),
        ("DequantizeLinear", ["q", number(0.01), zero], "y", {}),
    ]
    plain = model(steps, {"x": SHAPE}, ["y"])
    with ReuseSession(plain, threads=1, widen=True) as session:
        (result,) = session.run(None, picture())
        assert [layer.op for layer in layers(session)] == ["Conv", "Export"]
    (rounded,) = integers(plain, picture())
    assert result.min() == 0
    assert result.max() == pytest.approx(2.55)
    assert np.abs(result - rounded).max() <= 0.0051


def test_integers_that_are_read_with_another_scale_are_rescaled() -> None:
    steps = [
        ("QuantizeLinear", ["x", number(0.05), np.array(100, np.uint8)], "q", {}),
        ("Transpose", ["q"], "t", {"perm": [0, 1, 3, 2]}),
        ("DequantizeLinear", ["t", number(0.1), np.array(90, np.uint8)], "y", {}),
    ]
    plain = model(steps, {"x": SHAPE}, ["y"])
    with ReuseSession(plain, threads=1, widen=True) as session:
        (result,) = session.run(None, picture())
    (rounded,) = integers(plain, picture())
    assert np.abs(result - rounded).max() <= 0.0501
    assert np.abs(result).max() > 1


def test_weights_that_training_quantised_keep_their_rounding() -> None:
    kernel, scale = w(4, 3, 1, 1), np.array([0.1, 0.2, 0.3, 0.4], np.float32)
    zero = np.zeros(4, np.int8)
    steps = [
        ("QuantizeLinear", [kernel, scale, zero], "k", {"axis": 0}),
        ("DequantizeLinear", ["k", scale, zero], "weights", {"axis": 0}),
        ("Conv", ["x", "weights"], "y", {}),
    ]
    plain = model(steps, {"x": SHAPE}, ["y"])
    with ReuseSession(plain, threads=1, widen=True) as session:
        (result,) = session.run(None, picture())
    assert result == pytest.approx(integers(plain, picture())[0], abs=1e-5)
    rounded = np.rint(kernel / scale[:, None, None, None])
    assert np.abs(rounded).max() >= 1
    assert np.abs(rounded * scale[:, None, None, None] - kernel).max() > 0.05


UNWIDENED: dict[str, tuple[Sequence[Any], str]] = {
    "integers that are returned": (
        [("QuantizeLinear", ["x", number(0.05), np.array(9, np.uint8)], "y", {})],
        "'y' is returned as integers",
    ),
    "a scale that is computed": (
        [
            ("ReduceMax", ["x"], "s", {"keepdims": 0}),
            ("QuantizeLinear", ["x", "s", np.array(9, np.uint8)], "q", {}),
            ("DequantizeLinear", ["q", "s", np.array(9, np.uint8)], "y", {}),
        ],
        "'s' is computed, not constant",
    ),
    "integers that are compared": (
        [
            ("QuantizeLinear", ["x", number(0.05), np.array(9, np.uint8)], "q", {}),
            ("Greater", ["q", np.array(4, np.uint8)], "g", {}),
            ("Cast", ["g"], "y", {"to": onnx.TensorProto.FLOAT}),
        ],
        "computes on the integers of 'q'",
    ),
}


@pytest.mark.parametrize("case", UNWIDENED)
def test_what_cannot_be_widened_runs_as_it_is_and_the_note_names_the_node(case: str) -> None:
    steps, reason = UNWIDENED[case]
    loaded = onnx.load_model_from_string(model(steps, {"x": SHAPE}, ["y"]))
    if steps[-1][0] == "QuantizeLinear":
        loaded.graph.output[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    plain = loaded.SerializeToString()
    with ReuseSession(plain, threads=1, widen=True) as session:
        assert "left to ONNX Runtime" in session.notes[0]
        assert "node 'n" in session.notes[0]
        assert reason in session.notes[0]
        assert np.array_equal(session.run(None, picture())[0], integers(plain, picture())[0])


def halved(path: Path) -> bytes:
    """The float network in float16 as converters write it: ports stay float32, behind Casts."""
    loaded = onnx.load(path)
    for tensor in loaded.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    renamed = {"x": "x~half", "y": "y~half", "z": "z~half"}
    for node in loaded.graph.node:
        for names in (node.input, node.output):
            for index, name in enumerate(names):
                names[index] = renamed.get(name, name)
    cast = [helper.make_node("Cast", ["x"], ["x~half"], to=onnx.TensorProto.FLOAT16)]
    ends = [
        helper.make_node("Cast", [renamed[name]], [name], to=onnx.TensorProto.FLOAT)
        for name in ("y", "z")
    ]
    nodes = [*cast, *loaded.graph.node, *ends]
    del loaded.graph.node[:]
    loaded.graph.node.extend(nodes)
    return bytes(loaded.SerializeToString())


def test_float16_is_reused_without_being_asked(source: Path) -> None:
    plain = halved(source)
    with ReuseSession(plain, threads=1) as session:
        assert not any(layer.op == ISLAND for layer in layers(session))
        assert session.notes == ("float16 model: converted whole to float32",)
        feeds = picture(3)
        for result, exact, rounded in zip(
            session.run(None, feeds), integers(str(source), feeds), integers(plain, feeds),
            strict=True,
        ):  # fmt: skip
            assert np.abs(result - exact).max() < 5e-3 * np.abs(exact).max()
            assert np.abs(result - rounded).max() < 2e-2 * np.abs(exact).max()
        feeds["x"][:, :, 4:9, 6:12] += 1
        session.run(None, feeds)
        assert session.last_stats is not None
        assert session.last_stats.work < 1


def test_a_broken_quantised_model_is_refused_as_before() -> None:
    steps = [("QuantizeLinear", ["x", number(0.05), np.array(9.0, np.float32)], "y", {})]
    with pytest.raises(ModelError, match="ONNX Runtime refuses it"):
        ReuseSession(model(steps, {"x": SHAPE}, ["y"]), threads=1, widen=True)
