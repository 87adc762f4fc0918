"""Passes that fold scales, shifts and padding into the convolutions beside them."""

from math import prod

import numpy as np

from stillframe.reuse.ir.graph import Array, Node
from stillframe.reuse.passes.canonicalize import NEGLIGIBLE, is_nonnegative
from stillframe.reuse.passes.rewriter import Draft, rewrites

DATA_MOVEMENT = ("DepthToSpace", "Slice", "Concat")
"""Operators that only move numbers: a per-channel operation can be done before them instead."""


@rewrites("Conv", "AveragePool", "MaxPool")
def pad_into_kernel(draft: Draft, node: Node) -> bool:
    """Pad -> Conv or pool : the pad attribute of the Conv or pool, where that gives the same."""
    pad = draft.producer(node.inputs[0], "Pad")
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
        zero = value == 0 and narrow and is_nonnegative(draft, pad.inputs[0])
        if not (zero or value <= NEGLIGIBLE) or attrs["ceil_mode"] or any(before):
            return False
    attrs["pad"] = tuple(a + b for a, b in zip(before, amounts, strict=True))
    inputs = (pad.inputs[0], *node.inputs[1:])
    draft.replace(node, node.with_(inputs=inputs, attrs=attrs))
    return True


def per_channel(draft: Draft, name: str, depth: int) -> Array | None:
    """A constant of one number per channel, as (C,) float64; None for any other tensor."""
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
        side = 0 if node.inputs[0] in draft.constants else 1
        name, other = node.inputs[1 - side], node.inputs[side]
        value = per_channel(draft, other, out[2])
        if value is None or draft.shapes[name] != out or name in draft.constants:
            return False
        zeros, ones = np.zeros(out[2]), np.ones(out[2])
        forms = {  # (kind, side of the constant) -> scale, shift
            ("add", 1): (ones, value),
            ("add", 0): (ones, value),
            ("sub", 1): (ones, -value),
            ("sub", 0): (-ones, value),
            ("mul", 1): (value, zeros),
            ("mul", 0): (value, zeros),
        }
        if node.attrs["kind"] == "div" and side == 1 and value.all():
            forms["div", 1] = (1 / value, zeros)
        if (node.attrs["kind"], side) not in forms:
            return False
        scale, shift = forms[node.attrs["kind"], side]
        act = node.attrs["act"]
    slopes = node.inputs[2:]
    inputs = [name, draft.add_constant(name, scale), draft.add_constant(name, shift), *slopes]
    draft.replace(node, draft.node("Affine", inputs, {"act": act}, node.output))
    return True


def scale_and_shift(draft: Draft, node: Node) -> tuple[Array, Array]:
    """The constants of an Affine in float64."""
    scale, shift = (draft.constants[name].astype(np.float64) for name in node.inputs[1:3])
    return scale, shift


@rewrites("Affine")
def merge_affines(draft: Draft, node: Node) -> bool:
    """Affine -> Affine, the inner read once : one Affine."""
    inner = draft.producer(node.inputs[0], "Affine")
    if inner is None or inner.attrs["act"] is not None or not draft.read_once(inner.output):
        return False
    (first_scale, first_shift), (scale, shift) = (
        scale_and_shift(draft, each) for each in (inner, node)
    )
    name = inner.inputs[0]
    names = [
        draft.add_constant(name, first_scale * scale),
        draft.add_constant(name, first_shift * scale + shift),
    ]
    draft.replace(
        node, draft.node("Affine", [name, *names, *node.inputs[3:]], node.attrs, node.output)
    )
    return True


def plain_conv(draft: Draft, name: str) -> Node | None:
    """The Conv without activation or residual that writes a tensor which is read once."""
    conv = draft.producer(name, "Conv")
    if conv is None or not draft.read_once(name):
        return None
    return conv if conv.attrs["act"] is None and len(conv.inputs) == 3 else None


@rewrites("Affine")
def affine_into_previous_conv(draft: Draft, node: Node) -> bool:
    """Conv -> Affine, the Conv read once : one Conv with scaled weights and bias."""
    conv = plain_conv(draft, node.inputs[0])
    if conv is None:
        return False
    scale, shift = scale_and_shift(draft, node)
    weights, bias = (draft.constants[name] for name in conv.inputs[1:3])
    names = [
        conv.inputs[0],
        draft.add_constant(conv.inputs[1], weights * scale),
        draft.add_constant(conv.inputs[2], bias * scale + shift),
        *node.inputs[3:],
    ]
    attrs = {**conv.attrs, "act": node.attrs["act"]}
    draft.replace(node, draft.node("Conv", names, attrs, node.output))
    return True


def can_absorb(draft: Draft, conv: Node, affine: Node) -> bool:
    """Whether a Conv can take the Affine before it into its weights.

    With padding only if the Affine does not shift: the zeros around x are not shifted.
    """
    shift = draft.constants[affine.inputs[2]]
    once = conv.inputs.count(affine.output) == 1 and conv.inputs[0] == affine.output
    return conv.op == "Conv" and once and (not any(conv.attrs["pad"]) or not shift.any())


@rewrites("Conv")
def affine_into_next_conv(draft: Draft, node: Node) -> bool:
    """Affine -> Conv, and all its readers such Convs : the Convs with scaled weights and bias."""
    affine = draft.producer(node.inputs[0], "Affine")
    if affine is None or affine.attrs["act"] is not None or affine.output in draft.model_outputs:
        return False
    if not all(can_absorb(draft, each, affine) for each in draft.readers[affine.output]):
        return False
    scale, shift = scale_and_shift(draft, affine)
    weights, bias = (draft.constants[name] for name in node.inputs[1:3])
    group = node.attrs["group"]
    # Weight (·, ·, c, m) multiplies channel c of the group of output channel m.
    start = np.repeat(np.arange(group) * weights.shape[2], weights.shape[3] // group)
    channel = np.arange(weights.shape[2])[:, None] + start[None, :]
    inputs = (
        affine.inputs[0],
        draft.add_constant(node.inputs[1], weights * scale[channel]),
        draft.add_constant(node.inputs[2], bias + (weights * shift[channel]).sum((0, 1, 2))),
        *node.inputs[3:],
    )
    draft.replace(node, node.with_(inputs=inputs))
    return True


def per_channel_inputs(draft: Draft, move: Node, value: Array) -> list[Array]:
    """(C,) numbers per channel of a data movement's output -> those of each of its inputs."""
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


def movement_to_cross(draft: Draft, node: Node) -> Node | None:
    """The data movement before a per-channel node, if only Convs write what it moves.

    Such a node can be done before the movement, where the Convs then absorb it.
    """
    move = draft.producer(node.inputs[0], *DATA_MOVEMENT)
    if move is None or not draft.read_once(move.output):
        return None
    names = dict.fromkeys(move.inputs)
    if len(names) < len(move.inputs) or any(plain_conv(draft, name) is None for name in names):
        return None
    if move.op == "Slice" and draft.shapes[move.inputs[0]][2] != draft.shapes[move.output][2]:
        return None
    return move


@rewrites("Affine")
def affine_before_move(draft: Draft, node: Node) -> bool:
    """Convs -> move -> Affine : Convs -> Affine -> move, where the Convs then absorb it."""
    move = movement_to_cross(draft, node)
    if move is None:
        return False
    scales, shifts = (
        per_channel_inputs(draft, move, draft.constants[name]) for name in node.inputs[1:3]
    )
    before = []
    for name, scale, shift in zip(move.inputs, scales, shifts, strict=True):
        inputs = [name, draft.add_constant(name, scale), draft.add_constant(name, shift)]
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
    """Conv -> Conv, one of them 1 × 1 : one Conv, where that takes fewer multiply-adds."""
    first = plain_conv(draft, node.inputs[0])
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
    positions = [prod(draft.shapes[each.output][:2]) for each in (first, node)]
    separate = positions[0] * before.size + positions[1] * after.size
    if positions[1] * weights.size >= separate:
        return False
    shift = draft.constants[node.inputs[2]] + np.einsum("k,yxkm->m", bias, after)
    inputs = [
        first.inputs[0],
        draft.add_constant(node.inputs[1], weights),
        draft.add_constant(node.inputs[2], shift),
        *node.inputs[3:],
    ]
    draft.replace(node, draft.node("Conv", inputs, attrs, node.output))
    return True


def selected(draft: Draft, node: Node) -> Array | None:
    """The channels that a 1 × 1 Conv of zeros and ones takes; None for any other node."""
    if node.op != "Conv" or len(node.inputs) != 3 or node.attrs["group"] != 1:
        return None
    weights, bias = (draft.constants[name] for name in node.inputs[1:])
    plain = weights.shape[:2] == (1, 1) and node.attrs["stride"] == (1, 1)
    if not plain or any(node.attrs["pad"]) or node.attrs["act"] is not None or bias.any():
        return None
    matrix = weights[0, 0]
    if ((matrix != 0).sum(0) != 1).any() or (matrix.max(0) != 1).any():
        return None
    return np.asarray(matrix.argmax(0))


@rewrites("Conv")
def split_conv(draft: Draft, node: Node) -> bool:
    """Conv -> several selections of its channels : a Conv of those channels each, such as those of
    queries, keys and values. The first Conv goes once nothing reads it."""
    first = draft.producer(node.inputs[0], "Conv")
    channels = selected(draft, node)
    if first is None or channels is None or first.output in draft.model_outputs:
        return False
    act = first.attrs["act"]
    if first.attrs["group"] != 1 or len(first.inputs) != 3 or (act and act.kind == "prelu"):
        return False
    taken = [selected(draft, each) for each in draft.readers[first.output]]
    if any(each is None for each in taken):
        return False
    depth = draft.shapes[first.output][2]
    if len(taken) > 1 and sum(len(each) for each in taken if each is not None) > depth:
        return False
    weights, bias = (draft.constants[name] for name in first.inputs[1:])
    inputs = (
        first.inputs[0],
        draft.add_constant(node.inputs[1], weights[..., channels]),
        draft.add_constant(node.inputs[2], bias[channels]),
    )
    draft.replace(node, draft.node("Conv", inputs, first.attrs, node.output))
    return True


@rewrites("Attention")
def scale_into_attention(draft: Draft, node: Node) -> bool:
    """Queries or keys times one number : that number in the scale of the scores."""
    for index in (0, 1):
        affine = draft.producer(node.inputs[index], "Affine")
        if affine is None or affine.attrs["act"] is not None or affine.output == node.inputs[2]:
            continue
        if affine.output in draft.model_outputs or node.inputs[0] == node.inputs[1]:
            continue
        scale, shift = scale_and_shift(draft, affine)
        if np.ptp(scale) or shift.any() or scale[0] <= 0:
            continue
        inputs = list(node.inputs)
        inputs[index] = affine.inputs[0]
        attrs = {**node.attrs, "scale": node.attrs["scale"] * float(scale[0])}
        draft.replace(node, node.with_(inputs=tuple(inputs), attrs=attrs))
        return True
    return False
