"""Passes that fold scaling, shifting and padding into the weights of a convolution."""

from math import prod

import numpy as np

from stillframe.reuse.ir.graph import Array, Node
from stillframe.reuse.passes.canonicalize import NEGLIGIBLE, never_negative
from stillframe.reuse.passes.rewriter import Draft, rewrites

MOVES = ("DepthToSpace", "Slice", "Concat")
"""Operators that only move numbers: what is done to each channel can be done before them."""


@rewrites("Conv", "AveragePool", "MaxPool")
def pad_into_kernel(draft: Draft, node: Node) -> bool:
    """Pad -> Conv or pool : pad in the kernel, where that means the same."""
    pad = draft.made_by(node.inputs[0], "Pad")
    if pad is None or pad.attrs["mode"] != "constant" or any(pad.attrs["pad"][4:]):
        return False
    value, amounts = pad.attrs["value"], pad.attrs["pad"][:4]
    attrs = dict(node.attrs)
    before = attrs["pad"]
    if node.op == "Conv" and value != 0:
        return False
    if node.op == "AveragePool":
        if value != 0 or any(before) or attrs["ceil_mode"]:
            return False
        attrs["count_include_pad"] = True
    if node.op == "MaxPool":
        kernel = attrs["kernel"]
        narrow = all(amount < kernel[index % 2] for index, amount in enumerate(amounts))
        zero = value == 0 and narrow and never_negative(draft, pad.inputs[0])
        if not (zero or value <= NEGLIGIBLE) or attrs["ceil_mode"] or any(before):
            return False
    attrs["pad"] = tuple(a + b for a, b in zip(before, amounts, strict=True))
    inputs = (pad.inputs[0], *node.inputs[1:])
    draft.replace(node, node.with_(inputs=inputs, attrs=attrs))
    return True


def vector(draft: Draft, name: str, depth: int) -> Array | None:
    """A constant that is one number per channel, as (C,) float64; None for any other tensor."""
    value = draft.constants.get(name)
    if value is None or value.shape[:2] != (1, 1) or value.ndim != 3:
        return None
    return np.broadcast_to(value[0, 0].astype(np.float64), (depth,)) if depth else None


@rewrites("Binary", "Unary")
def constants_to_affine(draft: Draft, node: Node) -> bool:
    """x + c, x - c, c - x, x * c, x / c with one c per channel, and -x -> Affine."""
    out = draft.shapes[node.output]
    if node.op == "Unary":
        if node.attrs["act"].kind != "neg":
            return False
        name, scale, shift = node.inputs[0], np.full(out[2], -1.0), np.zeros(out[2])
        act = None
    else:
        at = 0 if node.inputs[0] in draft.constants else 1
        name, other = node.inputs[1 - at], node.inputs[at]
        value = vector(draft, other, out[2])
        if value is None or draft.shapes[name] != out or name in draft.constants:
            return False
        zeros, ones = np.zeros(out[2]), np.ones(out[2])
        forms = {
            ("add", 1): (ones, value),
            ("add", 0): (ones, value),
            ("sub", 1): (ones, -value),
            ("sub", 0): (-ones, value),
            ("mul", 1): (value, zeros),
            ("mul", 0): (value, zeros),
        }
        if node.attrs["kind"] == "div" and at == 1 and value.all():
            forms["div", 1] = (1 / value, zeros)
        if (node.attrs["kind"], at) not in forms:
            return False
        scale, shift = forms[node.attrs["kind"], at]
        act = node.attrs["act"]
    slopes = node.inputs[2:]
    inputs = [name, draft.hold(name, scale), draft.hold(name, shift), *slopes]
    draft.replace(node, draft.node("Affine", inputs, {"act": act}, node.output))
    return True


def scale_and_shift(draft: Draft, node: Node) -> tuple[Array, Array]:
    scale, shift = (draft.constants[name].astype(np.float64) for name in node.inputs[1:3])
    return scale, shift


@rewrites("Affine")
def merge_affines(draft: Draft, node: Node) -> bool:
    """x -> Affine -> Affine -> y, nobody else between : one Affine."""
    inner = draft.made_by(node.inputs[0], "Affine")
    if inner is None or inner.attrs["act"] is not None or not draft.sole(inner.output):
        return False
    (first_scale, first_shift), (scale, shift) = (
        scale_and_shift(draft, each) for each in (inner, node)
    )
    name = inner.inputs[0]
    names = [
        draft.hold(name, first_scale * scale),
        draft.hold(name, first_shift * scale + shift),
    ]
    draft.replace(
        node, draft.node("Affine", [name, *names, *node.inputs[3:]], node.attrs, node.output)
    )
    return True


def bare_conv(draft: Draft, name: str) -> Node | None:
    """The Conv that writes a tensor which only one node reads, if it ends with its bias."""
    conv = draft.made_by(name, "Conv")
    if conv is None or not draft.sole(name):
        return None
    return conv if conv.attrs["act"] is None and len(conv.inputs) == 3 else None


@rewrites("Affine")
def affine_into_conv(draft: Draft, node: Node) -> bool:
    """Conv -> Affine, nobody else between : into the weights and the bias."""
    conv = bare_conv(draft, node.inputs[0])
    if conv is None:
        return False
    scale, shift = scale_and_shift(draft, node)
    weights, bias = (draft.constants[name] for name in conv.inputs[1:3])
    names = [
        conv.inputs[0],
        draft.hold(conv.inputs[1], weights * scale),
        draft.hold(conv.inputs[2], bias * scale + shift),
        *node.inputs[3:],
    ]
    attrs = {**conv.attrs, "act": node.attrs["act"]}
    draft.replace(node, draft.node("Conv", names, attrs, node.output))
    return True


def takes_affine(draft: Draft, conv: Node, affine: Node) -> bool:
    """Whether a Conv can do what this Affine does before it."""
    shift = draft.constants[affine.inputs[2]]
    once = conv.inputs.count(affine.output) == 1 and conv.inputs[0] == affine.output
    return conv.op == "Conv" and once and (not any(conv.attrs["pad"]) or not shift.any())


@rewrites("Conv")
def affine_out_of_conv(draft: Draft, node: Node) -> bool:
    """Affine -> Convs : into their weights. Not where a shift would have to reach the padding."""
    affine = draft.made_by(node.inputs[0], "Affine")
    if affine is None or affine.attrs["act"] is not None or affine.output in draft.kept:
        return False
    if not all(takes_affine(draft, each, affine) for each in draft.readers[affine.output]):
        return False
    scale, shift = scale_and_shift(draft, affine)
    weights, bias = (draft.constants[name] for name in node.inputs[1:3])
    group = node.attrs["group"]
    # channel of x that weight (·, ·, c, m) meets: c within the group of output channel m
    start = np.repeat(np.arange(group) * weights.shape[2], weights.shape[3] // group)
    channel = np.arange(weights.shape[2])[:, None] + start[None, :]
    inputs = (
        affine.inputs[0],
        draft.hold(node.inputs[1], weights * scale[channel]),
        draft.hold(node.inputs[2], bias + (weights * shift[channel]).sum((0, 1, 2))),
        *node.inputs[3:],
    )
    draft.replace(node, node.with_(inputs=inputs))
    return True


def spread_over(draft: Draft, move: Node, value: Array) -> list[Array]:
    """One number per channel behind a move -> the same per channel of each of its inputs."""
    if move.op == "Slice":
        return [value]
    if move.op == "DepthToSpace":
        count = move.attrs["block"] ** 2
        tiled = np.tile(value, count) if move.attrs["mode"] == "DCR" else np.repeat(value, count)
        return [tiled]
    depths = [draft.shapes[name][2] for name in move.inputs]
    if move.attrs["axis"] != 2:
        return [value for _ in depths]
    return list(np.split(value, np.cumsum(depths)[:-1]))


def movable(draft: Draft, node: Node) -> Node | None:
    """The move in front of a node that has Convs behind it which can take what the node does."""
    move = draft.made_by(node.inputs[0], *MOVES)
    if move is None or not draft.sole(move.output):
        return None
    names = dict.fromkeys(move.inputs)
    if len(names) < len(move.inputs) or any(bare_conv(draft, name) is None for name in names):
        return None
    if move.op == "Slice" and draft.shapes[move.inputs[0]][2] != draft.shapes[move.output][2]:
        return None
    return move


@rewrites("Affine")
def affine_before_moves(draft: Draft, node: Node) -> bool:
    """Convs -> move -> Affine : Convs -> Affine -> move, where the Convs then take it in."""
    move = movable(draft, node)
    if move is None:
        return False
    scales, shifts = (spread_over(draft, move, draft.constants[name]) for name in node.inputs[1:3])
    before = []
    for name, scale, shift in zip(move.inputs, scales, shifts, strict=True):
        inputs = [name, draft.hold(name, scale), draft.hold(name, shift)]
        before.append(draft.node("Affine", inputs, {"act": None}))
    names = [each.output for each in before]
    if node.attrs["act"] is None:
        draft.replace(node, *before, draft.node(move.op, names, move.attrs, node.output))
        return True
    moved = draft.node(move.op, names, move.attrs)
    inputs = [moved.output, *node.inputs[3:]]
    act = draft.node("Unary", inputs, {"act": node.attrs["act"]}, node.output)
    draft.replace(node, *before, moved, act)
    return True


@rewrites("Conv")
def join_convs(draft: Draft, node: Node) -> bool:
    """Conv -> Conv with nothing between, one of them 1 × 1 : one Conv, where that is less work."""
    first = bare_conv(draft, node.inputs[0])
    if first is None or first.attrs["group"] != 1 or node.attrs["group"] != 1:
        return False
    if node.inputs.count(first.output) > 1:
        return False
    before, after = (draft.constants[each.inputs[1]] for each in (first, node))
    bias = draft.constants[first.inputs[2]].astype(np.float64)
    if before.shape[:2] == (1, 1) and first.attrs["stride"] == (1, 1):
        if any(first.attrs["pad"]) or (any(node.attrs["pad"]) and bias.any()):
            return False
        weights = np.einsum("ck,yxkm->yxcm", before[0, 0].astype(np.float64), after)
        attrs = dict(node.attrs)
    elif after.shape[:2] == (1, 1) and node.attrs["stride"] == (1, 1):
        if any(node.attrs["pad"]):
            return False
        weights = np.einsum("yxck,km->yxcm", before.astype(np.float64), after[0, 0])
        attrs = {**node.attrs, **{key: first.attrs[key] for key in ("stride", "pad", "dilation")}}
    else:
        return False
    places = [prod(draft.shapes[each.output][:2]) for each in (first, node)]
    if places[1] * weights.size >= places[0] * before.size + places[1] * after.size:
        return False
    shift = draft.constants[node.inputs[2]] + np.einsum("k,yxkm->m", bias, after)
    inputs = [
        first.inputs[0],
        draft.hold(node.inputs[1], weights),
        draft.hold(node.inputs[2], shift),
        *node.inputs[3:],
    ]
    draft.replace(node, draft.node("Conv", inputs, attrs, node.output))
    return True
