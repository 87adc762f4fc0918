"""Dropping what only readers keep: it must still hold when played, fit, and cost what is said."""

import random
from collections.abc import Mapping
from collections.abc import Set as AbstractSet

import numpy as np
import pytest

from stillframe.reuse.ir.graph import ISLAND, Graph
from stillframe.reuse.ir.windows import Flags
from stillframe.reuse.memory.arena import align, lower_bound
from stillframe.reuse.memory.buffers import lay_out
from stillframe.reuse.memory.dataflow import Dataflow
from stillframe.reuse.memory.liveness import (
    LiveRanges,
    arena_requests,
    every_activation_bytes,
    live_ranges,
    persistent_roots,
    reasons_to_persist,
)
from stillframe.reuse.memory.rematerialize import (
    ACTIVE_SHARE,
    Choice,
    candidates,
    choose_recomputed,
)
from stillframe.reuse.memory.required_regions import RegionTracer, Sources, UnforeseenError
from stillframe.reuse.memory.work_estimate import WorkEstimate, outline, work_per_position
from tests.frames import Video
from tests.nets import Net, random_net
from tests.reuse.memory.test_liveness import copied_out, writable


def choose(
    graph: Graph,
    budget_bytes: int | None,
    cutoffs: AbstractSet[str] = frozenset(),
    exports: AbstractSet[str] = frozenset(),
    active_share: float = ACTIVE_SHARE,
) -> Choice:
    flow = Dataflow.of(graph, exports)
    reasons = reasons_to_persist(flow, cutoffs)
    return choose_recomputed(flow, reasons, cutoffs, budget_bytes, active_share=active_share)


def ranges_of(
    graph: Graph,
    cutoffs: AbstractSet[str] = frozenset(),
    exports: AbstractSet[str] = frozenset(),
    recomputed: AbstractSet[str] = frozenset(),
) -> LiveRanges:
    flow = Dataflow.of(graph, exports)
    return live_ranges(flow, reasons_to_persist(flow, cutoffs), recomputed)


def persistent_bytes(ranges: LiveRanges) -> int:
    return sum(align(ranges[name].bytes) for name in persistent_roots(ranges))


def pooled(net: Net) -> Graph:
    """Twice conv 3x3 -> maxpool 2x2, of equal bytes: a 16x16x8, b 8x8x32."""
    x = net.conv(net.input(16, 16, 3), 8, name="a")
    x = net.conv(net.pool(x, name="p"), 32, name="b")
    return net.graph(net.pool(x, name="y"))


def test_convolutions_before_pools_share_one_place_for_a_narrow_halo() -> None:
    net = Net()
    graph = pooled(net)
    choice = choose(graph, None, active_share=5 * 5 / 16 / 16)
    # Positions 5..9 changed: a is active at 4..10, p at 2..5 and b at 1..6. y, at 0..3, looks at
    # 0..7 of b; p is kept. Then p, at 2..5, looks at 4..11 of a.
    extra = {"a": (8 * 8 - 7 * 7) * 27 * 8, "b": (8 * 8 - 6 * 6) * 72 * 32}
    assert {drop.name: drop.extra_work for drop in choice.drops} == extra
    assert sorted(drop.bytes_saved for drop in choice.drops) == [0, 8192]  # the first gains nothing
    assert choice.bytes == persistent_bytes(ranges_of(graph)) - 8192
    own = 7 * 7 * 27 * 8 + 4 * 4 * 4 * 8 + 6 * 6 * 72 * 32 + 4 * 4 * 4 * 32
    assert choice.work == own
    assert choice.recomputed == {"a", "b"}


def test_a_drop_that_gains_nothing_is_not_made() -> None:
    net = Net()
    graph = net.graph(net.pool(net.conv(net.input(16, 16, 3), 8), name="y"))
    assert choose(graph, None).drops == ()


def test_nothing_is_dropped_where_everything_fits_and_no_more_than_needed() -> None:
    net = Net()
    x = net.input(16, 16, 3)
    for _ in range(5):
        x = net.conv(x, 8)
    graph = net.graph(x)
    everything = choose(graph, None)
    start = persistent_bytes(ranges_of(graph))
    assert choose(graph, start).drops == ()
    assert choose(graph, start).bytes == start
    half = (start + everything.bytes) // 2
    some = choose(graph, half)
    assert some.bytes <= half
    assert 0 < len(some.drops) < len(everything.drops)
    assert choose(graph, 1) == everything  # as near as it comes


def test_cheap_work_goes_first() -> None:
    """Two tensors of equal bytes, and a large transient so that either one is a gain."""
    net = Net()
    x = net.point(net.input(16, 16, 2), 64, "large")
    one = net.point(net.point(x, 2), 8, "one")  # a 1x3 looks at it
    wide = net.conv(one, 8, (1, 3), "a wide")  # a 7x7 looks at it
    graph = net.graph(net.conv(wide, 8, (7, 7), name="y"))
    start = choose(graph, 10**9).bytes
    (drop,) = choose(graph, start - 1).drops
    assert (drop.name, drop.bytes_saved) == ("one", 16 * (16 + 2) * 8 * 4)
    assert {drop.name for drop in choose(graph, None).drops} == {"one", "a wide"}


def test_views_are_dropped_with_what_they_are_cut_from() -> None:
    net = Net()
    x = net.point(net.input(16, 16, 4), 4, "a")
    half, rest = net.cut(x, (0, 0, 2), name="h"), net.cut(x, size=(16, 16, 2), name="r")
    y = net.binary(net.conv(half, 4, name="p"), net.conv(rest, 4, name="q"), "y")
    graph = occupied(net, y)
    (drop,) = choose(graph, None).drops
    assert (drop.name, drop.tensors) == ("a", frozenset({"a", "h", "r"}))


def occupied(net: Net, tensor: str) -> Graph:
    """A large transient behind `tensor`, so that the arena has room for what is dropped."""
    return net.graph(net.point(net.point(tensor, 32), name="z"))


def test_what_the_caller_an_island_or_the_whole_picture_needs_stays() -> None:
    net = Net()
    x = net.conv(net.input(8, 8, 2), name="a")
    y = net.binary(x, net.mean(x, name="mean"), "b")
    y = net.conv(net.island(y, shape=(8, 8, 2), name="c"), name="d")
    graph = occupied(net, net.conv(y, name="e"))
    assert persistent_roots(ranges_of(graph)) == {"x", "a", "b", "c", "d", "z"}
    assert choose(graph, None).recomputed == {"d"}


def test_a_dropped_tensor_does_not_cut_off_and_the_growth_is_counted() -> None:
    net = Net()
    y = net.conv(net.conv(net.input(32, 32, 3), 8, name="a"), 8, name="y")
    graph = occupied(net, y)
    choice = choose(graph, 0, cutoffs={"a", "y"}, active_share=10 * 10 / 32 / 32)
    (drop,) = choice.drops
    downstream = 10 * 10 * (8 * 32 + 32 * 2)
    assert choice.work == 12 * 12 * 27 * 8 + 12 * 12 * 72 * 8 + downstream
    assert drop.extra_work == (16 * 16 - 12 * 12) * 27 * 8 + (14 * 14 - 12 * 12) * 72 * 8
    with pytest.raises(ValueError, match=r"^cut-off 'a' is recomputed: nothing is stored to comp"):
        ranges_of(graph, {"a"}, recomputed={"a"})


def tracer_of(graph: Graph, cutoffs: AbstractSet[str] = frozenset()) -> RegionTracer:
    flow = Dataflow.of(graph)
    ranges = live_ranges(flow, reasons_to_persist(flow, cutoffs))
    return RegionTracer(flow, persistent_roots(ranges), frozenset(cutoffs))


def foreseeable(graph: Graph, name: str, cutoffs: AbstractSet[str] = frozenset()) -> bool:
    try:
        tracer_of(graph, cutoffs).drop(frozenset({name}))
    except UnforeseenError:
        return False
    return True


@pytest.mark.parametrize(
    ("cutoffs", "early_first", "known"),
    [
        (set(), True, True),
        ({"late"}, True, False),
        ({"late"}, False, True),
        ({"c"}, True, False),
        ({"c"}, False, True),
    ],
)
def test_a_halo_that_hangs_on_a_later_comparison_cannot_be_foreseen(
    cutoffs: set[str], early_first: bool, known: bool
) -> None:
    """y looks at `early` where only `late` changed, which c or late itself may find out."""
    net = Net()
    x = net.input(8, 8, 2)
    if early_first:
        net.conv(x, name="early")
    net.conv(net.conv(x, name="c"), name="late")
    if not early_first:
        net.conv(x, name="early")
    graph = occupied(net, net.binary("early", "late", "y"))
    assert foreseeable(graph, "early", cutoffs) is known
    if not cutoffs:
        assert choose(graph, None).recomputed == {"early", "c"}
    if cutoffs == {"late"} and early_first:
        # both or none: without its comparison the later one is no surprise
        assert choose(graph, None, cutoffs=cutoffs).recomputed >= {"late"}


def test_what_an_island_changes_is_not_foreseen() -> None:
    net = Net()
    x = net.input(8, 8, 2)
    early = net.conv(x, name="early")
    late = net.island(x, shape=(8, 8, 2), name="late")
    graph = occupied(net, net.binary(early, late, "y"))
    assert not foreseeable(graph, "early")


@pytest.mark.parametrize("share", [0.0, -0.1, 1.01])
def test_a_share_that_makes_no_sense_is_refused(share: float) -> None:
    with pytest.raises(ValueError, match=r"^the active share must be above 0 and at most 1, got"):
        choose(pooled(Net()), None, active_share=share)


@pytest.mark.parametrize("seed", range(120))
def test_nobody_looks_at_rubbish_when_halos_are_computed_again(seed: int) -> None:
    """And no halo has to be known before a comparison that decides it has run."""
    draw = random.Random(seed)
    graph = random_net(seed)
    storage = lay_out(graph)
    share = draw.choice([0.0, 0.1, 0.3])
    cutoffs = frozenset(name for name in writable(graph) if draw.random() < share)
    exports = copied_out(graph) if draw.random() < 0.5 else frozenset[str]()
    budget = None if draw.random() < 0.5 else draw.randrange(20_000)
    choice = choose(graph, budget, cutoffs=cutoffs, exports=exports)
    cutoffs -= choice.recomputed
    ranges = ranges_of(graph, cutoffs, exports, choice.recomputed)
    assert not choice.recomputed & persistent_roots(ranges)
    used = persistent_bytes(ranges) + lower_bound(arena_requests(ranges))
    assert used <= choice.bytes  # fewer cut-offs can only let more be proven
    video = Video(
        graph,
        ranges,
        storage,
        cutoffs,
        draw,
        exports=exports,
        recomputed=choice.recomputed,
        broad=draw.random() < 0.5,
    )
    for _ in range(5):
        video.step()


@pytest.mark.parametrize("seed", range(60))
def test_the_estimate_is_at_least_the_work_of_its_rectangle(seed: int) -> None:
    """Hardly more in a chain; elsewhere rectangles are joined to rectangles around both."""
    graph = random_net(seed) if seed % 2 else chain(seed)
    if any(node.op == ISLAND for node in graph.nodes):
        return
    flow = Dataflow.of(graph)
    start = WorkEstimate.of(tracer_of(graph), ACTIVE_SHARE)
    for recomputed in (frozenset[str](), choose(graph, None).recomputed):
        estimate = start.drop(recomputed)
        changed = {}
        for port in graph.inputs:
            rectangle = outline(flow, port.name, ACTIVE_SHARE)
            changed[port.name] = np.outer(rectangle.rows, rectangle.cols)
        computed = computed_positions(flow, estimate.tracer.regions.sources, changed)
        done = sum(
            computed[node.output] * work_per_position(flow, index)
            for index, node in enumerate(graph.nodes)
        )
        assert estimate.work >= done
        if seed % 2 == 0:
            assert estimate.work <= 1.1 * done


@pytest.mark.parametrize("seed", range(60))
def test_estimates_after_each_drop_are_those_of_a_fresh_start(seed: int) -> None:
    """A drop looks only at where it changes anything, cut-offs that it ends included."""
    draw, graph = random.Random(seed), random_net(seed, 20)
    cutoffs = frozenset(name for name in writable(graph) if draw.random() < 0.2)
    flow = Dataflow.of(graph)
    ranges = live_ranges(flow, reasons_to_persist(flow, cutoffs))
    tracer = RegionTracer(flow, persistent_roots(ranges), cutoffs)
    estimate = WorkEstimate.of(tracer, ACTIVE_SHARE)
    roots = [request.name for request in candidates(flow, ranges)]
    draw.shuffle(roots)
    for root in roots:
        try:
            estimate = estimate.drop(frozenset(flow.sharing[root]))
        except UnforeseenError:
            continue
        assert estimate.work == WorkEstimate.of(estimate.tracer, ACTIVE_SHARE).work


def computed_positions(
    flow: Dataflow, sources: Mapping[str, Sources], changed: Mapping[str, Flags]
) -> dict[str, int]:
    """How many positions of each tensor a frame computes, position by position."""
    marks = dict(changed)
    for index, node in enumerate(flow.graph.nodes):
        plain = [(read.name, read.window) for read in flow.reads[index]]
        computed = np.zeros(flow.graph.shapes[node.output][:2], bool)
        for mask, window in sources.get(node.output, plain):
            computed |= window.image(marks[mask])
        marks[node.output] = computed
    return {name: int(computed.sum()) for name, computed in marks.items()}


def chain(seed: int) -> Graph:
    draw = random.Random(seed)
    net = Net()
    x = net.input(12, 10, 2)
    for _ in range(6):
        kind = draw.randrange(4)
        if kind == 0:
            x = net.conv(x, kernel=draw.choice([(3, 3), (1, 3), (5, 5)]))
        elif kind == 1:
            x = net.point(x)
        elif kind == 2 and min(net.shapes[x][:2]) > 3:
            x = net.pool(x)
        else:
            height, width, _ = net.shapes[x]
            x = net.resize(x, height, width, True)
    return net.graph(x)


@pytest.mark.parametrize("budget_share", [0.6, 0.3, 0.0])
def test_the_time_of_a_choice_grows_with_the_layers_and_not_with_their_square(
    budget_share: float,
) -> None:
    """Regions traced, counted for 50, 100 and 200 convolutions in a row."""

    def traced(layers: int) -> int:
        net = Net()
        x = net.input(24, 24, 3)
        for _ in range(layers):
            x = net.conv(x, 8)
        graph = net.graph(x)
        return choose(graph, int(budget_share * every_activation_bytes(graph))).traced

    counts = [traced(layers) for layers in (50, 100, 200)]
    assert counts[1] < 2.5 * counts[0], counts
    assert counts[2] < 2.5 * counts[1], counts
