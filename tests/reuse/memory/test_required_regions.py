"""What is required of a dropped tensor, before any frame: by hand, and one drop after another."""

import random
from collections.abc import Set as AbstractSet
from pathlib import Path

import pytest

from stillframe.reuse.disk_cache import DiskCache
from stillframe.reuse.ir.graph import Graph
from stillframe.reuse.ir.windows import Window
from stillframe.reuse.memory.buffers import lay_out
from stillframe.reuse.memory.dataflow import Dataflow
from stillframe.reuse.memory.liveness import LIFTED, every_activation_bytes, reasons_to_persist
from stillframe.reuse.memory.planner import arrange, plan_memory
from stillframe.reuse.memory.required_regions import (
    RegionTracer,
    RequiredRegions,
    UnforeseenError,
    required_regions,
)
from tests.nets import Net, random_net
from tests.reuse.memory.test_liveness import copied_out, writable


def two_convs() -> Graph:
    net = Net()
    x = net.conv(net.input(9, 9, 3), 8, name="a")
    return net.graph(net.conv(x, 8, name="y"))


def spans(window: Window) -> list[tuple[int, int]]:
    return list(zip(window.rows[0].tolist(), window.rows[1].tolist(), strict=True))


def regions_of(
    graph: Graph,
    persistent: AbstractSet[str],
    recomputed: AbstractSet[str],
    opaque: AbstractSet[str] = frozenset(),
) -> RequiredRegions:
    return required_regions(Dataflow.of(graph), persistent, opaque, recomputed)


def test_what_is_dropped_is_required_where_its_reader_is_active() -> None:
    regions = regions_of(two_convs(), {"x", "y"}, {"a"})
    ((source, reader),) = regions.sources["y"]
    assert source == "x"
    assert spans(reader)[4] == (2, 7)  # two 3x3 kernels deep
    ((source, required),) = regions.sources["a"]
    assert source == "x"
    assert spans(required)[4] == (1, 8)  # for y at rows 3..5, which look at 1..7
    assert regions.required == {"a"}


def test_nothing_is_required_where_nothing_is_dropped() -> None:
    regions = regions_of(two_convs(), {"x", "a", "y"}, frozenset())
    assert not regions.required
    assert not regions.sources


def test_marks_that_only_a_later_comparison_tells_are_refused() -> None:
    net = Net()
    x = net.input(9, 9, 3)
    a = net.conv(x, 8, name="a")
    b = net.conv(x, 8, name="b")
    graph = net.graph(net.conv(a, 8, name="y", residual=b))
    persistent = frozenset({"x", "b", "y"})
    with pytest.raises(UnforeseenError, match=r"node 0 would have to know .* 'b', written by node"):
        regions_of(graph, persistent, {"a"}, opaque={"b"})
    assert regions_of(graph, persistent, {"a"}).required == {"a"}


@pytest.mark.parametrize("seed", range(100))
def test_dropping_one_by_one_gives_what_dropping_all_at_once_gives(seed: int) -> None:
    """In any order, and whatever was tried in between: a drop traces only its neighbourhood."""
    draw, graph = random.Random(seed), random_net(seed, 20)
    exports = copied_out(graph) if draw.random() < 0.5 else frozenset[str]()
    flow = Dataflow.of(graph, exports)
    reasons = reasons_to_persist(flow, frozenset())
    persistent = {name for name, names in flow.sharing.items() if any(reasons[n] for n in names)}
    roots = [
        root
        for root in sorted(persistent)
        if {each.kind for name in flow.sharing[root] for each in reasons[name]} <= LIFTED
    ]
    draw.shuffle(roots)
    able = [name for name in writable(graph) if flow.root(name) in persistent]
    opaque = {name for name in able if draw.random() < draw.choice([0.0, 0.2])}
    tracer = RegionTracer(flow, frozenset(persistent), frozenset(opaque))
    recomputed: set[str] = set()
    for root in roots:
        try:
            after = tracer.drop(frozenset(flow.sharing[root]))
        except UnforeseenError:
            with pytest.raises(UnforeseenError):
                at_once(flow, persistent, opaque, recomputed.union(flow.sharing[root]))
            continue
        if draw.random() < 0.7:
            tracer = after
            recomputed.update(flow.sharing[root])
        expected = at_once(flow, persistent, opaque, recomputed)
        assert tracer.regions == expected


def at_once(
    flow: Dataflow, persistent: set[str], opaque: set[str], recomputed: set[str]
) -> RequiredRegions:
    remaining = persistent - {flow.root(name) for name in recomputed}
    return required_regions(flow, remaining, opaque - recomputed, recomputed)


def deep() -> Graph:
    net = Net()
    x = net.input(80, 80, 3)
    for _ in range(6):
        x = net.conv(x, 8)
    return net.graph(x)


def test_the_default_budget_is_three_fifths_of_keeping_everything() -> None:
    graph = deep()
    by_default = plan_memory(graph, frozenset())
    whole = plan_memory(graph, frozenset(), 1 << 40)
    assert by_default.size <= 0.6 * every_activation_bytes(graph) < whole.size


def test_a_choice_is_noted_and_a_foreign_note_is_harmless(tmp_path: Path) -> None:
    graph = deep()
    cache = DiskCache(tmp_path)
    first = plan_memory(graph, frozenset(), None, cache)
    (name,) = [note for note in cache._values if note.startswith("dropped")]
    assert plan_memory(graph, frozenset(), None, cache).recomputed == first.recomputed
    foreign: tuple[object, ...] = (["a tensor of another network"], [["x"]], [7], 7, {"x": 1}, "x")
    for note in foreign:
        cache.add({name: note})
        again = plan_memory(graph, frozenset(), None, cache)
        assert again.recomputed == first.recomputed


def test_no_vector_is_dropped() -> None:
    net = Net()
    graph = net.graph(net.conv(net.mean(net.input(9, 9, 3), name="g"), 8, name="y"))
    flow, storage = Dataflow.of(graph), lay_out(graph)
    assert storage.zero_pad("g") == (1, 1, 1, 1)
    with pytest.raises(ValueError, match="'g' is a vector"):
        arrange(flow, reasons_to_persist(flow, frozenset()), frozenset(), frozenset({"g"}))
