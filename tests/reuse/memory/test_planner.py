"""Whole memory plans: what persists, what it takes and what it costs, against figures on file.

`plans.json` holds the figures of three architectures and of nets made by hand, under three budgets.
They were taken before the planner was rewritten and stand for: the same bytes for the same work. A
plan may become better. Then write the file again, and say in the commit what became better:

    python -m tests.reuse.memory.test_planner
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from stillframe.models.architectures import convolutional
from stillframe.reuse.compile import compile_graph, load_graph
from stillframe.reuse.introspection import activation, layers
from stillframe.reuse.ir.graph import Graph
from stillframe.reuse.kernels import abi
from stillframe.reuse.plan.plan import Plan
from stillframe.reuse.runtime.engine import PlanRunner
from stillframe.reuse.runtime.workers import Workers
from stillframe.reuse.session import ReuseSession
from tests.graph_cases import model, w
from tests.nets import Net

FILE = Path(__file__).with_name("plans.json")
BUDGETS = {"default": None, "least": 0, "everything": 1 << 40}
Figures = dict[str, Any]


def chain() -> Graph:
    net = Net()
    x = net.input(24, 24, 3)
    for _ in range(12):
        x = net.conv(x, 8)
    return weighted(net.graph(x))


def mobile() -> Graph:
    """Inverted residuals: the wide tensors live only within the frame."""
    net = Net()
    x = net.conv(net.input(64, 64, 3), 16, stride=(2, 2))
    for _ in range(12):
        x = net.point(net.conv(net.point(x, 96), 96), 16, residual=x)
    return weighted(net.graph(x))


def u_shaped() -> Graph:
    """Skips over pools and resizes, joined by Concat."""
    net = Net()
    x = net.input(64, 64, 3)
    skips = []
    for channels in (8, 12, 16):
        x = net.conv(net.conv(x, channels), channels)
        skips.append(x)
        x = net.pool(x)
    x = net.conv(net.conv(x, 24), 24)
    for skip in reversed(skips):
        height, width, channels = net.shapes[skip]
        x = net.concat(net.resize(x, height, width, True), skip)
        x = net.conv(net.conv(x, channels), channels)
    return weighted(net.graph(x))


def dense() -> Graph:
    """Every layer reads all before it."""
    net = Net()
    x = net.conv(net.input(32, 32, 3), 8)
    for _ in range(8):
        x = net.concat(x, net.conv(net.point(x, 16), 4))
    return weighted(net.graph(net.point(x, 4)))


def gated() -> Graph:
    """Residual blocks whose sum is scaled by a vector of the whole picture."""
    net = Net()
    x = net.conv(net.input(40, 40, 3), 16)
    for _ in range(6):
        y = net.conv(net.conv(x, 16), 16, residual=x)
        x = net.binary(y, net.unary(net.point(net.mean(y), 16)))
    return weighted(net.graph(x))


def residual() -> Graph:
    net = Net()
    x = net.conv(net.input(40, 40, 3), 16)
    for _ in range(6):
        x = net.binary(net.conv(net.conv(x, 16), 16), x)
    return weighted(net.graph(x))


def weighted(graph: Graph) -> Graph:
    """With random weights for the zeros of `Net`, scaled so that values keep their size."""
    rng = np.random.default_rng(1)
    constants = {
        name: (
            rng.normal(size=zeros.shape) * (2 / max(1, np.prod(zeros.shape[:-1]))) ** 0.5
        ).astype(np.float32)
        for name, zeros in graph.constants.items()
    }
    return replace(graph, constants=constants)


SIZE = (64, 96)
NETS: dict[str, Callable[[], Graph]] = {
    "resnet50": lambda: load_graph(convolutional.resnet50(SIZE, width=1 / 8).SerializeToString()),
    "vgg16": lambda: load_graph(convolutional.vgg16(SIZE, width=1 / 8).SerializeToString()),
    "style": lambda: load_graph(convolutional.style(SIZE, width=1 / 8).SerializeToString()),
    "style, transposed": lambda: load_graph(
        convolutional.style(SIZE, width=1 / 8, upsampling="transposed").SerializeToString()
    ),
    "chain": chain,
    "mobile": mobile,
    "u-shaped": u_shaped,
    "dense": dense,
    "gated": gated,
    "residual": residual,
}


def clip(graph: Graph) -> Iterator[tuple[NDArray[np.float32], NDArray[np.uint8]]]:
    """Pictures as the graph's input wants them, each with the mask of what is new in it."""
    (port,) = graph.inputs
    height, width, channels = graph.shapes[port.name]
    rng = np.random.default_rng(3)
    picture = rng.standard_normal((height, width, channels)).astype(np.float32)
    for top, left, tall, wide in ((0, 0, 1, 1), (0.3, 0.3, 0.3, 0.3), (0.7, 0, 0.1, 0.2)):
        mask = np.zeros((height, width), np.uint8)
        y, x = int(top * height), int(left * width)
        mask[y : y + max(int(tall * height), 1), x : x + max(int(wide * width), 1)] = 1
        picture[mask > 0] = rng.standard_normal((int(mask.sum()), channels))
        feed = picture.transpose(2, 0, 1) if port.layout == "NCHW" else picture
        yield np.ascontiguousarray(feed).reshape(port.shape), mask


def work(plan: Plan, workers: Workers) -> list[int]:
    """Multiply-adds of partial steps with fixed masks; outputs are those of dense steps."""
    (port,) = plan.graph.inputs
    runner = PlanRunner(plan, workers, break_even=1.0)
    whole = PlanRunner(compile_graph(plan.graph), workers)
    done = []
    for number, (picture, mask) in enumerate(clip(plan.graph)):
        runner.step({port.name: picture}, {port.name: mask})
        whole.step({port.name: picture}, dense=True)
        for output in plan.graph.outputs:
            same = np.array_equal(runner.output(output.name), whole.output(output.name))
            assert same, f"step {number}, output {output.name!r}"
        targets = plan.tensors[plan.instructions[:, abi.TARGET]]
        positions = np.maximum(targets[:, abi.HEIGHT] * targets[:, abi.WIDTH], 1)
        each = [layer.multiply_adds for layer in plan.layers]
        done.append(int((plan.records[:, abi.ACTIVE] * each // positions).sum()))
    return done[1:]  # the first is dense


def figures(graph: Graph, budget: int | None, workers: Workers) -> Figures:
    plan = compile_graph(graph, memory_budget=budget)
    memory = plan.memory
    return {
        "persistent": memory.persistent_bytes,
        "transient": memory.arena_bytes,
        "lower bound": memory.lower_bound,
        "multiply-adds": work(plan, workers),
        "roots": len(memory.persistent),
        "cutoffs": len(memory.cutoffs),
        "recomputed": sorted(memory.recomputed),
    }


@pytest.mark.parametrize("budget", BUDGETS)
@pytest.mark.parametrize("name", NETS)
def test_a_plan_takes_the_bytes_and_the_work_that_are_on_file(name: str, budget: str) -> None:
    on_file = json.loads(FILE.read_text("utf-8"))[name][budget]
    workers = Workers(1)
    try:
        assert figures(NETS[name](), BUDGETS[budget], workers) == on_file
    finally:
        workers.close()


def main() -> None:
    workers = Workers(1)
    table = {
        name: {budget: figures(net(), size, workers) for budget, size in BUDGETS.items()}
        for name, net in NETS.items()
    }
    rows = (
        f"  {json.dumps(name)}: {{\n"
        + ",\n".join(f"    {json.dumps(key)}: {json.dumps(value)}" for key, value in each.items())
        + "\n  }"
        for name, each in table.items()
    )
    FILE.write_text("{\n" + ",\n".join(rows) + "\n}\n", "utf-8")
    workers.close()


if __name__ == "__main__":
    main()


def test_a_pool_that_finds_peaks_is_never_cut_off() -> None:
    """A largest neighbour that is left unstored differs from the map, whose peak would be lost."""
    pool = {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1]}
    steps = [
        ("Conv", ["x", w(4, 3, 3, 3)], "h", {"pads": [1, 1, 1, 1]}),
        ("MaxPool", ["h"], "p", pool),
        ("Equal", ["h", "p"], "e", {}),
        ("Where", ["e", "h", np.zeros((), np.float32)], "y", {}),
        ("Conv", ["p", w(4, 4, 3, 3)], "z", {"pads": [1, 1, 1, 1]}),
    ]
    network = model(steps, {"x": (1, 3, 24, 32)}, ["y", "z"])
    picture = np.random.default_rng(0).normal(size=(1, 3, 24, 32)).astype(np.float32)
    with ReuseSession(network, tolerance=0.5, threads=1, break_even=9.0) as session:
        compared = {layer.name for layer in layers(session) if layer.cut_off}
        assert "p" not in compared
        for step in range(20):
            picture[:, :, 5:15, step % 12 : step % 12 + 9] *= 1.03
            (peaks, _), _ = session.step({"x": picture})
            scores = activation(session, "h")
            largest = np.pad(scores, ((1, 1), (1, 1), (0, 0)), constant_values=-np.inf)
            views = [largest[i : i + 24, j : j + 32] for i in range(3) for j in range(3)]
            expected = np.where(scores == np.max(views, axis=0), scores, 0)
            np.testing.assert_array_equal(peaks[0], expected.transpose(2, 0, 1))
