"""Passes that recognise activations which exporters spell out in several operators."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import pi, sqrt

import numpy as np

from stillframe.reuse.ir.graph import Act, Node
from stillframe.reuse.passes.fold import scale_and_shift
from stillframe.reuse.passes.rewriter import Draft, rewrites

CLOSE = 1e-4
"""Constants count as the ones of a formula up to this: exporters round them, some to float16."""
DEEP = 6
"""How many nodes back a formula may begin."""


@dataclass(frozen=True, slots=True)
class Line:
    """scale · tensor + shift, the same for every channel."""

    tensor: str
    scale: float
    shift: float


def lines(draft: Draft, name: str) -> Iterator[Line]:
    """A tensor as a line of itself, of what its Affine reads, and so on."""
    scale, shift = 1.0, 0.0
    yield Line(name, scale, shift)
    while (node := draft.made_by(name, "Affine")) is not None and node.attrs["act"] is None:
        scales, shifts = scale_and_shift(draft, node)
        if np.ptp(scales) or np.ptp(shifts):
            return
        scale, shift = scale * float(scales[0]), shift + scale * float(shifts[0])
        name = node.inputs[0]
        yield Line(name, scale, shift)


def line_of(draft: Draft, name: str, base: str) -> Line | None:
    """A tensor as a line of one certain tensor."""
    return next((line for line in lines(draft, name) if line.tensor == base), None)


def polynomial(draft: Draft, name: str, base: str, deep: int = DEEP) -> list[float] | None:
    """Coefficients (constant first, up to the cube) of a tensor that is a polynomial of base."""
    if name == base:
        return [0.0, 1.0, 0.0, 0.0]
    node = draft.made_by(name, "Affine", "Binary", "Unary")
    if node is None or not deep:
        return None
    act = node.attrs["act"]
    if node.op == "Unary":
        inner = polynomial(draft, node.inputs[0], base, deep - 1)
        return product(inner, inner) if act.kind == "square" else None
    if act is not None:
        return None
    if node.op == "Affine":
        inner = polynomial(draft, node.inputs[0], base, deep - 1)
        scales, shifts = scale_and_shift(draft, node)
        if inner is None or np.ptp(scales) or np.ptp(shifts):
            return None
        found = [float(scales[0]) * value for value in inner]
        return [found[0] + float(shifts[0]), *found[1:]]
    left, right = (polynomial(draft, each, base, deep - 1) for each in node.inputs[:2])
    if left is None or right is None:
        return None
    if node.attrs["kind"] == "add":
        return [a + b for a, b in zip(left, right, strict=True)]
    return product(left, right) if node.attrs["kind"] == "mul" else None


def product(left: list[float] | None, right: list[float] | None) -> list[float] | None:
    if left is None or right is None:
        return None
    full = np.convolve(left, right)
    return None if full[4:].any() else [float(value) for value in full[:4]]


def close(values: object, wanted: object) -> bool:
    return bool(np.allclose(np.asarray(values), np.asarray(wanted), rtol=CLOSE, atol=CLOSE))


def recognised(draft: Draft, unary: Node, gate: Line, base: str) -> tuple[Act, float] | None:
    """base · (gate of an activation of base) as (one activation of base, its factor)."""
    act, inner = unary.attrs["act"], unary.inputs[0]
    half_up = close(gate.scale, gate.shift)
    if act.kind == "tanh":
        soft = draft.made_by(inner, "Unary")
        if gate.shift == 0 and soft is not None and soft.attrs["act"].kind == "softplus":
            return (Act("mish"), gate.scale) if soft.inputs[0] == base else None
        cubic = polynomial(draft, inner, base)
        root = sqrt(2 / pi)
        if half_up and cubic is not None and close(cubic, [0, root, 0, 0.044715 * root]):
            return Act("gelu_tanh"), 2 * gate.scale
        return None
    line = line_of(draft, inner, base)
    if line is None:
        return None
    if act.kind == "erf" and half_up and close((line.scale, line.shift), (sqrt(0.5), 0)):
        return Act("gelu"), 2 * gate.scale
    if gate.shift != 0:
        return None
    if act.kind == "sigmoid" and (line.scale, line.shift) == (1, 0):
        return Act("silu"), gate.scale
    if act.kind == "clip" and act.a == 0 and act.b > 0:
        slope = (line.scale / act.b, line.shift / act.b)
        return (Act("hardswish"), gate.scale * act.b) if close(slope, (1 / 6, 0.5)) else None
    if act.kind == "hardsigmoid":
        slope = (act.a * line.scale, act.a * line.shift + act.b)
        if close(slope, (1 / 6, 0.5)):
            return Act("hardswish"), gate.scale
    return None


@rewrites("Binary")
def spelled_products(draft: Draft, node: Node) -> bool:
    """x · sigmoid(x), x · clip(x + 3, 0, 6) / 6, x · (1 + erf(x / √2)) / 2, x · tanh(…) -> Unary.

    A factor that is left over stays behind as an Affine.
    """
    if node.attrs["kind"] != "mul" or node.inputs[0] == node.inputs[1]:
        return False
    for first, second in (node.inputs[:2], node.inputs[1::-1]):
        for factor in lines(draft, first):
            if factor.shift != 0:
                continue
            for gate in lines(draft, second):
                unary = draft.made_by(gate.tensor, "Unary")
                if unary is None:
                    continue
                found = recognised(draft, unary, gate, factor.tensor)
                if found is not None:
                    put_act(draft, node, factor.tensor, found[0], factor.scale * found[1])
                    return True
    return False


def put_act(draft: Draft, node: Node, base: str, act: Act, scale: float) -> None:
    """Replace a node by an activation of base, a factor, and the node's own activation."""
    depth = draft.shapes[base][2]
    steps = [draft.node("Unary", [base], {"act": act})]
    outer = node.attrs["act"]
    if np.float32(scale) != 1 or outer is not None:
        inputs = [steps[0].output, draft.hold(base, np.full(depth, scale))]
        inputs += [draft.hold(base, np.zeros(depth)), *node.inputs[2:]]
        steps.append(draft.node("Affine", inputs, {"act": outer}))
    steps[-1] = steps[-1].with_(outputs=node.outputs)
    draft.replace(node, *steps)


@rewrites("Affine")
def spelled_clips(draft: Draft, node: Node) -> bool:
    """clip(x + 3, 0, 6) / 6 and the like -> hardsigmoid of x."""
    unary = draft.made_by(node.inputs[0], "Unary")
    if unary is None or node.attrs["act"] is not None or not draft.sole(unary.output):
        return False
    act = unary.attrs["act"]
    inner = draft.made_by(unary.inputs[0], "Affine")
    if act.kind != "clip" or act.a != 0 or inner is None or inner.attrs["act"] is not None:
        return False
    outer = next((line for line in lines(draft, node.output) if line.tensor == unary.output), None)
    line = line_of(draft, unary.inputs[0], inner.inputs[0])
    if outer is None or line is None or outer.shift or not close(outer.scale * act.b, 1):
        return False
    found = Act("hardsigmoid", line.scale / act.b, line.shift / act.b)
    draft.replace(node, draft.node("Unary", [line.tensor], {"act": found}, node.output))
    return True


@rewrites("Binary")
def gate_with_skip(draft: Draft, node: Node) -> bool:
    """x + x · gate with a gate per channel -> x · (1 + gate): the picture is read once."""
    if node.attrs["kind"] != "add":
        return False
    for skip, gated in (node.inputs[:2], node.inputs[1::-1]):
        inner = draft.made_by(gated, "Binary")
        if inner is None or inner.attrs["kind"] != "mul" or inner.attrs["act"] is not None:
            continue
        if skip not in inner.inputs or not draft.sole(gated):
            continue
        gate = inner.inputs[1] if inner.inputs[0] == skip else inner.inputs[0]
        out = draft.shapes[node.output]
        if draft.shapes[skip] != out or draft.shapes[gate] != (1, 1, out[2]) or out[:2] == (1, 1):
            continue
        ones = [draft.hold(gate, np.ones(out[2])) for _ in range(2)]
        raised = draft.node("Affine", [gate, *ones], {"act": None})
        attrs = {"kind": "mul", "act": node.attrs["act"]}
        inputs = [skip, raised.output, *node.inputs[2:]]
        draft.replace(node, raised, draft.node("Binary", inputs, attrs, node.output))
        return True
    return False
