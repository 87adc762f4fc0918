"""What hostile models ask for is refused before any library builds it, and in one kind of error."""

from collections.abc import Callable

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from stillframe.errors import ModelError
from stillframe.reuse.compile import compile_model, load_graph
from stillframe.reuse.frontend import model_limits
from stillframe.reuse.frontend.model_errors import model_errors
from stillframe.reuse.frontend.node_order import sort_nodes
from stillframe.reuse.session import ReuseSession
from tests.graph_cases import Array, Step, model, w

GB = 1e9
INTS = np.int64


def edited(content: bytes, edit: Callable[[onnx.GraphProto], None]) -> bytes:
    proto = onnx.load_from_string(content)
    edit(proto.graph)
    return bytes(proto.SerializeToString())


def reverse(graph: onnx.GraphProto) -> None:
    nodes = list(graph.node)[::-1]
    del graph.node[:]
    graph.node.extend(nodes)


CHAIN: list[Step] = [
    ("Conv", ["x", w(4, 3, 3, 3), w(4)], "a", {"pads": [1] * 4}),
    ("Relu", ["a"], "b", {}),
    ("Hardmax", ["b"], "c", {"axis": 1}),
    ("Add", ["b", "c"], "y", {}),
]


def test_nodes_out_of_order_are_sorted() -> None:
    content = model(CHAIN, {"x": (1, 3, 8, 8)}, ["y"])
    picture = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    results: list[Array] = []
    for source in (content, edited(content, reverse)):
        with ReuseSession(source, threads=1) as session:
            results += session.run(None, {"x": picture})
    np.testing.assert_array_equal(*results)


def test_nodes_in_order_stay_as_they_are() -> None:
    proto = onnx.load_from_string(model(CHAIN, {"x": (1, 3, 8, 8)}, ["y"]))
    before = proto.SerializeToString(deterministic=True)
    sort_nodes(proto.graph, "the model")
    assert proto.SerializeToString(deterministic=True) == before


def test_a_circle_of_nodes_is_refused() -> None:
    def close_the_circle(graph: onnx.GraphProto) -> None:
        graph.node[1].input[0] = "y"

    with pytest.raises(ModelError, match=r"node 'n1' \(Relu\), .*wait for each other's outputs"):
        load_graph(edited(model(CHAIN, {"x": (1, 3, 8, 8)}, ["y"]), close_the_circle))


@pytest.mark.parametrize("name", ["kernel_shape", "strides", "dilations", "pads"])
def test_a_window_that_no_picture_has_is_refused(name: str) -> None:
    """onnx aborts the process where such a number overflows."""
    attributes: dict[str, object] = {"kernel_shape": [3, 3]}
    attributes[name] = [(1 << 31) - 1] * (4 if name == "pads" else 2)
    steps: list[Step] = [("MaxPool", ["x"], "y", attributes)]
    with pytest.raises(ModelError, match=rf"node 'n0' \(MaxPool\): expected {name} of at most"):
        load_graph(model(steps, {"x": (1, 3, 8, 8)}, ["y"]))


HUGE = 3_000_000_000
BOMBS: dict[str, list[Step]] = {
    "ConstantOfShape": [("ConstantOfShape", [np.array([HUGE], INTS)], "bomb", {})],
    "Expand": [("Expand", [np.ones(1, np.float32), np.array([HUGE], INTS)], "bomb", {})],
    "Tile": [("Tile", [np.ones(1, np.float32), np.array([HUGE], INTS)], "bomb", {})],
    "Range": [
        ("Range", [np.array(0, INTS), np.array(HUGE, INTS), np.array(1, INTS)], "i", {}),
        ("Cast", ["i"], "bomb", {"to": 1}),
    ],
    "computed": [
        ("Mul", [np.array([HUGE], INTS), np.array([1], INTS)], "size", {}),
        ("Expand", [np.ones(1, np.float32), "size"], "bomb", {}),
    ],
}


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_of_constants_is_refused_before_it_is_built(kind: str) -> None:
    steps = [
        *BOMBS[kind],
        ("ReduceMax", ["bomb"], "most", {"keepdims": 0}),
        ("Add", ["x", "most"], "y", {}),
    ]
    with pytest.raises(ModelError, match=r"makes [\d.]+ GB of \d+ bytes of constants; expected"):
        load_graph(model(steps, {"x": (1, 3, 8, 8)}, ["y"]))


BOMBS_IN_BODIES = BOMBS | {
    "Pad": [("Pad", [np.ones(1, np.float32), np.array([0, HUGE], INTS)], "bomb", {})],
    "size of a captured tensor": [
        ("Shape", ["x"], "shape", {}),
        ("Mul", ["shape", np.array([1, 1000, 1000, 1000], INTS)], "size", {}),
        ("ConstantOfShape", ["size"], "bomb", {}),
    ],
}
CONTROL_FLOW = ("If", "Loop", "Scan")
REDUCED: list[Step] = [
    ("ReduceMax", ["bomb"], "most", {"keepdims": 0}),
    ("Add", ["x", "most"], "y", {}),
]


def control_flow(operator: str, body: onnx.GraphProto, output: str) -> onnx.GraphProto:
    """A graph without inputs that runs a body, which reads the captured `x` and writes `y`.

    Whether it runs at all depends on x, so that no optimizer unpacks it.
    """
    floats, truth, steps = onnx.TensorProto.FLOAT, onnx.TensorProto.BOOL, onnx.TensorProto.INT64
    top, zero, sign, trips = (f"{name} of {output}" for name in ("top", "zero", "sign", "trips"))
    constants = [numpy_helper.from_array(np.array(0, np.float32), zero)]
    nodes = [
        helper.make_node("ReduceMax", ["x"], [top], keepdims=0),
        helper.make_node("Greater", [top, zero], [sign]),
    ]
    if operator == "If":
        other = helper.make_graph(
            [helper.make_node("Identity", ["x"], ["other"])],
            "other",
            [],
            [helper.make_tensor_value_info("other", floats, None)],
        )
        nodes.append(helper.make_node("If", [sign], [output], then_branch=body, else_branch=other))
    elif operator == "Loop":
        body.node.append(helper.make_node("Identity", ["go on"], ["went on"]))
        body.input.append(helper.make_tensor_value_info("step", steps, []))
        body.input.append(helper.make_tensor_value_info("go on", truth, []))
        body.output.insert(0, helper.make_tensor_value_info("went on", truth, []))
        constants.append(numpy_helper.from_array(np.array(2, INTS), trips))
        nodes.append(helper.make_node("Loop", [trips, sign], [output], body=body))
    else:
        body.input.append(helper.make_tensor_value_info("row", floats, [3, 8, 8]))
        nodes.append(helper.make_node("Scan", ["x"], [output], body=body, num_scan_inputs=1))
    end = helper.make_tensor_value_info(output, floats, None)
    return helper.make_graph(nodes, "around the body", [], [end], constants)


def around(operator: str, body: onnx.GraphProto) -> bytes:
    """The model that runs a body, see `control_flow`."""
    graph = control_flow(operator, body, "z")
    graph.input.append(helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, (1, 3, 8, 8)))
    imports = [helper.make_opsetid("", 17)]
    content = helper.make_model(graph, opset_imports=imports, ir_version=8)
    return bytes(content.SerializeToString())


def body_of(steps: list[Step]) -> onnx.GraphProto:
    """Steps as a body without inputs: `x` is captured, and the constants are its own."""
    return onnx.load_from_string(model(steps, {}, ["y"])).graph


@pytest.mark.parametrize("operator", CONTROL_FLOW)
@pytest.mark.parametrize("kind", BOMBS_IN_BODIES)
def test_a_bomb_in_the_body_of_a_control_flow_node_is_refused(kind: str, operator: str) -> None:
    body = body_of([*BOMBS_IN_BODIES[kind], *REDUCED])
    with pytest.raises(ModelError, match=r"makes [\d.]+ GB of \d+ bytes of constants; expected"):
        load_graph(around(operator, body))


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_two_bodies_deep_is_refused(kind: str) -> None:
    inner = control_flow("If", body_of([*BOMBS[kind], *REDUCED]), "inner")
    with pytest.raises(ModelError, match=r"makes [\d.]+ GB of \d+ bytes of constants; expected"):
        load_graph(around("Loop", inner))


@pytest.mark.parametrize("operator", CONTROL_FLOW)
def test_a_bomb_of_captured_constants_is_refused(operator: str) -> None:
    """Its size is computed around the body."""

    def size(graph: onnx.GraphProto) -> None:
        for name, value in (("half", HUGE // 2), ("two", 2)):
            graph.initializer.append(numpy_helper.from_array(np.array([value], INTS), name))
        graph.node.insert(0, helper.make_node("Mul", ["half", "two"], ["size"]))

    body = body_of([("ConstantOfShape", ["size"], "bomb", {}), *REDUCED])
    with pytest.raises(ModelError, match=r"makes [\d.]+ GB of \d+ bytes of constants; expected"):
        load_graph(edited(around(operator, body), size))


@pytest.mark.parametrize("operator", CONTROL_FLOW)
def test_a_node_of_a_body_that_does_not_fit_is_refused(operator: str) -> None:
    """It depends on x, so that it is no constant."""
    body = body_of([("Expand", ["x", np.array([1 << 32, 3, 8, 8], INTS)], "bomb", {}), *REDUCED])
    with pytest.raises(ModelError, match=r"\(Expand\) takes [\d.e+]+ GB; .* can be used"):
        load_graph(around(operator, body))


@pytest.mark.parametrize("operator", CONTROL_FLOW)
def test_a_body_with_constants_of_a_usual_size_runs(operator: str) -> None:
    body = body_of([("ConstantOfShape", [np.array([1, 3, 8, 8], INTS)], "bomb", {}), *REDUCED])
    x = np.random.default_rng(0).random((1, 3, 8, 8), np.float32)
    with ReuseSession(around(operator, body), threads=1) as session:
        (z,) = session.run(None, {"x": x})
    np.testing.assert_array_equal(z, x if operator == "If" else np.stack([x] * len(z)))


def test_constants_of_a_usual_size_are_folded() -> None:
    steps: list[Step] = [
        ("Expand", [np.ones(1, np.float32), np.array([1, 3, 512, 512], INTS)], "e", {}),
        ("Add", ["x", "e"], "y", {}),
    ]
    load_graph(model(steps, {"x": (1, 3, 512, 512)}, ["y"]))


# --- memory --------------------------------------------------------------------------------------


def test_an_input_that_does_not_fit_into_memory_is_refused_with_the_figure() -> None:
    with pytest.raises(ModelError, match=r"input 'x' of shape \[1, 3, 2147483648, 32\] takes 825"):
        load_graph(model(CHAIN, {"x": (1, 3, 1 << 31, 32)}, ["y"]))


@pytest.mark.parametrize("operator", ["Conv", "Hardmax"])
def test_a_node_that_does_not_fit_is_refused_with_the_figure(
    operator: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a region and in an island."""
    monkeypatch.setattr(model_limits, "_free_bytes", lambda: [100_000])
    _, inputs, _, attributes = next(step for step in CHAIN if step[0] == operator)
    steps: list[Step] = [(operator, ["x", *inputs[1:]], "y", attributes)]
    with pytest.raises(ModelError, match=rf"\({operator}\) takes .* GB; 7.5e-05 GB can be used"):
        load_graph(model(steps, {"x": (1, 3, 60, 60)}, ["y"]))


def test_a_plan_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    content = model(CHAIN, {"x": (1, 3, 32, 32)}, ["y"])
    compile_model(content)
    monkeypatch.setattr("stillframe.reuse.compile.check_plan", lambda needed: free(needed))

    def free(needed: int) -> None:
        monkeypatch.setattr(model_limits, "_free_bytes", lambda: [needed])
        model_limits.check_plan(needed)

    with pytest.raises(ModelError, match=r"the activations take .* GB"):
        compile_model(content)


# --- the border ----------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [IndexError("x"), MemoryError(), KeyError("a"), RecursionError()])
def test_a_foreign_exception_becomes_a_model_error_with_the_node(error: Exception) -> None:
    error.add_note("node 'a' (Conv)")
    expected = pytest.raises(ModelError, match=r"^net\.onnx: node 'a' \(Conv\): ")
    with expected as caught, model_errors("net.onnx"):
        raise error
    assert caught.value.__cause__ is error


def test_an_island_that_onnx_runtime_stops_names_its_nodes() -> None:
    def shorten(graph: onnx.GraphProto) -> None:
        graph.initializer.append(numpy_helper.from_array(np.array([7], INTS), "seven"))
        graph.node.append(helper.make_node("ArgMax", ["y"], ["i"], axis=1, keepdims=0))
        graph.node.append(helper.make_node("Reshape", ["n"], ["z"]))
        graph.node[-1].input.append("seven")
        graph.node.insert(4, helper.make_node("NonZero", ["i"], ["n"]))
        graph.output[0].CopyFrom(helper.make_tensor_value_info("z", onnx.TensorProto.INT64, None))

    content = edited(model(CHAIN, {"x": (1, 3, 8, 8)}, ["y"]), shorten)
    with ReuseSession(content, threads=1) as session:
        for _ in range(2):
            with pytest.raises(ModelError, match=r"Hardmax n2, .*ONNX Runtime stopped: .*Reshape"):
                session.run(None, {"x": np.zeros((1, 3, 8, 8), np.float32)})
