"""Each pass by rows: a graph before, the operators after; and all of them on random networks."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from typing import Any

import numpy as np
import pytest

from stillframe.reuse.frontend import resize_indices
from stillframe.reuse.ir import interpreter
from stillframe.reuse.ir.graph import Act, Array, Graph, Node, Shape
from stillframe.reuse.ir.ops import OPS
from stillframe.reuse.passes import canonicalize, fold, fuse, optimize, recognize_activations
from stillframe.reuse.passes.rewriter import Pass
from tests.graph_cases import w
from tests.random_graphs import port, random_graph

RELU = Act("relu")
Line = tuple[str, Sequence[str | Array], str, Mapping[str, Any]]
"""Operator, inputs (names or constants), output, attributes."""


def graph(
    lines: Sequence[Line], feeds: Mapping[str, Shape] | None = None, outputs: Sequence[str] = ("y",)
) -> Graph:
    """A graph fed "x" (9, 11, 3) unless feeds says otherwise."""
    feeds = feeds or {"x": (9, 11, 3)}
    shapes: dict[str, Shape] = dict(feeds)
    constants: dict[str, Array] = {}
    nodes = []
    for op, inputs, output, attrs in lines:
        names = []
        for each in inputs:
            if not isinstance(each, str):
                name = f"k{len(constants)}"
                constants[name] = each
                shapes[name] = each.shape
                each = name
            names.append(each)
        shapes[output] = OPS[op].shape(attrs, [shapes[name] for name in names])
        nodes.append(Node(op, tuple(names), (output,), attrs))
    return Graph(
        nodes=tuple(nodes),
        inputs=tuple(port(name, shape) for name, shape in feeds.items()),
        outputs=tuple(port(name, shapes[name]) for name in outputs),
        shapes=shapes,
        constants=constants,
    ).check()


def conv(
    source: str,
    output: str,
    depth_in: int = 3,
    depth: int = 3,
    *more: str | Array,
    size: int = 1,
    group: int = 1,
    **attrs: Any,
) -> Line:
    weights = w(size, size, depth_in // group, depth)
    whole: dict[str, Any] = {"stride": (1, 1), "dilation": (1, 1), "group": group}
    whole |= {"pad": (size // 2,) * 4}
    whole |= {"act": None, "residual_first": False}
    return "Conv", [source, weights, w(depth), *more], output, whole | attrs


def attention(queries: str, keys: str, output: str) -> Line:
    attrs = {"heads": 1, "scale": 0.5, "window": (9, 11)}
    return "Attention", [queries, keys, keys], output, attrs


def selection(source: str, output: str, depth: int, *channels: int) -> Line:
    """A 1 × 1 Conv that takes some channels."""
    weights = np.zeros((1, 1, depth, len(channels)), np.float32)
    weights[0, 0, channels, range(len(channels))] = 1
    attrs = conv("x", "y")[3] | {"pad": (0,) * 4}
    return "Conv", [source, weights, np.zeros(len(channels), np.float32)], output, attrs


def unary(source: str, output: str, kind: str, a: float = 0.0, b: float = 0.0) -> Line:
    return "Unary", [source], output, {"act": Act(kind, a, b)}


def binary(
    kind: str, left: str | Array, right: str | Array, output: str, act: Act | None = None
) -> Line:
    return "Binary", [left, right], output, {"kind": kind, "act": act}


def number(value: float) -> Array:
    return np.full((1, 1, 1), value, np.float32)


def affine(
    source: str, output: str, scale: Any, shift: Any, depth: int = 3, act: Act | None = None
) -> Line:
    values = [np.broadcast_to(np.float32(value), (depth,)) for value in (scale, shift)]
    return "Affine", [source, *values], output, {"act": act}


def concat(output: str, *names: str, axis: int = 2) -> Line:
    return "Concat", names, output, {"axis": axis}


def cut(source: str, output: str, start: Shape, size: Shape, step: Shape = (1, 1, 1)) -> Line:
    return "Slice", [source], output, {"start": start, "step": step, "size": size}


def pad(source: str, output: str, *amounts: int, mode: str = "constant", value: float = 0) -> Line:
    attrs = {"pad": (*amounts, 0, 0), "mode": mode, "value": value}
    return "Pad", [source], output, attrs


def pool(op: str, source: str, output: str, kernel: tuple[int, int], **attrs: Any) -> Line:
    whole: dict[str, Any] = {"kernel": kernel, "stride": (1, 1), "dilation": (1, 1)}
    whole |= {"pad": (0, 0, 0, 0)}
    whole |= {"ceil_mode": False}
    whole |= {"count_include_pad": False} if op == "AveragePool" else {}
    return op, [source], output, whole | attrs


def mean(source: str, output: str) -> Line:
    return "GlobalPool", [source], output, {"kind": "mean"}


def blocks(source: str, output: str, op: str = "DepthToSpace", mode: str = "DCR") -> Line:
    return op, [source], output, {"block": 2, "mode": mode}


def copy(source: str, output: str, depth: int = 3) -> Line:
    return cut(source, output, (0, 0, 0), (9, 11, depth))


SAME_ROWS = {
    key: resize_indices.resize_taps(
        size, size, 1.0, mode="linear", coordinates="half_pixel", rounding="floor"
    )
    for key, size in (("rows", 9), ("cols", 11))
}
FOCUS = [cut("x", f"s{i}{j}", (i, j, 0), (4, 6, 3), (2, 2, 1)) for i in range(2) for j in range(2)]


@dataclass(frozen=True)
class Row:
    """What a pass makes of some nodes; after None: nothing at all."""

    name: str
    change: Pass
    before: Sequence[Line]
    after: str | None = None
    feeds: Mapping[str, Shape] = field(default_factory=dict)
    outputs: Sequence[str] = ("y",)

    def __str__(self) -> str:
        return f"{self.change.__name__}: {self.name}"


ROWS = (
    Row(
        "a sum of constants",
        canonicalize.compute_constants,
        [binary("add", w(1, 1, 3), w(9, 11, 1), "c"), binary("add", "x", "c", "y")],
        "Binary",
    ),
    Row("of the frame", canonicalize.compute_constants, [unary("x", "y", "relu")]),
    Row(
        "between two nodes",
        canonicalize.drop_copies,
        [unary("x", "a", "relu"), copy("a", "b"), unary("b", "y", "tanh")],
        "Unary Unary",
    ),
    Row(
        "before the output",
        canonicalize.drop_copies,
        [unary("x", "a", "relu"), copy("a", "y")],
        "Unary",
    ),
    Row("from input to output", canonicalize.drop_copies, [copy("x", "y")]),
    Row(
        "of an output",
        canonicalize.drop_copies,
        [unary("x", "a", "relu"), copy("a", "y")],
        outputs=("y", "a"),
    ),
    Row(
        "all kinds of copies",
        canonicalize.drop_copies,
        [
            unary("x", "a", "relu"),
            pad("a", "b", 0, 0, 0, 0),
            concat("c", "b"),
            pool("MaxPool", "c", "d", (1, 1)),
            pool("AveragePool", "d", "e", (1, 1)),
            unary("e", "f", "clip", -inf, inf),
            affine("f", "g", 1, 0),
            ("Resize", ["g"], "h", SAME_ROWS),
            unary("h", "y", "tanh"),
        ],
        "Unary Unary",
    ),
    Row(
        "what only looks like a copy",
        canonicalize.drop_copies,
        [
            affine("x", "a", 1, 0, act=RELU),
            cut("a", "b", (1, 0, 0), (8, 11, 3)),
            unary("b", "y", "clip", -9, inf),
        ],
    ),
    Row(
        "the whole picture",
        canonicalize.simplify_pools,
        [pool("AveragePool", "x", "y", (9, 11), stride=(2, 2))],
        "GlobalPool",
    ),
    Row(
        "one position",
        canonicalize.simplify_pools,
        [pool("MaxPool", "x", "y", (1, 1), stride=(2, 3))],
        "Slice",
    ),
    Row(
        "a padded picture",
        canonicalize.simplify_pools,
        [pool("AveragePool", "x", "y", (9, 11), stride=(9, 11), pad=(1, 0, 0, 0))],
    ),
    Row(
        "rows, then columns",
        canonicalize.merge_slices,
        [
            cut("x", "a", (1, 0, 1), (4, 11, 2), (2, 1, 1)),
            cut("a", "y", (1, 2, 0), (2, 3, 1), (2, 3, 1)),
        ],
        "Slice",
    ),
    Row("only one", canonicalize.merge_slices, [copy("x", "y")]),
    Row(
        "of channels",
        canonicalize.merge_concats,
        [concat("a", "x", "x"), unary("x", "r", "relu"), concat("y", "r", "a", "x")],
        "Unary Concat",
    ),
    Row(
        "read twice",
        canonicalize.merge_concats,
        [concat("a", "x", "x"), concat("y", "a", "x")],
        outputs=("y", "a"),
    ),
    Row(
        "along different axes",
        canonicalize.merge_concats,
        [concat("a", "x", "x", axis=0), concat("y", "a", "a", axis=2)],
    ),
    Row(
        "in SpaceToDepth's order",
        canonicalize.focus_to_depth,
        [*FOCUS, concat("y", "s00", "s01", "s10", "s11")],
        "SpaceToDepth",
        {"x": (8, 12, 3)},
    ),
    Row(
        "in Focus's order",
        canonicalize.focus_to_depth,
        [*FOCUS, concat("c", "s00", "s10", "s01", "s11"), conv("c", "y", 12, 5, size=3)],
        "SpaceToDepth Conv",
        {"x": (8, 12, 3)},
    ),
    Row(
        "in a third order",
        canonicalize.focus_to_depth,
        [*FOCUS, concat("c", "s10", "s00", "s01", "s11"), conv("c", "y", 12, 5, size=3)],
        "SpaceToDepth Conv",
        {"x": (8, 12, 3)},
    ),
    Row(
        "in another order, read by no Conv",
        canonicalize.focus_to_depth,
        [*FOCUS, concat("y", "s00", "s10", "s01", "s11")],
        None,
        {"x": (8, 12, 3)},
    ),
    Row(
        "with one start twice",
        canonicalize.focus_to_depth,
        [*FOCUS, concat("y", "s00", "s01", "s10", "s10")],
        None,
        {"x": (8, 12, 3)},
    ),
    Row("max", canonicalize.min_max_to_clip, [binary("max", number(0.5), "x", "y")], "Unary"),
    Row("min", canonicalize.min_max_to_clip, [binary("min", "x", number(-0.2), "y")], "Unary"),
    Row("of two tensors", canonicalize.min_max_to_clip, [binary("min", "x", "x", "y")]),
    Row("by channel", canonicalize.min_max_to_clip, [binary("min", "x", w(1, 1, 3), "y")]),
    *(
        Row(
            f"{first} {second}",
            canonicalize.merge_clips,
            [unary("x", "a", "clip", *first), unary("a", "y", "clip", *second)],
            "Unary",
        )
        for first, second in (
            ((-0.5, inf), (-inf, 0.3)),
            ((-0.5, 0.3), (0.4, 0.8)),
            ((0.4, 0.8), (-0.5, 0.3)),
        )
    ),
    Row(
        "relu, then min",
        canonicalize.merge_clips,
        [unary("x", "a", "relu"), unary("a", "y", "clip", -inf, 0.5)],
        "Unary",
    ),
    Row(
        "read twice",
        canonicalize.merge_clips,
        [unary("x", "a", "relu"), unary("a", "b", "clip", -1, 1), binary("mul", "a", "b", "y")],
    ),
    Row("clip", canonicalize.simplify_acts, [unary("x", "y", "clip", 0, inf)], "Unary"),
    Row(
        "prelu of one slope",
        canonicalize.simplify_acts,
        [("Unary", ["x", np.full(3, 0.2, np.float32)], "y", {"act": Act("prelu")})],
        "Unary",
    ),
    Row("clip to 6", canonicalize.simplify_acts, [unary("x", "y", "clip", 0, 6)]),
    Row(
        "zeros into Convs",
        fold.pad_into_kernel,
        [
            pad("x", "p", 1, 0, 2, 1),
            conv("p", "a", size=3),
            conv("p", "b", size=3),
            binary("add", "a", "b", "y"),
        ],
        "Conv Conv Binary",
    ),
    Row(
        "zeros into AveragePool",
        fold.pad_into_kernel,
        [pad("x", "p", 1, 0, 2, 1), pool("AveragePool", "p", "y", (3, 2), stride=(2, 2))],
        "AveragePool",
    ),
    Row(
        "next to nothing into MaxPool",
        fold.pad_into_kernel,
        [pad("x", "p", 1, 0, 2, 1, value=-inf), pool("MaxPool", "p", "y", (3, 2))],
        "MaxPool",
    ),
    Row(
        "zeros into MaxPool of a relu",
        fold.pad_into_kernel,
        [unary("x", "r", "relu"), pad("r", "p", 1, 0, 2, 1), pool("MaxPool", "p", "y", (3, 2))],
        "Unary MaxPool",
    ),
    Row(
        "zeros into MaxPool of anything",
        fold.pad_into_kernel,
        [pad("x", "p", 1, 0, 2, 1), pool("MaxPool", "p", "y", (3, 2))],
    ),
    Row(
        "ones",
        fold.pad_into_kernel,
        [pad("x", "p", 1, 0, 2, 1, value=1), conv("p", "y", size=3)],
    ),
    Row(
        "edges",
        fold.pad_into_kernel,
        [pad("x", "p", 1, 0, 2, 1, mode="edge"), conv("p", "y", size=3)],
    ),
    *(
        Row(
            f"{kind}, constant {'left' if left else 'right'}",
            fold.constants_to_affine,
            [binary(kind, w(1, 1, 3), "x", "y") if left else binary(kind, "x", w(1, 1, 3), "y")],
            "Affine",
        )
        for kind, left in (
            ("add", 0),
            ("add", 1),
            ("sub", 0),
            ("sub", 1),
            ("mul", 0),
            ("mul", 1),
            ("div", 0),
        )
    ),
    Row(
        "neg",
        fold.constants_to_affine,
        [unary("x", "y", "neg")],
        "Affine",
    ),
    Row("1 / x", fold.constants_to_affine, [binary("div", w(1, 1, 3), "x", "y")]),
    Row("by position", fold.constants_to_affine, [binary("mul", "x", w(9, 11, 1), "y")]),
    Row(
        "that widens",
        fold.constants_to_affine,
        [binary("mul", "x", w(1, 1, 3), "y")],
        None,
        {"x": (9, 11, 1)},
    ),
    Row("max", fold.constants_to_affine, [binary("max", "x", w(1, 1, 3), "y")]),
    Row(
        "two",
        fold.merge_affines,
        [affine("x", "a", w(3), 2), affine("a", "y", -3, w(3), act=RELU)],
        "Affine",
    ),
    Row(
        "with an act between",
        fold.merge_affines,
        [affine("x", "a", w(3), 2, act=RELU), affine("a", "y", -3, w(3))],
    ),
    Row(
        "read twice",
        fold.merge_affines,
        [affine("x", "a", w(3), 2), affine("a", "b", -3, w(3)), binary("mul", "a", "b", "y")],
    ),
    *(
        Row(
            f"over {name}",
            fold.affine_before_move,
            [conv("x", "c", 3, 8), *moves, affine("m", "y", w(depth), 1, depth, act)],
            f"Conv {after}",
        )
        for name, moves, depth, act, after in (
            ("DepthToSpace", [blocks("c", "m")], 2, None, "Affine DepthToSpace"),
            ("CRD", [blocks("c", "m", mode="CRD")], 2, RELU, "Affine DepthToSpace Unary"),
            ("Slice", [cut("c", "m", (1, 2, 0), (8, 8, 8))], 8, None, "Affine Slice"),
        )
    ),
    Row(
        "over Concat",
        fold.affine_before_move,
        [
            conv("x", "a", 3, 2),
            conv("x", "b", 3, 3),
            concat("m", "a", "b"),
            affine("m", "y", w(5), w(5), 5),
        ],
        "Conv Conv Affine Affine Concat",
    ),
    Row(
        "over a Slice of channels",
        fold.affine_before_move,
        [conv("x", "c"), cut("c", "m", (0, 0, 1), (9, 11, 2)), affine("m", "y", 2, 1, 2)],
    ),
    Row(
        "over a Concat of something else",
        fold.affine_before_move,
        [conv("x", "a"), concat("m", "a", "x"), affine("m", "y", 2, 1, 6)],
    ),
    Row(
        "behind",
        fold.affine_into_previous_conv,
        [conv("x", "c", 3, 5, size=3), affine("c", "y", w(5), w(5), 5, RELU)],
        "Conv",
    ),
    Row(
        "behind an act",
        fold.affine_into_previous_conv,
        [conv("x", "c", act=RELU), affine("c", "y", 2, 1)],
    ),
    Row(
        "behind, read twice",
        fold.affine_into_previous_conv,
        [conv("x", "c"), affine("c", "a", 2, 1), binary("mul", "a", "c", "y")],
    ),
    Row(
        "in front of Convs",
        fold.affine_into_next_conv,
        [
            affine("x", "a", w(3), w(3)),
            conv("a", "b", 3, 5),
            conv("a", "c", 3, 5, size=3, pad=(0,) * 4),
            mean("b", "d"),
            binary("add", "d", "c", "y"),
        ],
        "Conv Conv GlobalPool Binary",
    ),
    Row(
        "a factor in front of padding",
        fold.affine_into_next_conv,
        [affine("x", "a", w(3), 0), conv("a", "y", size=3)],
        "Conv",
    ),
    Row(
        "in front of groups",
        fold.affine_into_next_conv,
        [affine("x", "a", w(6), w(6), 6), conv("a", "y", 6, 4, group=2)],
        "Conv",
        {"x": (9, 11, 6)},
    ),
    Row(
        "a shift in front of padding",
        fold.affine_into_next_conv,
        [affine("x", "a", w(3), w(3)), conv("a", "y", size=3)],
    ),
    Row(
        "in front of something else as well",
        fold.affine_into_next_conv,
        [affine("x", "a", w(3), w(3)), conv("a", "b"), binary("mul", "a", "b", "y")],
    ),
    Row(
        "queries times a number",
        fold.scale_into_attention,
        [affine("x", "q", 0.25, 0), attention("q", "x", "y")],
        "Attention",
    ),
    Row(
        "queries times a number for each channel",
        fold.scale_into_attention,
        [affine("x", "q", [0.25, 1, 2], 0), attention("q", "x", "y")],
    ),
    Row(
        "channels of queries and of keys",
        fold.split_conv,
        [
            conv("x", "c", 3, 8, size=3),
            selection("c", "q", 8, 0, 1, 4, 5),
            selection("c", "k", 8, 2, 3, 6, 7),
            binary("mul", "q", "k", "y"),
        ],
        "Conv Conv Binary",
    ),
    Row(
        "more channels than there are",
        fold.split_conv,
        [
            conv("x", "c", 3, 4),
            selection("c", "q", 4, 0, 1, 3),
            selection("c", "k", 4, 2, 0, 3),
            binary("mul", "q", "k", "y"),
        ],
    ),
    Row(
        "1 × 1, then 3 × 3",
        fold.join_convs,
        [conv("x", "c", 3, 7, pad=(0,) * 4), conv("c", "y", 7, 2, size=3, pad=(0,) * 4)],
        "Conv",
    ),
    Row(
        "3 × 3 with stride, then 1 × 1 with act",
        fold.join_convs,
        [conv("x", "c", 3, 7, size=3, stride=(2, 2)), conv("c", "y", 7, 2, act=RELU)],
        "Conv",
    ),
    Row(
        "a bottleneck, where one Conv were more work",
        fold.join_convs,
        [conv("x", "c", 3, 1), conv("c", "y", 1, 9)],
    ),
    Row(
        "a bias in front of padding",
        fold.join_convs,
        [conv("x", "c", 3, 7), conv("c", "y", 7, 2, size=3)],
    ),
    *(
        Row(
            f"over {name}",
            fuse.act_before_move,
            [conv("x", "c", 3, 8), move, ("Unary", ["m", *slope], "y", {"act": act})],
            f"Conv Unary {move[0]}",
        )
        for name, move, act, slope in (
            ("DepthToSpace", blocks("c", "m"), RELU, []),
            ("DepthToSpace, prelu", blocks("c", "m"), Act("prelu"), [w(2)]),
            ("CRD, prelu", blocks("c", "m", mode="CRD"), Act("prelu"), [w(2)]),
            ("Slice, prelu", cut("c", "m", (1, 0, 0), (3, 4, 8)), Act("prelu"), [w(8)]),
        )
    ),
    Row(
        "over Concat, prelu",
        fuse.act_before_move,
        [
            conv("x", "a", 3, 2),
            conv("x", "b", 3, 3),
            concat("m", "a", "b"),
            ("Unary", ["m", w(5)], "y", {"act": Act("prelu")}),
        ],
        "Conv Conv Unary Unary Concat",
    ),
    Row(
        "over a Concat of something else",
        fuse.act_before_move,
        [conv("x", "a"), concat("m", "a", "x"), unary("m", "y", "relu")],
    ),
    Row(
        "of a Conv",
        fuse.act_into_producer,
        [conv("x", "c"), ("Unary", ["c", w(3)], "y", {"act": Act("prelu")})],
        "Conv",
    ),
    Row(
        "of a sum",
        fuse.act_into_producer,
        [binary("add", "x", w(9, 11, 1), "a"), unary("a", "y", "relu")],
        "Binary",
    ),
    Row(
        "of an act",
        fuse.act_into_producer,
        [conv("x", "c", act=RELU), unary("c", "y", "tanh")],
    ),
    Row(
        "read twice",
        fuse.act_into_producer,
        [conv("x", "c"), unary("c", "a", "tanh"), binary("mul", "a", "c", "y")],
    ),
    Row(
        "of few channels",
        fuse.split_groups,
        [conv("x", "y", 6, 4, size=3, group=2, act=RELU)],
        "Conv",
        {"x": (9, 11, 6)},
    ),
    Row(
        "of many channels",
        fuse.split_groups,
        [
            (
                "Conv",
                ["x", w(1, 3, 12, 4), w(4), w(4)],
                "y",
                dict(conv("x", "y", 24, 4, group=2)[3]) | {"act": Act("prelu")},
            )
        ],
        "Slice Conv Slice Conv Concat",
        {"x": (9, 11, 24)},
    ),
    Row(
        "depthwise",
        fuse.split_groups,
        [conv("x", "y", 6, 6, size=3, group=6)],
        None,
        {"x": (9, 11, 6)},
    ),
    Row(
        "a multiple of depthwise, of many channels",
        fuse.split_groups,
        [conv("x", "y", 65, 130, group=65)],
        None,
        {"x": (3, 2, 65)},
    ),
    Row(
        "the later of two Convs",
        fuse.add_into_conv,
        [conv("x", "a"), conv("x", "b"), binary("add", "a", "b", "y", RELU)],
        "Conv Conv",
    ),
    Row(
        "behind an act",
        fuse.add_into_conv,
        [conv("x", "a", act=RELU), binary("add", "x", "a", "y")],
        "Conv",
    ),
    Row(
        "with prelu inside",
        fuse.add_into_conv,
        [conv("x", "a", 3, 3, w(3), act=Act("prelu")), binary("add", "x", "a", "y")],
        "Conv",
    ),
    Row(
        "between two acts",
        fuse.add_into_conv,
        [conv("x", "a", act=RELU), binary("add", "x", "a", "y", RELU)],
    ),
    Row(
        "of a gate",
        fuse.add_into_conv,
        [mean("x", "g"), conv("x", "a"), binary("add", "g", "a", "y")],
    ),
    Row("of itself", fuse.add_into_conv, [conv("x", "a"), binary("add", "a", "a", "y")]),
    Row(
        "SiLU",
        recognize_activations.recognize_gated,
        [unary("x", "s", "sigmoid"), binary("mul", "s", "x", "y", RELU)],
        "Unary Affine",
    ),
    Row(
        "a sigmoid that is read twice",
        recognize_activations.recognize_gated,
        [unary("x", "s", "sigmoid"), binary("mul", "s", "x", "y")],
        "Unary Unary",
        outputs=("y", "s"),
    ),
    Row(
        "hardsigmoid with another slope",
        recognize_activations.recognize_gated,
        [unary("x", "s", "hardsigmoid", 0.2, 0.5), binary("mul", "s", "x", "y")],
    ),
    Row(
        "a sigmoid plus one",
        recognize_activations.recognize_gated,
        [unary("x", "s", "sigmoid"), affine("s", "a", 1, 1), binary("mul", "a", "x", "y")],
    ),
    Row(
        "relu1",
        recognize_activations.recognize_gated,
        [affine("x", "a", 1, 3), unary("a", "c", "clip", 0, 1), binary("mul", "c", "x", "y")],
    ),
    Row(
        "erf of too much",
        recognize_activations.recognize_gated,
        [unary("x", "e", "erf"), affine("e", "a", 0.5, 0.5), binary("mul", "x", "a", "y")],
    ),
    Row(
        "hardsigmoid",
        recognize_activations.recognize_hardsigmoid,
        [affine("x", "a", 1, 3), unary("a", "c", "clip", 0, 6), affine("c", "y", 1 / 6, 0)],
        "Unary",
    ),
    Row(
        "a clip from below 0",
        recognize_activations.recognize_hardsigmoid,
        [affine("x", "a", 1, 3), unary("a", "c", "clip", -1, 6), affine("c", "y", 1 / 6, 0)],
    ),
    Row(
        "a gate and its skip",
        recognize_activations.merge_gated_skip,
        [mean("x", "g"), binary("mul", "g", "x", "m"), binary("add", "x", "m", "y", RELU)],
        "GlobalPool Affine Binary",
    ),
    Row(
        "a picture for a gate",
        recognize_activations.merge_gated_skip,
        [unary("x", "g", "relu"), binary("mul", "g", "x", "m"), binary("add", "x", "m", "y")],
    ),
)


def run(graph: Graph) -> dict[str, Array]:
    rng = np.random.default_rng(5)
    feeds = {p.name: rng.normal(size=p.shape).astype(np.float32) for p in graph.inputs}
    return interpreter.run(graph, feeds)


def assert_same(before: Graph, after: Graph, tolerance: float) -> None:
    expected, outputs = run(before), run(after)
    assert list(outputs) == list(expected)
    for name, array in expected.items():
        largest = max(1.0, float(np.abs(array).max()))
        np.testing.assert_allclose(outputs[name] / largest, array / largest, 0, tolerance)


@pytest.mark.parametrize("row", ROWS, ids=str)
def test_a_pass_changes_the_operators_and_not_the_answer(row: Row) -> None:
    before = graph(row.before, row.feeds or None, row.outputs)
    after = row.change(before)
    if row.after is None:
        assert after is before
        return
    after.check()
    assert " ".join(node.op for node in after.nodes) == row.after
    assert_same(before, after, 1e-6)
    assert row.change(after) is after, "the second run found something to do"
    used = {name for node in after.nodes for name in (*node.inputs, *node.outputs)}
    assert set(after.constants) <= used
    assert set(after.shapes) == used | {port.name for port in after.inputs}


def test_every_pass_has_a_row_where_it_acts_and_one_where_it_does_not() -> None:
    for change in optimize.PASSES:
        kinds = {row.after is None for row in ROWS if row.change is change}
        assert kinds == {True, False}, change.__name__


@pytest.mark.parametrize("seed", range(150))
def test_optimised_random_networks_give_the_same_answer(seed: int) -> None:
    before = random_graph(seed)
    after = optimize.optimize(before)
    assert_same(before, after, 2e-5)
    assert optimize.optimize(after) is after


def test_a_fault_names_its_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    def lose_a_node(graph: Graph) -> Graph:
        """Leaves the first node out."""
        return replace(graph, nodes=graph.nodes[1:]) if len(graph.nodes) > 1 else graph

    monkeypatch.setattr(optimize, "PASSES", (lose_a_node,))
    two = graph([unary("x", "a", "relu"), unary("a", "y", "tanh")])
    message = (
        "pass lose_a_node broke the graph: node 0 Unary -> 'y' reads 'a' before anything writes it"
    )
    with pytest.raises(ValueError, match=message):
        optimize.optimize(two)


def test_passes_that_undo_each_other_are_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(optimize, "PASSES", (lambda graph: replace(graph),))
    with pytest.raises(ValueError, match="passes still find work after 50 rounds"):
        optimize.optimize(graph([unary("x", "y", "relu")]))
