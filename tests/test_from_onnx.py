"""The importer against ONNX Runtime: every operator case, islands, errors, real models."""

import numpy as np
import onnxruntime
import pytest

from stillframe.reuse import oracle
from stillframe.reuse.from_onnx import compile_graph, import_model
from stillframe.reuse.graph import Graph
from stillframe.reuse.ops import OPS
from tests.graph_cases import CASES, Array, Case


def run_onnx(model: bytes, feeds: dict[str, Array]) -> dict[str, Array]:
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, feeds), strict=True))


def assert_same(
    graph: Graph, feeds: dict[str, Array], expected: dict[str, Array], rtol: float
) -> None:
    found = oracle.run(graph, feeds)
    assert list(found) == list(expected)
    for name, array in expected.items():
        assert found[name].shape == array.shape
        assert found[name].dtype == array.dtype
        largest = max(float(np.abs(array).max()), 1.0)
        np.testing.assert_allclose(found[name] / largest, array / largest, rtol=0, atol=rtol)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_case_gives_onnxruntime_s_answer_before_and_after_the_passes(case: Case) -> None:
    model, feeds = case.model(), case.inputs()
    expected = run_onnx(model, feeds)
    assert_same(import_model(model), feeds, expected, case.tolerance)
    graph = compile_graph(model)
    assert_same(graph, feeds, expected, case.tolerance)
    assert tuple(node.op for node in graph.nodes) == case.ops


def test_every_operator_of_the_engine_has_a_case() -> None:
    assert {op for case in CASES for op in case.ops} == set(OPS)
    assert len({case.name for case in CASES}) == len(CASES)
