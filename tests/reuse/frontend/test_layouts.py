"""Random ONNX models that turn, reshape and join tensors, with islands in between."""

from typing import Any

import numpy as np
import onnxruntime
import pytest

from stillframe.reuse.compile import load_graph
from stillframe.reuse.frontend import partition
from stillframe.reuse.ir import interpreter
from stillframe.reuse.ir.graph import ISLAND
from tests.graph_cases import Array, Step, ints, model, w

Shape = tuple[int, ...]
PERMS = ((0, 2, 3, 1), (0, 3, 1, 2), (0, 1, 3, 2))
KINDS = (
    *("unary", "odd", "constant", "join", "join", "concat", "turn", "turn", "view"),
    *("conv", "pool", "mean", "slice"),
)
FEEDS = ((1, 4, 6, 5), (1, 5, 5, 5), (1, 4, 4, 4), (1, 3, 1, 7), (1, 1, 5, 5), (1, 6, 1, 1))
"""Equal sizes and single ones, so that a wrong order of axes can go unnoticed by shapes."""
ODD = ("Sin", "Ceil")
"""Operators that the engine does not have."""


def random_model(seed: int) -> tuple[list[Step], dict[str, Shape], list[str]]:
    """Steps, feeds and outputs: every tensor that nothing reads, and one that something does."""
    rng = np.random.default_rng(seed)
    steps: list[Step] = []

    def pick(choices: Any) -> Any:
        return choices[int(rng.integers(len(choices)))]

    shapes: dict[str, Shape] = {"x": pick(FEEDS)}

    def add(op: str, inputs: list[Any], shape: Shape, **attrs: Any) -> None:
        name = f"t{len(steps)}"
        steps.append((op, inputs, name, attrs))
        shapes[name] = shape

    while len(steps) < 14:
        names = list(shapes)
        name = names[-1 - min(int(rng.geometric(0.5)) - 1, len(names) - 1)]
        shape = shapes[name]
        kind = pick(KINDS)
        axis = int(rng.integers(1, len(shape)))
        same = [other for other in names if shapes[other] == shape and other != name]
        if kind == "unary":
            add(pick(("Relu", "Sigmoid", "Tanh")), [name], shape)
        elif kind == "odd":
            add(pick(ODD), [name], shape)
        elif kind == "constant":
            full = [1] * axis + list(shape[axis:])
            add(pick(("Add", "Mul")), [name, w(*full)], shape)
        elif kind == "join" and same:
            add(pick(("Add", "Mul", "Max")), [name, pick(same)], shape)
        elif kind == "concat" and same and max(shape) < 30:
            grown = (*shape[:axis], 2 * shape[axis], *shape[axis + 1 :])
            add("Concat", [name, pick(same)], grown, axis=axis)
        elif kind == "turn" and len(shape) == 4:
            perm = pick(PERMS)
            add("Transpose", [name], tuple(shape[at] for at in perm), perm=perm)
        elif kind == "turn" and len(shape) == 3:
            add("Transpose", [name], (shape[0], shape[2], shape[1]), perm=(0, 2, 1))
        elif kind == "view" and len(shape) == 4:
            flat = pick((
                (1, shape[1], shape[2] * shape[3]),
                (1, shape[1] * shape[2], shape[3]),
                (1, shape[2], shape[3], shape[1]),
            ))  # fmt: skip
            add("Reshape", [name, ints(*flat)], flat)
        elif kind == "view" and len(shape) == 3 and shape[2] % 5 == 0:
            deep = (*shape[:2], 5, shape[2] // 5)
            add("Reshape", [name, ints(*deep)], deep)
        elif kind == "conv" and len(shape) == 4:
            weights = w(pick((3, 4, 5)), shape[1], 3, 3, scale=0.2)
            add("Conv", [name, weights], (1, len(weights), *shape[2:]), pads=[1, 1, 1, 1])
        elif kind == "pool" and len(shape) == 4 and min(shape[2:]) > 1:
            add(
                "AveragePool", [name], (*shape[:2], shape[2] - 1, shape[3] - 1), kernel_shape=[2, 2]
            )
        elif kind == "mean" and len(shape) == 4:
            add("ReduceMean", [name], (*shape[:2], 1, 1), axes=[2, 3])
        elif kind == "slice" and shape[axis] > 1:
            taken = (*shape[:axis], 1, *shape[axis + 1 :])
            add("Slice", [name, ints(1), ints(2), ints(axis)], taken)
    read = {name for step in steps for name in step[1] if isinstance(name, str)}
    outputs = [name for name in shapes if name not in read]
    inner = [name for name in shapes if name in read and name != "x"]
    return steps, {"x": shapes["x"]}, [*outputs, pick(inner)] if inner else outputs


@pytest.mark.parametrize("free", [True, False], ids=["many islands", "few islands"])
@pytest.mark.parametrize("seed", range(60))
def test_random_models_give_onnxruntime_s_answer(
    seed: int, free: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if free:  # nothing is ever swallowed
        for name in ("CALL_US", "TO_ISLAND_US_PER_BYTE", "FROM_ISLAND_US_PER_BYTE"):
            monkeypatch.setattr(partition, name, 0.0)
    steps, feeds, outputs = random_model(seed)
    built = model(steps, feeds, outputs)
    x = np.random.default_rng(seed).normal(size=feeds["x"]).astype(np.float32)
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = onnxruntime.InferenceSession(built, options, providers=["CPUExecutionProvider"])
    expected: dict[str, Array] = dict(zip(outputs, session.run(outputs, {"x": x}), strict=True))
    graph = load_graph(built)
    results = interpreter.run(graph, {"x": x})
    for name, array in expected.items():
        assert results[name].shape == array.shape
        np.testing.assert_allclose(results[name], array, rtol=1e-4, atol=1e-4)


def test_random_models_hold_islands_between_regions() -> None:
    mixed = 0
    for seed in range(20):
        with pytest.MonkeyPatch.context() as patch:
            for name in ("CALL_US", "TO_ISLAND_US_PER_BYTE", "FROM_ISLAND_US_PER_BYTE"):
                patch.setattr(partition, name, 0.0)
            ops = [node.op for node in load_graph(model(*random_model(seed))).nodes]
        mixed += 1 < ops.count(ISLAND) < len(ops)
    assert mixed >= 10
