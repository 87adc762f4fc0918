"""What survives to the next frame: by rule, in words, and by playing frames through random nets."""

import random
from collections.abc import Callable
from collections.abc import Set as AbstractSet

import pytest

from stillframe.reuse.ir.graph import ISLAND, Graph
from stillframe.reuse.memory.arena import align, place
from stillframe.reuse.memory.buffers import lay_out, region_tensors
from stillframe.reuse.memory.dataflow import Dataflow
from stillframe.reuse.memory.liveness import (
    KINDS,
    TRANSIENT,
    LiveRanges,
    arena_requests,
    every_activation_bytes,
    live_ranges,
    persistent_roots,
    reasons_to_persist,
)
from stillframe.reuse.memory.planner import plan_memory
from tests.frames import Video
from tests.nets import Net, random_net

Draw = Callable[[Net], str]


def ranges_of(
    graph: Graph,
    cutoffs: AbstractSet[str] = frozenset(),
    exports: AbstractSet[str] = frozenset(),
) -> LiveRanges:
    flow = Dataflow.of(graph, exports)
    return live_ranges(flow, reasons_to_persist(flow, cutoffs))


def chain(net: Net) -> str:
    x = net.input(6, 7, 2)
    return net.conv(net.point(net.unary(net.conv(x, name="a"), "b"), name="c"), name="d")


def inverted_residual(net: Net) -> str:
    """MobileNet v2: the wide tensor behind the depthwise kernel lives only within the frame."""
    x = net.point(net.input(6, 7, 2), name="a")
    wide = net.conv(net.point(x, 6, "expand"), 6, name="depthwise")
    return net.point(wide, 2, "project", residual=x)


def two_branches(net: Net) -> str:
    x = net.input(6, 7, 2)
    return net.binary(net.conv(x, name="a"), net.conv(x, kernel=(1, 3), name="b"), "y")


def two_inputs(net: Net) -> str:
    one = net.point(net.input(6, 7, 2, "x"), name="a")
    two = net.point(net.input(6, 7, 2, "z"), name="b")
    return net.binary(one, two, "y")


def excitation(net: Net) -> str:
    x = net.conv(net.input(6, 7, 2), name="a")
    gate = net.unary(net.point(net.mean(x, "mean"), name="squeeze"), "gate")
    return net.binary(x, gate, "y")


def normalised(net: Net) -> str:
    x = net.conv(net.input(6, 7, 2), name="a")
    return net.modulate(x, net.moments(x, "m"), "y")


def self_gated(net: Net) -> str:
    x = net.conv(net.input(6, 7, 2), name="a")
    return net.binary(x, net.unary(x, "gate"), "y")


def pooled(net: Net) -> str:
    return net.pool(net.conv(net.input(6, 8, 2), name="a"), name="y")


def strided(net: Net) -> str:
    return net.pool(net.conv(net.input(6, 8, 2), name="a"), (1, 1), (2, 2), name="y")


def nearest(net: Net) -> str:
    return net.point(net.resize(net.conv(net.input(3, 4, 2), name="a"), 6, 8, False, "b"))


def linear(net: Net) -> str:
    return net.point(net.resize(net.conv(net.input(3, 4, 2), name="a"), 6, 8, True, "b"))


def shuffled(net: Net) -> str:
    x = net.conv(net.input(4, 4, 2), 4, name="a")
    up = net.blocks("DepthToSpace", x, name="b")
    return net.blocks("SpaceToDepth", up, name="y")


def joined(net: Net) -> str:
    """Parts that change together, then two that do not."""
    x = net.conv(net.input(6, 7, 2), name="a")
    both = net.concat(net.point(x, name="p"), net.point(x, name="q"), name="pq")
    apart = net.concat(net.point(both, name="r"), net.conv(both, name="s"), name="rs")
    return net.point(apart)


def stacked(net: Net) -> str:
    """Joined along the rows, parts share no positions."""
    one = net.point(net.input(3, 7, 2, "x"), name="a")
    two = net.point(net.input(3, 7, 2, "z"), name="b")
    return net.point(net.concat(one, two, axis=0, name="ab"))


def sliced(net: Net) -> str:
    """A slice that a 3x3 reads keeps all that it is cut from."""
    x = net.point(net.input(6, 7, 4), 4, "a")
    half, rest = net.cut(x, (0, 0, 2), name="h"), net.cut(x, size=(6, 7, 2), name="r")
    return net.concat(net.conv(half, name="p"), net.point(rest, name="q"), name="y")


def islanded(net: Net) -> str:
    x = net.conv(net.input(6, 7, 2), name="a")
    back = net.island(net.point(x, name="b"), shape=(6, 7, 2), name="c")
    return net.point(back)


def twice_the_same(net: Net) -> str:
    x = net.conv(net.input(6, 7, 2), name="a")
    return net.binary(x, x, "y")


# net, cut-offs, tensor -> why it is kept; all that are not named live within the frame. The input
# and the output y are kept everywhere.
RULES: list[tuple[Draw, set[str], dict[str, str]]] = [
    (chain, set(), {"c": "node 3 Conv -> 'd' looks at 3x3 positions at once"}),
    (
        chain,
        {"a"},
        {
            "a": KINDS["cut-off"],
            "c": "node 3 Conv -> 'd' looks at 3x3 positions at once",
        },
    ),
    (
        inverted_residual,
        set(),
        {
            "a": "node 3 Conv -> 'project' looks where only 'depthwise' changed",
            "expand": "node 2 Conv -> 'depthwise' looks at 3x3 positions at once",
        },
    ),
    (
        inverted_residual,
        {"expand"},
        {
            "a": "node 3 Conv -> 'project' looks where only 'depthwise' changed",
            "expand": "node 2 Conv -> 'depthwise' looks at 3x3 positions at once",
            "depthwise": "node 3 Conv -> 'project' looks where only 'a' changed",
        },
    ),
    (two_branches, set(), {"b": "node 2 Binary -> 'y' looks where only 'a' changed"}),
    (
        two_inputs,
        set(),
        {
            "a": "node 2 Binary -> 'y' looks where only 'b' changed",
            "b": "node 2 Binary -> 'y' looks where only 'a' changed",
        },
    ),
    (excitation, set(), {"a": "node 1 GlobalPool -> 'mean' looks at all of it"}),
    (
        excitation,
        {"squeeze"},
        {
            "a": "node 1 GlobalPool -> 'mean' looks at all of it",
            "squeeze": KINDS["cut-off"],
            "gate": "node 4 Binary -> 'y' looks where only 'a' changed",
        },
    ),
    (normalised, set(), {"a": "node 1 Moments -> 'm' looks at all of it"}),
    (self_gated, set(), {}),
    (twice_the_same, set(), {}),
    (pooled, set(), {"a": "node 1 MaxPool -> 'y' looks at 2x2 positions at once"}),
    (strided, set(), {}),
    (nearest, set(), {}),
    (linear, set(), {"a": "node 1 Resize -> 'b' looks at 2x2 positions at once"}),
    (shuffled, set(), {"b": "node 2 SpaceToDepth -> 'y' looks at 2x2 positions at once"}),
    (
        joined,
        set(),
        {
            "p": "it shares the bytes of 'pq': node 5 Conv -> 's' looks at 3x3 positions at once",
            "q": "it shares the bytes of 'pq': node 5 Conv -> 's' looks at 3x3 positions at once",
            "pq": "node 5 Conv -> 's' looks at 3x3 positions at once",
            "r": "it shares the bytes of 'rs': node 6 Concat -> 'rs' joins 'r' and 's', which can "
            "change apart",
            "s": "it shares the bytes of 'rs': node 6 Concat -> 'rs' joins 'r' and 's', which can "
            "change apart",
            "rs": "node 6 Concat -> 'rs' joins 'r' and 's', which can change apart",
        },
    ),
    (stacked, set(), {}),
    (
        sliced,
        set(),
        {
            "a": "it shares the bytes of 'h': node 3 Conv -> 'p' looks at 3x3 positions at once",
            "h": "node 3 Conv -> 'p' looks at 3x3 positions at once",
            "r": "it shares the bytes of 'h': node 3 Conv -> 'p' looks at 3x3 positions at once",
            "p": "it shares the bytes of 'y': callers get all of it",
            "q": "it shares the bytes of 'y': callers get all of it",
        },
    ),
    (
        islanded,
        set(),
        {"b": "node 2 Island -> 'c' looks at all of it", "c": KINDS["island"]},
    ),
]


@pytest.mark.parametrize(("draw", "cutoffs", "expected"), RULES)
def test_what_is_kept_and_why(draw: Draw, cutoffs: set[str], expected: dict[str, str]) -> None:
    net = Net()
    output = draw(net)
    graph = net.graph(output)
    lives = ranges_of(graph, cutoffs)
    inputs = {port.name for port in graph.inputs}
    assert {
        name: life.why
        for name, life in lives.items()
        if life.persistent and name not in inputs | {output}
    } == expected
    assert {life.why for life in lives.values() if not life.persistent} <= {TRANSIENT}
    assert lives[output].why == KINDS["output"]
    assert {lives[name].why for name in inputs} == {KINDS["input"]}


def test_lives_are_counted_in_instructions_and_name_the_last_reader() -> None:
    net = Net()
    x = net.point(net.input(6, 7, 2), name="a")
    y = net.binary(net.point(net.point(x, name="b"), 4, "c"), net.point(x, 4, "d"), "e")
    z = net.point(y, name="f")
    lives = ranges_of(net.graph(z))
    assert {n: (life.first, life.last, life.last_reader) for n, life in lives.items()} == {
        "x": (-1, 0, "node 0 Conv -> 'a'"),
        "a": (0, 3, "node 3 Conv -> 'd'"),
        "b": (1, 2, "node 2 Conv -> 'c'"),
        "c": (2, 4, "node 4 Binary -> 'e'"),
        "d": (3, 4, "node 4 Binary -> 'e'"),
        "e": (4, 5, "node 5 Conv -> 'f'"),
        "f": (5, 5, ""),
    }
    assert lives["c"].bytes == 6 * 7 * 4 * 4


def test_a_view_takes_no_bytes_and_its_root_lives_as_long_as_any_view() -> None:
    net = Net()
    a = net.point(net.input(6, 7, 2), name="a")
    p, q = net.point(a, name="p"), net.point(a, name="q")
    joined_ = net.concat(p, q, name="pq")
    half = net.cut(joined_, (0, 0, 1), (6, 7, 2), name="half")
    graph = net.graph(net.point(net.point(half, name="r"), name="y"))
    lives = ranges_of(graph)
    roots = {name: life.root for name, life in lives.items()}
    own = {name: name for name in ("x", "a", "pq", "r", "y")}
    assert roots == own | {"p": "pq", "q": "pq", "half": "pq"}
    assert [lives[name].bytes for name in ("p", "q", "half")] == [0, 0, 0]
    requests = {r.name: (r.size, r.first, r.last) for r in arena_requests(lives)}
    floats = 6 * 7 * 4
    assert requests == {"a": (floats * 2, 0, 2), "pq": (floats * 4, 1, 5), "r": (floats * 2, 5, 6)}
    assert persistent_roots(lives) == {"x", "y"}
    plan = plan_memory(graph, frozenset())
    assert plan.persistent == {"x", "y"}
    assert plan.persistent_bytes == 2 * 384  # 2 * floats, rounded up to 64
    assert str(plan) == "2 persistent tensors, 0.0 MB; 3 transient in an arena of 0.0 MB"


def test_a_tensor_that_is_copied_out_where_it_changes_need_not_be_kept() -> None:
    net = Net()
    graph = net.graph(islanded(net))
    output = graph.outputs[0].name
    lives = ranges_of(graph, exports={"b", output})
    assert not lives["b"].persistent
    assert not lives[output].persistent
    assert lives["b"].last == lives["b"].first  # the island looks at the copy
    assert lives["c"].persistent


def test_zeros_around_a_tensor_keep_it_and_take_bytes() -> None:
    """A 1x1 with padding looks at one position, but at zeros that nobody else may overwrite."""
    net = Net()
    x = net.point(net.input(4, 5, 2), name="a")
    graph = net.graph(net.point(x, pad=(1, 2, 1, 2)))
    life = ranges_of(graph)["a"]
    assert (life.persistent, life.why) == (True, KINDS["zero padding"])
    assert life.bytes == (4 + 2) * (5 + 4) * 2 * 4


def test_every_activation_bytes_are_the_outputs_of_all_operators_but_islands() -> None:
    net = Net()
    x = net.conv(net.input(6, 7, 2), 3)
    graph = net.graph(net.point(net.island(x, shape=(5, 5, 5)), 4))
    assert every_activation_bytes(graph) == (6 * 7 * 3 + 5 * 5 * 4) * 4


@pytest.mark.parametrize(
    ("cutoffs", "exports", "message"),
    [
        ({"v"}, set(), "cut-off 'v' is no activation of the graph's regions"),
        (set(), {"c0"}, "export 'c0' is no activation of the graph's regions"),
        ({"h"}, set(), "cut-off 'h' is a slice of 'a' and has no values of its own"),
    ],
)
def test_names_that_make_no_sense_are_refused(
    cutoffs: set[str], exports: set[str], message: str
) -> None:
    net = Net()
    graph = net.graph(sliced(net))
    with pytest.raises(ValueError, match=f"^{message}$"):
        ranges_of(graph, cutoffs, exports)


def writable(graph: Graph) -> list[str]:
    """Tensors with values of their own: what could cut off."""
    views = lay_out(graph).views
    return [
        node.output
        for node in graph.nodes
        if node.op not in (ISLAND, "Concat")
        and (node.output not in views or views[node.output].own_mask)
    ]


def copied_out(graph: Graph) -> AbstractSet[str]:
    """What an engine may export: outputs, and what islands read."""
    islands = [node for node in graph.nodes if node.op == ISLAND]
    names = {name for node in islands for name in node.inputs}
    return (names | {port.name for port in graph.outputs}) & set(region_tensors(graph))


@pytest.mark.parametrize("seed", range(200))
def test_nobody_ever_looks_at_rubbish(seed: int) -> None:
    """Random nets, cut-offs, exports and changes; transients really share an arena."""
    draw = random.Random(seed)
    graph = random_net(seed)
    storage = lay_out(graph)
    share = draw.choice([0.0, 0.0, 0.1, 0.3])
    cutoffs = frozenset(name for name in writable(graph) if draw.random() < share)
    exports = copied_out(graph) if draw.random() < 0.5 else frozenset[str]()
    lives = ranges_of(graph, cutoffs, exports)
    refresh, broad = draw.random() < 0.4, draw.random() < 0.5
    video = Video(
        graph, lives, storage, cutoffs, draw, exports=exports, refresh=refresh, broad=broad
    )
    for _ in range(8):
        video.step()


@pytest.mark.parametrize("seed", range(40))
def test_a_cut_off_persists_and_frees_nothing(seed: int) -> None:
    graph, draw = random_net(seed), random.Random(seed)
    cutoffs = frozenset(name for name in writable(graph) if draw.random() < 0.3)
    before, after = ranges_of(graph), ranges_of(graph, cutoffs)
    assert all(after[name].persistent for name in cutoffs)
    assert persistent_roots(before) <= persistent_roots(after)


def test_some_cut_offs_cost_nothing_and_some_do() -> None:
    net = Net()
    graph = net.graph(inverted_residual(net))
    before = persistent_roots(ranges_of(graph))
    free = {
        name
        for name in ("a", "expand", "depthwise", "project")
        if persistent_roots(ranges_of(graph, {name})) == before
    }
    assert free == {"a", "project"}


def test_a_mobile_net_takes_a_fraction_of_keeping_everything() -> None:
    """Twelve inverted residuals: the wide tensors behind depthwise kernels share one place."""
    net = Net()
    x = net.conv(net.input(64, 64, 3), 16, stride=(2, 2))
    for _ in range(12):
        wide = net.conv(net.point(x, 96), 96)
        x = net.point(wide, 16, residual=x)
    graph = net.graph(x)
    lives = ranges_of(graph)
    arena = place(arena_requests(lives))
    assert len(arena_requests(lives)) == 12
    assert arena.size == arena.lower_bound == 32 * 32 * 96 * 4
    persistent = sum(align(lives[name].bytes) for name in persistent_roots(lives))
    assert persistent + arena.size < 0.7 * every_activation_bytes(graph)
