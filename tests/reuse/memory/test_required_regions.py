"""What is wanted of a dropped tensor, before any frame: by hand, and against every position."""

from pathlib import Path

import numpy as np
import pytest

from stillframe.reuse.disk_cache import DiskCache
from stillframe.reuse.ir.graph import Graph
from stillframe.reuse.ir.windows import Span, Window, same, span
from stillframe.reuse.memory.arena import place
from stillframe.reuse.memory.buffers import lay_out
from stillframe.reuse.memory.liveness import naive_bytes
from stillframe.reuse.memory.planner import kept, plan_memory
from stillframe.reuse.memory.required_regions import UnforeseenError, demand, turned
from tests.nets import Net


def two_convs() -> Graph:
    net = Net()
    x = net.conv(net.input(9, 9, 3), 8, name="a")
    return net.graph(net.conv(x, 8, name="y"))


def spans(window: Window) -> list[tuple[int, int]]:
    return list(zip(window.rows[0].tolist(), window.rows[1].tolist(), strict=True))


def test_what_is_dropped_is_wanted_where_its_reader_is_active() -> None:
    graph = two_convs()
    found = demand(graph, lay_out(graph), frozenset({"x", "y"}), frozenset(), frozenset({"a"}))
    ((source, reader),) = found.sources["y"]
    assert source == "x"
    assert spans(reader)[4] == (2, 7)  # two 3x3 kernels deep
    ((source, wanted),) = found.sources["a"]
    assert source == "x"
    assert spans(wanted)[4] == (1, 8)  # for y at rows 3..5, which look at 1..7
    assert found.widened == {"a"}


def test_nothing_is_wanted_where_nothing_is_dropped() -> None:
    graph = two_convs()
    found = demand(graph, lay_out(graph), frozenset({"x", "a", "y"}), frozenset(), frozenset())
    assert not found.widened
    assert not found.sources


def test_marks_that_only_a_later_comparison_tells_are_refused() -> None:
    net = Net()
    x = net.input(9, 9, 3)
    a = net.conv(x, 8, name="a")
    b = net.conv(x, 8, name="b")
    graph = net.graph(net.conv(a, 8, name="y", residual=b))
    storage, dropped = lay_out(graph), frozenset({"a"})
    with pytest.raises(UnforeseenError, match=r"node 0 would have to know .* 'b', written by node"):
        demand(graph, storage, frozenset({"x", "b", "y"}), frozenset({"b"}), dropped)
    assert demand(graph, storage, frozenset({"x", "b", "y"}), frozenset(), dropped).widened == {"a"}


def interval(rng: np.random.Generator, count: int, size: int) -> Span:
    low = rng.integers(0, size, count)
    return span(low, low + rng.integers(0, 4, count), size)


@pytest.mark.parametrize("seed", range(20))
def test_turning_a_window_keeps_all_that_any_reader_depends_on(seed: int) -> None:
    rng = np.random.default_rng(seed)
    readers, size, above = (int(n) for n in rng.integers(1, 12, 3))
    window, marks = interval(rng, readers, size), interval(rng, readers, above)
    plain = same(1)
    low, high = turned(Window(window, plain), Window(marks, plain), (size, 1)).rows
    for position in range(size):
        for reader in range(readers):
            if window[0][reader] <= position < window[1][reader]:
                for mark in range(marks[0][reader], marks[1][reader]):
                    assert low[position] <= mark < high[position]


def deep() -> Graph:
    net = Net()
    x = net.input(80, 80, 3)
    for _ in range(6):
        x = net.conv(x, 8)
    return net.graph(x)


def test_the_default_budget_is_three_fifths_of_keeping_everything() -> None:
    graph = deep()
    found = plan_memory(graph, lay_out(graph), frozenset()).lifetimes
    everything = plan_memory(graph, lay_out(graph), frozenset(), 1 << 40).lifetimes
    taken, whole = (
        each.persistent_bytes + place(each.requests()).size for each in (found, everything)
    )
    assert taken <= 0.6 * naive_bytes(graph) < whole


def test_a_choice_is_noted_and_a_foreign_note_is_harmless(tmp_path: Path) -> None:
    graph, storage = deep(), lay_out(deep())
    notebook = DiskCache(tmp_path)
    first = plan_memory(graph, storage, frozenset(), None, notebook)
    (name,) = [note for note in notebook._notes if note.startswith("dropped")]
    assert plan_memory(graph, storage, frozenset(), None, notebook).recomputed == first.recomputed
    foreign: tuple[object, ...] = (["a tensor of another network"], [["x"]], [7], 7, {"x": 1}, "x")
    for note in foreign:
        notebook.add({name: note})
        again = plan_memory(graph, storage, frozenset(), None, notebook)
        assert again.recomputed == first.recomputed


def test_no_vector_is_dropped() -> None:
    net = Net()
    graph = net.graph(net.conv(net.mean(net.input(9, 9, 3), name="g"), 8, name="y"))
    storage = lay_out(graph)
    assert storage.ring("g") == (1, 1, 1, 1)
    with pytest.raises(ValueError, match="'g' is a vector"):
        kept(graph, storage, frozenset(), frozenset(), frozenset({"g"}))
