"""Passes that take out what does nothing and say the rest in fewer, simpler nodes."""

from collections.abc import Callable
from math import inf

import numpy as np

from stillframe.reuse.ir.graph import ISLAND, Act, Node
from stillframe.reuse.ir.ops import OPS
from stillframe.reuse.passes.rewriter import Draft, rewrites

NEGLIGIBLE = -1e30
"""A padding value at or below this never wins a maximum."""
NOT_NEGATIVE = ("relu", "sigmoid", "hardsigmoid", "softplus", "exp", "sqrt", "abs", "square")


@rewrites(*OPS)
def compute_constants(draft: Draft, node: Node) -> bool:
    """A node that reads only constants -> a constant. Kept when its output is the model's."""
    if node.output in draft.kept or not all(name in draft.constants for name in node.inputs):
        return False
    value = OPS[node.op].reference(node, [draft.constants[name] for name in node.inputs])
    draft.constants[node.output] = value
    draft.leave(node)
    return True


def same_affine(draft: Draft, node: Node) -> bool:
    scale, shift = (draft.constants[name] for name in node.inputs[1:3])
    return node.attrs["act"] is None and bool((scale == 1).all() and (shift == 0).all())


def same_places(draft: Draft, node: Node) -> bool:
    """A Resize in which each position comes from itself."""
    places = (node.attrs["rows"], node.attrs["cols"])
    return all(
        np.array_equal(low, np.arange(len(low))) and not weight.any() for low, _, weight in places
    )


COPIES: dict[str, Callable[[Draft, Node], bool]] = {
    "Slice": lambda draft, node: True,
    "Pad": lambda draft, node: not any(node.attrs["pad"]),
    "Concat": lambda draft, node: len(node.inputs) == 1,
    "GlobalPool": lambda draft, node: draft.shapes[node.inputs[0]][:2] == (1, 1),
    "MaxPool": lambda draft, node: max(node.attrs["kernel"] + node.attrs["stride"]) == 1,
    "AveragePool": lambda draft, node: max(node.attrs["kernel"] + node.attrs["stride"]) == 1,
    "Unary": lambda draft, node: node.attrs["act"] == Act("clip", -inf, inf),
    "Affine": same_affine,
    "Resize": same_places,
    "DepthToSpace": lambda draft, node: node.attrs["block"] == 1,
    "SpaceToDepth": lambda draft, node: node.attrs["block"] == 1,
}
"""When the output is the first input, number by number, given that it has the same shape."""


@rewrites(*COPIES)
def drop_copies(draft: Draft, node: Node) -> bool:
    """x -> (takes all, pads by nothing, joins one, …) -> y : read x instead of y.

    Kept where both are names that callers or islands know.
    """
    same = draft.shapes[node.inputs[0]] == draft.shapes[node.output]
    return same and COPIES[node.op](draft, node) and draft.forward(node)


@rewrites("MaxPool", "AveragePool")
def simplify_pools(draft: Draft, node: Node) -> bool:
    """A pool over the whole picture -> GlobalPool; a pool of one position -> Slice."""
    attrs, inside, out = node.attrs, draft.shapes[node.inputs[0]], draft.shapes[node.output]
    if any(attrs["pad"]) or attrs["dilation"] != (1, 1):
        return False
    if attrs["kernel"] == inside[:2] and out[:2] == (1, 1):
        kind = "max" if node.op == "MaxPool" else "mean"
        draft.replace(node, draft.node("GlobalPool", node.inputs, {"kind": kind}, node.output))
        return True
    if attrs["kernel"] == (1, 1) and attrs["stride"] != (1, 1):
        step = (*attrs["stride"], 1)
        taken = {"start": (0, 0, 0), "step": step, "size": out}
        draft.replace(node, draft.node("Slice", node.inputs, taken, node.output))
        return True
    return False


@rewrites("Slice")
def merge_slices(draft: Draft, node: Node) -> bool:
    """x -> Slice -> Slice -> y : one Slice of x."""
    inner = draft.made_by(node.inputs[0], "Slice")
    if inner is None:
        return False
    starts, steps = (
        list(zip(inner.attrs[key], node.attrs[key], strict=True)) for key in ("start", "step")
    )
    attrs = {
        "start": tuple(
            begin + at * step for (begin, at), (step, _) in zip(starts, steps, strict=True)
        ),
        "step": tuple(step * again for step, again in steps),
        "size": node.attrs["size"],
    }
    draft.replace(node, draft.node("Slice", inner.inputs, attrs, node.output))
    return True


@rewrites("Concat")
def merge_concats(draft: Draft, node: Node) -> bool:
    """Concat of Concat along the same axis, the inner read by nobody else: one Concat."""
    names: list[str] = []
    for name in node.inputs:
        inner = draft.made_by(name, "Concat")
        if inner is not None and draft.sole(name) and inner.attrs["axis"] == node.attrs["axis"]:
            names.extend(inner.inputs)
        else:
            names.append(name)
    if len(names) == len(node.inputs):
        return False
    draft.replace(node, draft.node("Concat", names, node.attrs, node.output))
    return True


@rewrites("Concat")
def focus_to_depth(draft: Draft, node: Node) -> bool:
    """Every block-th row and column from every start, joined on channels -> SpaceToDepth.

    In another order than SpaceToDepth's, only where all readers are Convs, whose weights are put
    into that order.
    """
    slices = [draft.made_by(name, "Slice") for name in node.inputs]
    block = round(len(slices) ** 0.5)
    if node.attrs["axis"] != 2 or block < 2 or block**2 != len(slices) or None in slices:
        return False
    parts = [each for each in slices if each is not None]
    source = parts[0].inputs[0]
    height, width, depth = draft.shapes[source]
    size = (height // block, width // block, depth)
    if (
        height % block
        or width % block
        or any(
            each.inputs[0] != source
            or each.attrs["step"] != (block, block, 1)
            or tuple(each.attrs["size"]) != size
            for each in parts
        )
    ):
        return False
    order = [each.attrs["start"][0] * block + each.attrs["start"][1] for each in parts]
    if sorted(order) != list(range(block**2)) or any(each.attrs["start"][2] for each in parts):
        return False
    readers = draft.readers.get(node.output, [])
    if order != sorted(order):
        convs = [each for each in readers if each.op == "Conv" and each.attrs["group"] == 1]
        if len(convs) != len(readers) or node.output in draft.kept:
            return False
        if any(conv.inputs.count(node.output) > 1 for conv in convs):
            return False
        index = np.concatenate([np.arange(depth) + place * depth for place in order])
        for conv in convs:
            weights = np.empty_like(draft.constants[conv.inputs[1]])
            weights[:, :, index] = draft.constants[conv.inputs[1]]
            name = draft.hold(conv.inputs[1], weights)
            inputs = (conv.inputs[0], name, *conv.inputs[2:])
            draft.replace(conv, conv.with_(inputs=inputs))
    attrs = {"block": block, "mode": "DCR"}
    draft.replace(node, draft.node("SpaceToDepth", [source], attrs, node.output))
    return True


@rewrites("Unary", "Affine", "Binary", "Conv", "Modulate")
def simplify_acts(draft: Draft, node: Node) -> bool:
    """Activations that are a simpler one: clip from 0 on is relu, equal slopes are leaky."""
    act = node.attrs["act"]
    if act is None:
        return False
    inputs = node.inputs
    if act == Act("clip", 0.0, inf):
        simple: Act | None = Act("relu")
    elif act == Act("leaky", 0.0, 0.0):
        simple = Act("relu")
    elif act.kind == "prelu" and np.ptp(draft.constants[inputs[-1]]) == 0:
        simple, inputs = Act("leaky", float(draft.constants[inputs[-1]].flat[0])), inputs[:-1]
    else:
        return False
    attrs = {**node.attrs, "act": simple}
    draft.replace(node, node.with_(inputs=inputs, attrs=attrs))
    return True


@rewrites("Binary")
def bounds_to_clip(draft: Draft, node: Node) -> bool:
    """min or max with one constant number -> clip."""
    kind = node.attrs["kind"]
    at = 0 if node.inputs[0] in draft.constants else 1
    name, bound = node.inputs[1 - at], draft.constants.get(node.inputs[at])
    if kind not in ("min", "max") or node.attrs["act"] is not None or bound is None:
        return False
    if name in draft.constants or np.ptp(bound) or draft.shapes[name] != draft.shapes[node.output]:
        return False
    value = float(bound.flat[0])
    act = Act("clip", value, inf) if kind == "max" else Act("clip", -inf, value)
    draft.replace(node, draft.node("Unary", [name], {"act": act}, node.output))
    return True


def limits(act: Act | None) -> tuple[float, float] | None:
    """What a clip or relu cuts at; None for any other activation."""
    if act is None or act.kind not in ("clip", "relu"):
        return None
    return (0.0, inf) if act.kind == "relu" else (act.a, act.b)


@rewrites("Unary")
def merge_clips(draft: Draft, node: Node) -> bool:
    """clip of clip, the inner read by nobody else: one clip. A relu is a clip."""
    inner = draft.made_by(node.inputs[0], "Unary")
    if inner is None or not draft.sole(inner.output):
        return False
    within, around = limits(inner.attrs["act"]), limits(node.attrs["act"])
    if within is None or around is None:
        return False
    low, high = (min(max(bound, around[0]), around[1]) for bound in within)
    act = Act("clip", low, high)
    draft.replace(node, draft.node("Unary", inner.inputs, {"act": act}, node.output))
    return True


def never_negative(draft: Draft, name: str) -> bool:
    """Every number of this tensor is 0 or more, by what writes it."""
    node = draft.made_by(name)
    if node is None or node.op == ISLAND:
        return False
    act = node.attrs.get("act")
    if act is not None and not (node.op == "Conv" and not node.attrs["residual_first"]):
        return act.kind in NOT_NEGATIVE or (act.kind == "clip" and act.a >= 0)
    if act is not None:
        plain = len(node.inputs) == 3
        return plain and (act.kind in NOT_NEGATIVE or (act.kind == "clip" and act.a >= 0))
    if node.op in ("MaxPool", "Slice", "GlobalPool", "Resize", "DepthToSpace", "SpaceToDepth"):
        return never_negative(draft, node.inputs[0])
    return node.op == "Concat" and all(never_negative(draft, part) for part in node.inputs)
