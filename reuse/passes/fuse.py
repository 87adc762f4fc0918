"""Passes that fuse activations and residual additions into Convs, and split grouped Convs."""

from typing import Any

import numpy as np

from stillframe.reuse.ir.graph import Node
from stillframe.reuse.passes.fold import movement_to_cross, per_channel_inputs
from stillframe.reuse.passes.rewriter import Draft, rewrites

ACT_OPS = ("Conv", "Binary", "Affine", "Modulate")
MAX_SPLIT_GROUPS = 64
"""A grouped Conv of more groups than this stays one node."""
MAX_DENSE_DEPTH = 16
"""A grouped Conv of up to this many channels becomes one Conv with zeros between groups."""


@rewrites("Unary")
def act_before_move(draft: Draft, node: Node) -> bool:
    """Convs -> move -> Unary : Convs -> Unary -> move, where the Convs then absorb it."""
    move = movement_to_cross(draft, node)
    if move is None:
        return False
    slopes: list[Any] = [None for _ in move.inputs]
    if node.attrs["act"].kind == "prelu":
        slopes = list(per_channel_inputs(draft, move, draft.constants[node.inputs[1]]))
    before = []
    for name, slope in zip(move.inputs, slopes, strict=True):
        inputs = [name] if slope is None else [name, draft.add_constant(name, slope)]
        before.append(draft.node("Unary", inputs, node.attrs))
    names = [each.output for each in before]
    draft.replace(node, *before, draft.node(move.op, names, move.attrs, node.output))
    return True


@rewrites("Unary")
def act_into_producer(draft: Draft, node: Node) -> bool:
    """Conv, Binary, Affine or Modulate -> Unary, the first read once : its act."""
    before = draft.producer(node.inputs[0], *ACT_OPS)
    if before is None or not draft.read_once(before.output) or before.attrs["act"] is not None:
        return False
    if before.op == "Conv" and len(before.inputs) > 3 and not before.attrs["residual_first"]:
        return False
    attrs = {**before.attrs, "act": node.attrs["act"]}
    inputs = (*before.inputs, *node.inputs[1:])
    draft.replace(node, before.with_(inputs=inputs, outputs=node.outputs, attrs=attrs))
    return True


@rewrites("Conv")
def split_groups(draft: Draft, node: Node) -> bool:
    """A grouped Conv that is not depthwise -> a Slice and a Conv per group, Concat.

    A Conv of few channels -> one ungrouped Conv.
    """
    group = node.attrs["group"]
    weights = draft.constants[node.inputs[1]]
    depth, channels = draft.shapes[node.inputs[0]][2], weights.shape[3]
    if group == 1 or group == depth == channels:
        return False
    ins, outs = weights.shape[2], channels // group
    if depth <= MAX_DENSE_DEPTH:
        full = np.zeros((*weights.shape[:2], depth, channels), np.float32)
        for g in range(group):
            group_out = slice(g * outs, (g + 1) * outs)
            full[:, :, g * ins : (g + 1) * ins, group_out] = weights[..., group_out]
        inputs = (node.inputs[0], draft.add_constant(node.inputs[1], full), *node.inputs[2:])
        draft.replace(node, node.with_(inputs=inputs, attrs={**node.attrs, "group": 1}))
        return True
    act = node.attrs["act"]
    prelu = act is not None and act.kind == "prelu"
    if group > MAX_SPLIT_GROUPS or len(node.inputs) - prelu > 3:
        return False
    height, width, _ = draft.shapes[node.inputs[0]]
    nodes, parts = [], []
    for g in range(group):
        group_in = {"start": (0, 0, g * ins), "step": (1, 1, 1), "size": (height, width, ins)}
        part = draft.node("Slice", [node.inputs[0]], group_in)
        group_out = slice(g * outs, (g + 1) * outs)
        values = [draft.constants[name][..., group_out] for name in node.inputs[1:]]
        inputs = (part.output, *(draft.add_constant(node.output, value) for value in values))
        conv = draft.node("Conv", inputs, {**node.attrs, "group": 1})
        nodes += [part, conv]
        parts.append(conv.output)
    draft.replace(node, *nodes, draft.node("Concat", parts, {"axis": 2}, node.output))
    return True


@rewrites("Binary")
def add_into_conv(draft: Draft, node: Node) -> bool:
    """Conv -> Add of another tensor of its shape : the Conv with that tensor as residual.

    If both operands come from Convs, the later one takes the other as its residual.
    """
    if node.attrs["kind"] != "add" or node.inputs[0] == node.inputs[1]:
        return False
    out, act = draft.shapes[node.output], node.attrs["act"]
    candidates = []
    for name, other in (node.inputs[:2], node.inputs[1::-1]):
        conv = draft.producer(name, "Conv")
        if conv is None or not draft.read_once(name) or other in draft.constants:
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
