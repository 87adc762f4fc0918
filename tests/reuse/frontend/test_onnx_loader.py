"""The importer against ONNX Runtime: every operator case, islands, errors, real models."""

from collections.abc import Callable

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import helper, numpy_helper

from stillframe.errors import ModelError
from stillframe.models import zoo
from stillframe.reuse.compile import load_graph
from stillframe.reuse.frontend.import_model import import_model
from stillframe.reuse.frontend.signature import DeclaredPort, read_signature
from stillframe.reuse.ir import interpreter
from stillframe.reuse.ir.graph import ISLAND, Graph, Node, Port
from stillframe.reuse.ir.ops import OPS
from tests.graph_cases import CASES, Array, Case, Step, X, ints, model, number, w


def run_onnx(model: bytes, feeds: dict[str, Array]) -> dict[str, Array]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def islands(graph: Graph) -> list[Node]:
    return [node for node in graph.nodes if node.op == ISLAND]


def assert_same(
    graph: Graph, feeds: dict[str, Array], expected: dict[str, Array], rtol: float
) -> None:
    for island in islands(graph):
        assert island.inputs == tuple(port.name for port in island.attrs["reads"])
        assert island.outputs == tuple(port.name for port in island.attrs["writes"])
    outputs = interpreter.run(graph, feeds)
    assert list(outputs) == list(expected)
    for name, array in expected.items():
        assert outputs[name].shape == array.shape
        assert outputs[name].dtype == array.dtype
        largest = max(float(np.abs(array).max()), 1.0)
        np.testing.assert_allclose(outputs[name] / largest, array / largest, rtol=0, atol=rtol)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_case_gives_onnxruntime_s_answer_before_and_after_the_passes(case: Case) -> None:
    model, feeds = case.model(), case.inputs()
    expected = run_onnx(model, feeds)
    assert_same(import_model(model), feeds, expected, case.tolerance)
    graph = load_graph(model)
    assert_same(graph, feeds, expected, case.tolerance)
    assert tuple(node.op for node in graph.nodes) == case.ops


def test_every_operator_of_the_engine_has_a_case() -> None:
    assert {op for case in CASES for op in case.ops} == set(OPS)
    assert len({case.name for case in CASES}) == len(CASES)


CONV: Step = ("Conv", ["x", w(24, 3, 3, 3)], "c", {"pads": [1, 1, 1, 1]})
WIDE = {"x": (1, 3, 64, 96)}


def test_an_island_names_the_operator_that_forced_it() -> None:
    steps: list[Step] = [CONV, ("Transpose", ["c"], "y", {"perm": [0, 1, 3, 2]})]
    case = Case("island", tuple(steps), (), WIDE)
    graph = load_graph(case.model())
    (island,) = islands(graph)
    assert island.attrs["reason"] == (
        "Transpose: axes [0, 1, 3, 2] of [1, 24, 64, 96]: neither to NHWC nor to NCHW"
    )
    assert island.attrs["nodes"] == ("Transpose n1",)
    assert island.attrs["reads"] == (Port("c", (1, 24, 64, 96), "float32", "NCHW"),)
    assert graph.outputs == (Port("y", (1, 24, 96, 64), "float32", "raw"),)
    assert_same(graph, case.inputs(), run_onnx(case.model(), case.inputs()), 2e-6)


def test_an_island_between_two_large_regions_stays_alone() -> None:
    deep: list[Step] = [("Conv", ["x", w(64, 3, 3, 3)], "h0", {"pads": [1, 1, 1, 1]})]
    for index in range(8):
        name = f"h{index}"
        if index == 4:
            deep.append(("Sin", [name], "odd", {}))
            name = "odd"
        attrs = {"pads": [1, 1, 1, 1]}
        deep.append(("Conv", [name, w(64, 64, 3, 3, scale=0.05)], f"h{index + 1}", attrs))
    case = Case("middle", tuple(deep), (), WIDE, ("h8",), tolerance=1e-4)
    graph = load_graph(case.model())
    assert [node.op for node in graph.nodes] == ["Conv"] * 5 + ["Island"] + ["Conv"] * 4
    assert_same(graph, case.inputs(), run_onnx(case.model(), case.inputs()), case.tolerance)


def test_islands_swallow_what_lies_between_them() -> None:
    steps: list[Step] = [CONV, ("Ceil", ["c"], "a", {}), ("Relu", ["a"], "b", {})]
    steps += [("Ceil", ["b"], "d", {}), ("Sigmoid", ["d"], "e", {}), ("Floor", ["e"], "y", {})]
    case = Case("ping-pong", tuple(steps), (), WIDE)
    graph = load_graph(case.model())
    (island,) = islands(graph)
    assert [name.split()[0] for name in island.attrs["nodes"]][-4:] == [
        "Relu",
        "Ceil",
        "Sigmoid",
        "Floor",
    ]
    assert island.attrs["reason"] == (
        "Ceil: the engine has no such operator; Floor: the engine has no such operator"
    )
    assert_same(graph, case.inputs(), run_onnx(case.model(), case.inputs()), 2e-6)


def test_heads_of_several_scales_share_one_island() -> None:
    steps: list[Step] = [
        ("Conv", ["x", w(48, 3, 3, 3)], "a", {"pads": [1, 1, 1, 1]}),
        ("Conv", ["a", w(48, 48, 3, 3)], "b", {"pads": [1, 1, 1, 1], "strides": [2, 2]}),
    ]
    for name in "ab":
        steps += [
            ("Reshape", [name, ints(1, 6, 8, -1)], f"{name}r", {}),
            ("Transpose", [f"{name}r"], f"{name}t", {"perm": [0, 3, 1, 2]}),
            ("Sin", [f"{name}t"], f"{name}s", {}),
        ]
    steps += [
        ("Concat", ["as", "bs"], "all", {"axis": 1}),
        ("ReduceMax", ["all"], "best", {"axes": [3], "keepdims": 0}),
        ("TopK", ["best", ints(9)], ["y", "rank"], {"axis": 1}),
    ]
    case = Case("heads", tuple(steps), (), WIDE, ("y",), tolerance=1e-5)
    graph = load_graph(case.model())
    assert [node.op for node in graph.nodes] == ["Conv", "Conv", "Island"]
    assert_same(graph, case.inputs(), run_onnx(case.model(), case.inputs()), case.tolerance)


def test_sizes_that_only_a_run_tells_are_minus_one() -> None:
    steps: list[Step] = [CONV, ("NonZero", ["c"], "found", {})]
    steps.append(("Cast", ["found"], "y", {"to": onnx.TensorProto.FLOAT}))
    graph = load_graph(Case("run", tuple(steps), (), WIDE).model())
    assert graph.outputs == (Port("y", (4, -1), "float32", "raw"),)
    assert graph.shapes["y"] == (4, -1)


def test_control_flow_is_an_island_that_gets_what_its_branches_read() -> None:
    yes = helper.make_graph(
        [helper.make_node("Neg", ["c"], ["p"])],
        "yes",
        [],
        [helper.make_tensor_value_info("p", onnx.TensorProto.FLOAT, None)],
    )
    no = helper.make_graph(
        [helper.make_node("Abs", ["c"], ["q"])],
        "no",
        [],
        [helper.make_tensor_value_info("q", onnx.TensorProto.FLOAT, None)],
    )
    steps: list[Step] = [
        CONV,
        ("ReduceMean", ["c"], "mean", {"axes": [0, 1, 2, 3], "keepdims": 0}),
        ("Greater", ["mean", number(0)], "sign", {}),
        ("If", ["sign"], "y", {"then_branch": yes, "else_branch": no}),
    ]
    case = Case("if", tuple(steps), (), WIDE)
    graph = load_graph(case.model())
    (island,) = islands(graph)
    assert island.inputs == ("c",)
    assert "If: the engine has no such operator" in island.attrs["reason"]
    assert_same(graph, case.inputs(), run_onnx(case.model(), case.inputs()), 2e-6)


def test_a_quantised_model_is_islands() -> None:
    scale, zero = number(0.02), np.array(128, np.uint8)
    kernel = np.full((4, 3, 1, 1), 140, np.uint8)
    steps: list[Step] = [
        ("QuantizeLinear", ["x", scale, zero], "q", {}),
        ("QLinearConv", ["q", scale, zero, kernel, scale, zero, number(0.05), zero], "r", {}),
        ("DequantizeLinear", ["r", number(0.05), zero], "y", {}),
    ]
    case = Case("quantised", tuple(steps), (), WIDE)
    graph = load_graph(case.model())
    (island,) = islands(graph)
    assert "QLinearConv: the engine has no such operator" in island.attrs["reason"]
    assert_same(graph, case.inputs(), run_onnx(case.model(), case.inputs()), 1e-6)


def half(model: bytes) -> bytes:
    """The same model with float16 weights, ports and constants."""
    loaded = onnx.load_model_from_string(model)
    for tensor in loaded.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT:
            values = numpy_helper.to_array(tensor).astype(np.float16)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
    for port in [*loaded.graph.input, *loaded.graph.output]:
        port.type.tensor_type.elem_type = onnx.TensorProto.FLOAT16
    return bytes(loaded.SerializeToString())


def test_a_float16_model_runs_whole_in_float32_and_says_so() -> None:
    case = Case("half", (CONV, ("Relu", ["c"], "y", {})), (), {"x": X})
    model = half(case.model())
    feeds = {"x": case.inputs()["x"].astype(np.float16)}
    graph = load_graph(model)
    assert graph.notes == ("float16 model: converted whole to float32",)
    assert [node.op for node in graph.nodes] == ["Conv"]
    assert [port.dtype for port in (*graph.inputs, *graph.outputs)] == ["float16", "float16"]
    assert_same(graph, feeds, run_onnx(model, feeds), 2e-3)


def test_pictures_may_be_fed_as_bytes() -> None:
    steps: list[Step] = [
        ("Cast", ["x"], "f", {"to": onnx.TensorProto.FLOAT}),
        ("Transpose", ["f"], "t", {"perm": [0, 3, 1, 2]}),
        ("Conv", ["t", w(5, 3, 3, 3)], "y", {}),
    ]
    loaded = onnx.load_model_from_string(model(steps, {"x": (1, 9, 11, 3)}, ["y"]))
    loaded.graph.input[0].type.tensor_type.elem_type = onnx.TensorProto.UINT8
    feeds = {"x": np.arange(9 * 11 * 3, dtype=np.uint8).reshape(1, 9, 11, 3)}
    graph = load_graph(loaded.SerializeToString())
    assert graph.inputs == (Port("x", (1, 9, 11, 3), "uint8", "NHWC"),)
    assert [node.op for node in graph.nodes] == ["Conv"]
    assert_same(graph, feeds, run_onnx(loaded.SerializeToString(), feeds), 2e-6)


def test_one_tensor_can_leave_in_both_layouts() -> None:
    steps: list[Step] = [CONV, ("Relu", ["c"], "y", {})]
    steps.append(("Transpose", ["y"], "z", {"perm": [0, 2, 3, 1]}))
    case = Case("both", tuple(steps), (), {"x": X}, ("y", "z"))
    graph = load_graph(case.model())
    assert [port.layout for port in graph.outputs] == ["NCHW", "NHWC"]
    assert_same(graph, case.inputs(), run_onnx(case.model(), case.inputs()), 2e-6)


def test_a_picture_and_its_transpose_do_not_mix() -> None:
    steps: list[Step] = [
        ("Relu", ["x"], "r", {}),
        ("Transpose", ["r"], "t", {"perm": [0, 2, 3, 1]}),
    ]
    steps += [("Add", ["r", "t"], "y", {})]
    case = Case("mix", tuple(steps), (), {"x": (1, 5, 5, 5)})
    (island,) = islands(load_graph(case.model()))
    assert island.attrs["reason"] == "Add: one operand is NCHW, the other NHWC"
    assert_same(load_graph(case.model()), case.inputs(), run_onnx(case.model(), case.inputs()), 0)


def test_a_reshaped_picture_does_not_count_as_turned() -> None:
    steps: list[Step] = [
        ("Relu", ["x"], "r", {}),
        ("Reshape", ["r", ints(1, 6, 5, 4)], "v", {}),
        ("Pad", ["v", ints(0, 1, 0, 0, 0, 0, 0, 2)], "y", {}),
    ]
    case = Case("reshaped", tuple(steps), (), {"x": (1, 4, 6, 5)})
    graph = load_graph(case.model())
    assert (
        "Pad: 'v' was reshaped from NCHW [1, 4, 6, 5] to [1, 6, 5, 4]"
        in islands(graph)[0].attrs["reason"]
    )
    assert_same(graph, case.inputs(), run_onnx(case.model(), case.inputs()), 0)


def test_constants_follow_the_layout_of_what_they_meet() -> None:
    steps: list[Step] = [
        ("Mul", ["x", w(11, 1)], "a", {}),
        ("Add", ["a", w(3)], "b", {}),
        ("Add", ["b", w(9, 11, 3)], "y", {}),
        ("Transpose", ["y"], "t", {"perm": [0, 3, 1, 2]}),
        ("Conv", ["t", w(4, 3, 3, 3)], "z", {}),
    ]
    case = Case("constants", tuple(steps), (), {"x": (1, 9, 11, 3)}, ("y", "z"))
    graph = load_graph(case.model())
    assert graph.inputs[0].layout == "NHWC"
    assert not islands(graph)
    assert_same(graph, case.inputs(), run_onnx(case.model(), case.inputs()), 2e-6)


def test_an_output_may_be_constant() -> None:
    steps: list[Step] = [CONV, ("Relu", ["c"], "y", {}), ("Identity", [w(2, 2)], "z", {})]
    case = Case("constant", tuple(steps), (), {"x": X}, ("y", "z"))
    assert_same(
        load_graph(case.model()), case.inputs(), run_onnx(case.model(), case.inputs()), 2e-6
    )


def test_local_functions_are_written_out() -> None:
    function = helper.make_function(
        "home",
        "Twice",
        ["a"],
        ["b"],
        [helper.make_node("Add", ["a", "a"], ["s"]), helper.make_node("Relu", ["s"], ["b"])],
        [helper.make_opsetid("", 17)],
    )
    steps: list[Step] = [CONV, ("Twice", ["c"], "y", {"domain": "home"})]
    loaded = onnx.load_model_from_string(model(steps, {"x": X}, ["y"], domains={"home": 1}))
    loaded.functions.append(function)
    graph = load_graph(loaded.SerializeToString())
    assert [node.op for node in graph.nodes] == ["Conv", "Binary"]


def open_model(*sizes: int | str) -> bytes:
    loaded = onnx.load_model_from_string(model([CONV], {"x": X}, ["c"]))
    port = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, sizes)
    loaded.graph.input[0].CopyFrom(port)
    return bytes(loaded.SerializeToString())


def test_open_sizes_are_fixed_by_shapes() -> None:
    graph = load_graph(open_model("n", 3, "h", "w"), {"x": (1, 3, 13, 7)})
    assert graph.inputs[0].shape == (1, 3, 13, 7)
    assert graph.outputs[0].shape == (1, 24, 13, 7)


def test_an_open_batch_is_one() -> None:
    assert load_graph(open_model("n", 3, 9, 11)).inputs[0].shape == X


def test_a_declared_batch_can_be_replaced() -> None:
    assert load_graph(open_model(10, 3, 32, 32), {"x": (1, 3, 9, 11)}).inputs[0].shape == X


def test_another_batch_than_one_is_an_island() -> None:
    (island,) = islands(load_graph(open_model(2, 3, 9, 11)))
    assert island.attrs["reason"] == "Conv: 'x' has batch 2; the engine runs batch 1"


def test_a_signature_shows_open_sizes() -> None:
    signature = read_signature(open_model(-1, 3, "h", 0))
    shape = [None, 3, "h", None]
    assert signature.inputs == (DeclaredPort("x", shape, "tensor(float)", "float32"),)
    assert signature.outputs == (DeclaredPort("c", [], "tensor(float)", "float32"),)


def test_initialisers_among_the_inputs_are_constants() -> None:
    loaded = onnx.load_model_from_string(model([CONV], {"x": X}, ["c"]))
    for tensor in loaded.graph.initializer:
        value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
        loaded.graph.input.append(value)
    graph = load_graph(loaded.SerializeToString())
    assert [port.name for port in graph.inputs] == ["x"]
    assert [node.op for node in graph.nodes] == ["Conv"]


def test_a_pool_whose_shape_inference_is_wrong_gets_the_true_shape() -> None:
    pool = {"kernel_shape": [1, 2], "strides": [1, 3], "pads": [0, 0, 0, 1], "ceil_mode": 1}
    steps: list[Step] = [("MaxPool", ["x"], "p", pool), ("Relu", ["p"], "y", {})]
    case = Case("ceil", tuple(steps), (), {"x": X})
    graph = load_graph(case.model())
    assert graph.outputs[0].shape == (1, 3, 9, 4)
    assert_same(graph, case.inputs(), run_onnx(case.model(), case.inputs()), 2e-6)


FAULTS = [
    (
        lambda: load_graph(open_model(1, 3, "h", "w")),
        "the model: input 'x' leaves its shape open [1, 3, 'h', 'w']; give its shape",
    ),
    (
        lambda: load_graph(open_model(1, 3, 9, 11), {"q": (1, 2)}),
        "the model: got a shape for input 'q'; its inputs are ['x']",
    ),
    (
        lambda: load_graph(open_model(1, 3, 9, 11), {"x": (3, 9, 11)}),
        "the model: input 'x' has 4 axes, got shape (3, 9, 11)",
    ),
    (
        lambda: load_graph(
            model([CONV, ("Warp", ["c"], "y", {"domain": "acme"})], {"x": X}, ["y"])
        ),
        "the model: node 'n1' (acme.Warp) is not an operator that ONNX Runtime can run",
    ),
    (
        lambda: load_graph(model([CONV, ("Warp", ["c"], "y", {})], {"x": X}, ["y"])),
        "the model: node 'n1' (Warp) is not an operator that ONNX Runtime can run",
    ),
    (
        lambda: load_graph("/nowhere/model.onnx"),
        "/nowhere/model.onnx: expected an ONNX file, found no file",
    ),
    (lambda: load_graph(b""), "the model: expected an ONNX model, found one without nodes"),
    (
        lambda: load_graph(b"\xff\xfe not a model"),
        "the model: expected an ONNX model, could not read it",
    ),
    (
        lambda: load_graph(model([("MatMul", ["x", w(7, 2)], "y", {})], {"x": X}, ["y"])),
        "the model: ONNX Runtime refuses it: ",
    ),
]


@pytest.mark.parametrize(("fault", "message"), FAULTS, ids=[text for _, text in FAULTS])
def test_what_nobody_can_run_is_refused(fault: Callable[[], Graph], message: str) -> None:
    with pytest.raises(ModelError) as caught:
        fault()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


REAL = {
    "centerface": ((96, 128), 0),
    "ppocr-det": ((96, 128), 0),
    "yolox-tiny": (None, 0),
    "layout": (None, 0),
    "animevideo-x2": ((32, 48), 0),
}
"""Model of the zoo -> input size and number of islands."""


@pytest.mark.fetch
@pytest.mark.parametrize("name", REAL)
def test_a_real_model_gives_onnxruntime_s_answer(name: str) -> None:
    size, count = REAL[name]
    try:
        path = zoo.path(name, size)
    except ModelError as error:
        pytest.skip(f"{name} cannot be fetched: {error}")
    model = path.read_bytes()
    graph = load_graph(path)
    assert len(islands(graph)) == count
    rng = np.random.default_rng(0)
    feeds = {port.name: rng.random(port.shape).astype(np.float32) for port in graph.inputs}
    assert_same(graph, feeds, run_onnx(model, feeds), 1e-4)
