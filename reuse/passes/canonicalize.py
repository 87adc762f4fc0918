"""Passes that remove nodes without effect and express the rest in fewer, simpler ones."""

from collections.abc import Callable
from math import inf

import numpy as np

from stillframe.reuse.ir.graph import ISLAND, Act, Node
from stillframe.reuse.ir.ops import OPS
from stillframe.reuse.passes.rewriter import Draft, rewrites

NEGLIGIBLE = -1e30
"""A padding value at or below this never is the maximum of a pool."""
NONNEGATIVE_ACTS = ("relu", "sigmoid", "hardsigmoid", "softplus", "exp", "sqrt", "abs", "square")


@rewrites(*OPS)
def compute_constants(draft: Draft, node: Node) -> bool:
    """A node that reads only constants -> its value as a constant; not for model outputs."""
    if node.output in draft.model_outputs or not all(
        name in draft.constants for name in node.inputs
    ):
        return False
    value = OPS[node.op].reference(node, [draft.constants[name] for name in node.inputs])
    draft.constants[node.output] = value
    draft.remove(node)
    return True


def is_identity_affine(draft: Draft, node: Node) -> bool:
    scale, shift = (draft.constants[name] for name in node.inputs[1:3])
    return node.attrs["act"] is None and bool((scale == 1).all() and (shift == 0).all())


def is_identity_resize(draft: Draft, node: Node) -> bool:
    """A Resize in which each output position is the input position of the same index."""
    taps = (node.attrs["rows"], node.attrs["cols"])
    return all(
        np.array_equal(low, np.arange(len(low))) and not weight.any() for low, _, weight in taps
    )


COPIES: dict[str, Callable[[Draft, Node], bool]] = {
    "Slice": lambda draft, node: True,
    "Pad": lambda draft, node: not any(node.attrs["pad"]),
    "Concat": lambda draft, node: len(node.inputs) == 1,
    "GlobalPool": lambda draft, node: draft.shapes[node.inputs[0]][:2] == (1, 1),
    "MaxPool": lambda draft, node: max(node.attrs["kernel"] + node.attrs["stride"]) == 1,
    "AveragePool": lambda draft, node: max(node.attrs["kernel"] + node.attrs["stride"]) == 1,
    "Unary": lambda draft, node: node.attrs["act"] == Act("clip", -inf, inf),
    "Affine": is_identity_affine,
    "Resize": is_identity_resize,
    "DepthToSpace": lambda draft, node: node.attrs["block"] == 1,
    "SpaceToDepth": lambda draft, node: node.attrs["block"] == 1,
}
"""Operator -> test whether a node of it copies its first input, if the shapes are equal."""


@rewrites(*COPIES)
def drop_copies(draft: Draft, node: Node) -> bool:
    """x -> (full Slice, empty Pad, Concat of one, …) -> y : read x instead of y.

    The copy stays where both names must (model inputs and outputs, tensors of islands).
    """
    same = draft.shapes[node.inputs[0]] == draft.shapes[node.output]
    return same and COPIES[node.op](draft, node) and draft.bypass(node)


@rewrites("MaxPool", "AveragePool")
def simplify_pools(draft: Draft, node: Node) -> bool:
    """A pool over all rows and columns -> GlobalPool; a 1 × 1 pool with a stride -> Slice."""
    attrs, inside, out = node.attrs, draft.shapes[node.inputs[0]], draft.shapes[node.output]
    if any(attrs["pad"]) or attrs["dilation"] != (1, 1):
        return False
    if attrs["kernel"] == inside[:2] and out[:2] == (1, 1):
        kind = "max" if node.op == "MaxPool" else "mean"
        draft.replace(node, draft.node("GlobalPool", node.inputs, {"kind": kind}, node.output))
        return True
    if attrs["kernel"] == (1, 1) and attrs["stride"] != (1, 1):
        step = (*attrs["stride"], 1)
        attrs = {"start": (0, 0, 0), "step": step, "size": out}
        draft.replace(node, draft.node("Slice", node.inputs, attrs, node.output))
        return True
    return False


@rewrites("Slice")
def merge_slices(draft: Draft, node: Node) -> bool:
    """x -> Slice -> Slice -> y : x -> Slice -> y."""
    inner = draft.producer(node.inputs[0], "Slice")
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
    """Concat -> Concat along the same axis, the inner read once : one Concat."""
    names: list[str] = []
    for name in node.inputs:
        inner = draft.producer(name, "Concat")
        if (
            inner is not None
            and draft.read_once(name)
            and inner.attrs["axis"] == node.attrs["axis"]
        ):
            names.extend(inner.inputs)
        else:
            names.append(name)
    if len(names) == len(node.inputs):
        return False
    draft.replace(node, draft.node("Concat", names, node.attrs, node.output))
    return True


@rewrites("Concat")
def focus_to_depth(draft: Draft, node: Node) -> bool:
    """Strided Slices of x, one per offset in a block, -> Concat on channels : SpaceToDepth of x.

    YOLO's Focus layer. If the Slices come in another order than SpaceToDepth's, every reader must
    be a Conv: its weights are reordered.
    """
    slices = [draft.producer(name, "Slice") for name in node.inputs]
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
        if len(convs) != len(readers) or node.output in draft.model_outputs:
            return False
        if any(conv.inputs.count(node.output) > 1 for conv in convs):
            return False
        index = np.concatenate([np.arange(depth) + offset * depth for offset in order])
        for conv in convs:
            weights = np.empty_like(draft.constants[conv.inputs[1]])
            weights[:, :, index] = draft.constants[conv.inputs[1]]
            name = draft.add_constant(conv.inputs[1], weights)
            inputs = (conv.inputs[0], name, *conv.inputs[2:])
            draft.replace(conv, conv.with_(inputs=inputs))
    attrs = {"block": block, "mode": "DCR"}
    draft.replace(node, draft.node("SpaceToDepth", [source], attrs, node.output))
    return True


@rewrites("Unary", "Affine", "Binary", "Conv", "Modulate")
def simplify_acts(draft: Draft, node: Node) -> bool:
    """clip(0, inf) -> relu; leaky of slope 0 -> relu; prelu of equal slopes -> leaky."""
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
def min_max_to_clip(draft: Draft, node: Node) -> bool:
    """min(x, c) or max(x, c) with one constant number c -> clip."""
    kind = node.attrs["kind"]
    constant = 0 if node.inputs[0] in draft.constants else 1
    name, bound = node.inputs[1 - constant], draft.constants.get(node.inputs[constant])
    if kind not in ("min", "max") or node.attrs["act"] is not None or bound is None:
        return False
    if name in draft.constants or np.ptp(bound) or draft.shapes[name] != draft.shapes[node.output]:
        return False
    value = float(bound.flat[0])
    act = Act("clip", value, inf) if kind == "max" else Act("clip", -inf, value)
    draft.replace(node, draft.node("Unary", [name], {"act": act}, node.output))
    return True


def clip_bounds(act: Act | None) -> tuple[float, float] | None:
    """(low, high) of a clip or relu; None for any other activation."""
    if act is None or act.kind not in ("clip", "relu"):
        return None
    return (0.0, inf) if act.kind == "relu" else (act.a, act.b)


@rewrites("Unary")
def merge_clips(draft: Draft, node: Node) -> bool:
    """clip -> clip, the inner read once : one clip. A relu is a clip."""
    inner = draft.producer(node.inputs[0], "Unary")
    if inner is None or not draft.read_once(inner.output):
        return False
    first, second = clip_bounds(inner.attrs["act"]), clip_bounds(node.attrs["act"])
    if first is None or second is None:
        return False
    low, high = (min(max(bound, second[0]), second[1]) for bound in first)
    act = Act("clip", low, high)
    draft.replace(node, draft.node("Unary", inner.inputs, {"act": act}, node.output))
    return True


def is_nonnegative(draft: Draft, name: str) -> bool:
    """The operator that writes the tensor guarantees numbers of 0 or more."""
    node = draft.producer(name)
    if node is None or node.op == ISLAND:
        return False
    act = node.attrs.get("act")
    if act is not None and not (node.op == "Conv" and not node.attrs["residual_first"]):
        return act.kind in NONNEGATIVE_ACTS or (act.kind == "clip" and act.a >= 0)
    if act is not None:
        no_residual = len(node.inputs) == 3
        return no_residual and (act.kind in NONNEGATIVE_ACTS or (act.kind == "clip" and act.a >= 0))
    if node.op in ("MaxPool", "Slice", "GlobalPool", "Resize", "DepthToSpace", "SpaceToDepth"):
        return is_nonnegative(draft, node.inputs[0])
    return node.op == "Concat" and all(is_nonnegative(draft, part) for part in node.inputs)
