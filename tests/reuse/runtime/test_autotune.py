"""What is measured once: by which micro-kernel a convolution runs, kept and read again."""

import json
from pathlib import Path

import numpy as np
import pytest

from stillframe.reuse.compile import compile_graph
from stillframe.reuse.disk_cache import DiskCache
from stillframe.reuse.kernels.conv import TILES
from stillframe.reuse.plan.plan import Tuning
from stillframe.reuse.runtime import autotune
from stillframe.reuse.runtime.autotune import Measured, excerpt, measure, signature, tune
from stillframe.reuse.runtime.engine import PlanRunner
from stillframe.reuse.runtime.workers import Workers
from tests.nets import Net


def graph(channels: int = 40) -> autotune.Graph:
    net = Net()
    x = net.conv(net.input(40, 50, 8), channels, name="a", stride=(2, 2))
    return net.graph(net.conv(x, 4, (1, 1), name="y"))


def test_every_convolution_worth_it_is_measured_once_and_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = graph()
    first = tune(network, DiskCache(tmp_path), compile_graph)
    assert set(first.tiles) == {"a"}  # the other one is too small
    assert 0 <= first.tiles["a"] < len(TILES)
    assert autotune.LEAST_BREAK_EVEN <= first.break_even <= 1
    monkeypatch.setattr(autotune, "measure", lambda *_: pytest.fail("it was measured before"))
    assert tune(network, DiskCache(tmp_path), compile_graph) == first


def test_a_note_decides(tmp_path: Path) -> None:
    network = graph()
    cache = DiskCache(tmp_path)
    cache.add({signature(network.nodes[0], network): [2, 80, 100]})
    assert tune(network, cache, compile_graph) == Tuning({"a": 2}, 0.8)


@pytest.mark.parametrize(
    "note",
    [
        *([99, 80, 100], [-1, 80, 100], [0.5, 80, 100], [True, 80, 100]),  # no row of TILES
        *([2, 0, 100], [2, "80", 100], [2, 80, 1 << 70], [2, 80]),
        *("note", 7, {"2": 80}, None),
    ],
    ids=str,
)
def test_a_note_that_makes_no_sense_is_measured_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, note: object
) -> None:
    network = graph()
    name = signature(network.nodes[0], network)
    cache = DiskCache(tmp_path)
    cache.add({name: note})
    monkeypatch.setattr(autotune, "measure", lambda *_: Measured(1, 80, 100))
    assert tune(network, cache, compile_graph) == Tuning({"a": 1}, 0.8)
    assert DiskCache(tmp_path).get(name) == [1, 80, 100]


def test_what_is_tried_is_the_convolution_itself() -> None:
    network = graph()
    alone = excerpt(network.nodes[0], network).check()
    assert alone.shapes["y"][1:] == network.shapes["a"][1:]
    assert alone.shapes["w"] == network.shapes[network.nodes[0].inputs[1]]
    assert alone.nodes[0].attrs["stride"] == (2, 2)
    measured = measure(network.nodes[0], network, compile_graph)
    assert isinstance(measured, Measured)
    assert measured.dense_ns > 0
    assert measured.sparse_ns > 0


@pytest.mark.parametrize("tile", range(len(TILES)))
def test_no_micro_kernel_changes_a_bit(tile: int) -> None:
    alone = excerpt(graph().nodes[0], graph())
    feed = {"x": np.random.default_rng(1).standard_normal(alone.inputs[0].shape, np.float32)}
    results = []
    for tuning in (Tuning(), Tuning({"y": tile})):
        engine = PlanRunner(compile_graph(alone, tuning=tuning), Workers(1))
        engine.step(feed)
        results.append(engine.output("z").copy())
    np.testing.assert_array_equal(results[0].view(np.int32), results[1].view(np.int32))


def test_notes_of_two_processes_do_not_lose_each_other(tmp_path: Path) -> None:
    one, two = DiskCache(tmp_path), DiskCache(tmp_path)
    one.add({"a": 1})
    two.add({"b": [2]})
    assert DiskCache(tmp_path).get("a") == 1
    assert DiskCache(tmp_path).get("b") == [2]
    assert [path.suffix for path in tmp_path.iterdir()] == [".json"]


@pytest.mark.parametrize("content", ["", "[1]", '{"a": ', "[" * 200_000, '{"b": "' + chr(0) + '"}'])
def test_a_spoilt_cache_is_an_empty_one(tmp_path: Path, content: str) -> None:
    path = DiskCache(tmp_path).path
    path.write_text(content)
    cache = DiskCache(tmp_path)
    assert cache.get("a") is None
    cache.add({"a": 1})
    assert json.loads(path.read_text()) == {"a": 1}


def test_a_cache_that_cannot_be_replaced_leaves_no_parts(tmp_path: Path) -> None:
    path = DiskCache(tmp_path).path
    path.mkdir()
    DiskCache(tmp_path).add({"a": 1})
    assert list(tmp_path.iterdir()) == [path]


def test_where_nothing_can_be_written_notes_last_as_long_as_the_cache(tmp_path: Path) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    cache = DiskCache(blocked / "below")
    cache.add({"a": 1})
    assert cache.get("a") == 1
