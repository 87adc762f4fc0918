"""Passes that let one node do what two did: activations, residual additions, groups of channels."""

from typing import Any

import numpy as np

from stillframe.reuse.ir.graph import Node
from stillframe.reuse.passes.fold import movable, spread_over
from stillframe.reuse.passes.rewriter import Draft, rewrites

ENDS_IN_ACT = ("Conv", "Binary", "Affine", "Modulate")
MOST_GROUPS = 64
"""A grouped Conv of more groups than this stays one node."""
DENSE_DEPTH = 16
"""... and of so few channels in all becomes an ordinary Conv with zeros for the other groups."""


@rewrites("Unary")
def act_before_moves(draft: Draft, node: Node) -> bool:
    """Convs -> move -> Unary : Convs -> Unary -> move, where the Convs then take it in."""
    move = movable(draft, node)
    if move is None:
        return False
    slopes: list[Any] = [None for _ in move.inputs]
    if node.attrs["act"].kind == "prelu":
        slopes = list(spread_over(draft, move, draft.constants[node.inputs[1]]))
    before = []
    for name, slope in zip(move.inputs, slopes, strict=True):
        inputs = [name] if slope is None else [name, draft.hold(name, slope)]
        before.append(draft.node("Unary", inputs, node.attrs))
    names = [each.output for each in before]
    draft.replace(node, *before, draft.node(move.op, names, move.attrs, node.output))
    return True


@rewrites("Unary")
def act_into_producer(draft: Draft, node: Node) -> bool:
    """Conv, Binary, Affine or Modulate -> Unary, nobody else between : its act."""
    before = draft.made_by(node.inputs[0], *ENDS_IN_ACT)
    if before is None or not draft.sole(before.output) or before.attrs["act"] is not None:
        return False
    if before.op == "Conv" and len(before.inputs) > 3 and not before.attrs["residual_first"]:
        return False
    attrs = {**before.attrs, "act": node.attrs["act"]}
    inputs = (*before.inputs, *node.inputs[1:])
    draft.replace(node, before.with_(inputs=inputs, outputs=node.outputs, attrs=attrs))
    return True


@rewrites("Conv")
def split_groups(draft: Draft, node: Node) -> bool:
    """A Conv of some groups, not depthwise -> Slice, Conv, Concat; of few channels: one Conv."""
    group = node.attrs["group"]
    weights = draft.constants[node.inputs[1]]
    depth, channels = draft.shapes[node.inputs[0]][2], weights.shape[3]
    if group == 1 or group == depth == channels:
        return False
    ins, outs = weights.shape[2], channels // group
    if depth <= DENSE_DEPTH:
        full = np.zeros((*weights.shape[:2], depth, channels), np.float32)
        for g in range(group):
            mine = slice(g * outs, (g + 1) * outs)
            full[:, :, g * ins : (g + 1) * ins, mine] = weights[..., mine]
        inputs = (node.inputs[0], draft.hold(node.inputs[1], full), *node.inputs[2:])
        draft.replace(node, node.with_(inputs=inputs, attrs={**node.attrs, "group": 1}))
        return True
    act = node.attrs["act"]
    prelu = act is not None and act.kind == "prelu"
    if group > MOST_GROUPS or len(node.inputs) - prelu > 3:
        return False
    height, width, _ = draft.shapes[node.inputs[0]]
    nodes, parts = [], []
    for g in range(group):
        taken = {"start": (0, 0, g * ins), "step": (1, 1, 1), "size": (height, width, ins)}
        part = draft.node("Slice", [node.inputs[0]], taken)
        mine = slice(g * outs, (g + 1) * outs)
        values = [draft.constants[name][..., mine] for name in node.inputs[1:]]
        inputs = (part.output, *(draft.hold(node.output, value) for value in values))
        conv = draft.node("Conv", inputs, {**node.attrs, "group": 1})
        nodes += [part, conv]
        parts.append(conv.output)
    draft.replace(node, *nodes, draft.node("Concat", parts, {"axis": 2}, node.output))
    return True


@rewrites("Binary")
def add_into_conv(draft: Draft, node: Node) -> bool:
    """Conv + another tensor of its shape : the Conv's residual. The later Conv takes it."""
    if node.attrs["kind"] != "add" or node.inputs[0] == node.inputs[1]:
        return False
    out, act = draft.shapes[node.output], node.attrs["act"]
    candidates = []
    for name, other in (node.inputs[:2], node.inputs[1::-1]):
        conv = draft.made_by(name, "Conv")
        if conv is None or not draft.sole(name) or other in draft.constants:
            continue
        inner = conv.attrs["act"]
        prelu = inner is not None and inner.kind == "prelu"
        if len(conv.inputs) - prelu > 3 or draft.shapes[other] != out:
            continue
        if draft.shapes[name] == out and (inner is None or act is None):
            candidates.append((draft.position(conv), conv, other))
    if not candidates:
        return False
    _, conv, other = max(candidates, key=lambda each: each[0])
    slopes = (*conv.inputs[3:], *node.inputs[2:])
    attrs = {**conv.attrs, "act": conv.attrs["act"] or act, "residual_first": act is not None}
    inputs = (*conv.inputs[:3], other, *slopes)
    draft.replace(node, conv.with_(inputs=inputs, outputs=node.outputs, attrs=attrs))
    return True
