"""Passes that recognise activations which exporters wrote in expanded form."""

from collections.abc import Iterator
from dataclasses import dataclass
from math import pi, sqrt

import numpy as np

from stillframe.reuse.ir.graph import Act, Node
from stillframe.reuse.passes.fold import scale_and_shift
from stillframe.reuse.passes.rewriter import Draft, rewrites

CONSTANT_TOLERANCE = 1e-4
"""How closely constants must match a formula: exporters round them, some to float16."""
MAX_DEPTH = 6
"""How many nodes an expanded formula may be deep."""


@dataclass(frozen=True, slots=True)
class LinearForm:
    """scale · tensor + shift, with the same scale and shift for every channel."""

    tensor: str
    scale: float
    shift: float


def linear_forms(draft: Draft, name: str) -> Iterator[LinearForm]:
    """A tensor as a linear form of itself, of what its Affine reads, and so on back."""
    scale, shift = 1.0, 0.0
    yield LinearForm(name, scale, shift)
    while (node := draft.producer(name, "Affine")) is not None and node.attrs["act"] is None:
        scales, shifts = scale_and_shift(draft, node)
        if np.ptp(scales) or np.ptp(shifts):
            return
        scale, shift = scale * float(scales[0]), shift + scale * float(shifts[0])
        name = node.inputs[0]
        yield LinearForm(name, scale, shift)


def linear_form_of(draft: Draft, name: str, base: str) -> LinearForm | None:
    """A tensor as a linear form of `base`; None if it is not one."""
    return next((form for form in linear_forms(draft, name) if form.tensor == base), None)


def polynomial(draft: Draft, name: str, base: str, depth: int = MAX_DEPTH) -> list[float] | None:
    """Coefficients (constant first, up to the cube) of a tensor as polynomial of base, or None."""
    if name == base:
        return [0.0, 1.0, 0.0, 0.0]
    node = draft.producer(name, "Affine", "Binary", "Unary")
    if node is None or not depth:
        return None
    act = node.attrs["act"]
    if node.op == "Unary":
        inner = polynomial(draft, node.inputs[0], base, depth - 1)
        return product(inner, inner) if act.kind == "square" else None
    if act is not None:
        return None
    if node.op == "Affine":
        inner = polynomial(draft, node.inputs[0], base, depth - 1)
        scales, shifts = scale_and_shift(draft, node)
        if inner is None or np.ptp(scales) or np.ptp(shifts):
            return None
        scaled = [float(scales[0]) * value for value in inner]
        return [scaled[0] + float(shifts[0]), *scaled[1:]]
    left, right = (polynomial(draft, each, base, depth - 1) for each in node.inputs[:2])
    if left is None or right is None:
        return None
    if node.attrs["kind"] == "add":
        return [a + b for a, b in zip(left, right, strict=True)]
    return product(left, right) if node.attrs["kind"] == "mul" else None


def product(left: list[float] | None, right: list[float] | None) -> list[float] | None:
    """Coefficients of a product; None where it goes beyond the cube."""
    if left is None or right is None:
        return None
    full = np.convolve(left, right)
    return None if full[4:].any() else [float(value) for value in full[:4]]


def is_close(values: object, expected: object) -> bool:
    return bool(
        np.allclose(
            np.asarray(values),
            np.asarray(expected),
            rtol=CONSTANT_TOLERANCE,
            atol=CONSTANT_TOLERANCE,
        )
    )


def match_gate(draft: Draft, unary: Node, gate: LinearForm, base: str) -> tuple[Act, float] | None:
    """base · gate, with gate a linear form of unary's output -> (one activation, its factor).

    None if the product is no known activation of base.
    """
    act, inner = unary.attrs["act"], unary.inputs[0]
    scale_is_shift = is_close(gate.scale, gate.shift)  # c · (1 + unary)
    if act.kind == "tanh":
        soft = draft.producer(inner, "Unary")
        if gate.shift == 0 and soft is not None and soft.attrs["act"].kind == "softplus":
            return (Act("mish"), gate.scale) if soft.inputs[0] == base else None
        cubic = polynomial(draft, inner, base)
        root = sqrt(2 / pi)
        if scale_is_shift and cubic is not None and is_close(cubic, [0, root, 0, 0.044715 * root]):
            return Act("gelu_tanh"), 2 * gate.scale
        return None
    form = linear_form_of(draft, inner, base)
    if form is None:
        return None
    if act.kind == "erf" and scale_is_shift and is_close((form.scale, form.shift), (sqrt(0.5), 0)):
        return Act("gelu"), 2 * gate.scale
    if gate.shift != 0:
        return None
    if act.kind == "sigmoid" and (form.scale, form.shift) == (1, 0):
        return Act("silu"), gate.scale
    if act.kind == "clip" and act.a == 0 and act.b > 0:
        slope = (form.scale / act.b, form.shift / act.b)
        return (Act("hardswish"), gate.scale * act.b) if is_close(slope, (1 / 6, 0.5)) else None
    if act.kind == "hardsigmoid":
        slope = (act.a * form.scale, act.a * form.shift + act.b)
        if is_close(slope, (1 / 6, 0.5)):
            return Act("hardswish"), gate.scale
    return None


@rewrites("Binary")
def recognize_gated(draft: Draft, node: Node) -> bool:
    """x · sigmoid(x), x · clip(x + 3, 0, 6) / 6, x · (1 + erf(x / √2)) / 2, x · tanh(…) -> Unary.

    SiLU, HardSwish, GELU, Mish. A remaining constant factor becomes an Affine after it.
    """
    if node.attrs["kind"] != "mul" or node.inputs[0] == node.inputs[1]:
        return False
    for first, second in (node.inputs[:2], node.inputs[1::-1]):
        for factor in linear_forms(draft, first):
            if factor.shift != 0:
                continue
            for gate in linear_forms(draft, second):
                unary = draft.producer(gate.tensor, "Unary")
                if unary is None:
                    continue
                match = match_gate(draft, unary, gate, factor.tensor)
                if match is not None:
                    act, scale = match
                    replace_by_act(draft, node, factor.tensor, act, factor.scale * scale)
                    return True
    return False


def replace_by_act(draft: Draft, node: Node, base: str, act: Act, scale: float) -> None:
    """Replace a node by an activation of base, then a factor and the node's own activation."""
    depth = draft.shapes[base][2]
    steps = [draft.node("Unary", [base], {"act": act})]
    outer = node.attrs["act"]
    if np.float32(scale) != 1 or outer is not None:
        inputs = [steps[0].output, draft.add_constant(base, np.full(depth, scale))]
        inputs += [draft.add_constant(base, np.zeros(depth)), *node.inputs[2:]]
        steps.append(draft.node("Affine", inputs, {"act": outer}))
    steps[-1] = steps[-1].with_(outputs=node.outputs)
    draft.replace(node, *steps)


@rewrites("Affine")
def recognize_hardsigmoid(draft: Draft, node: Node) -> bool:
    """Affine -> clip from 0 -> Affine, such as clip(x + 3, 0, 6) / 6 : hardsigmoid."""
    unary = draft.producer(node.inputs[0], "Unary")
    if unary is None or node.attrs["act"] is not None or not draft.read_once(unary.output):
        return False
    act = unary.attrs["act"]
    inner = draft.producer(unary.inputs[0], "Affine")
    if act.kind != "clip" or act.a != 0 or inner is None or inner.attrs["act"] is not None:
        return False
    outer = next(
        (form for form in linear_forms(draft, node.output) if form.tensor == unary.output), None
    )
    form = linear_form_of(draft, unary.inputs[0], inner.inputs[0])
    if outer is None or form is None or outer.shift or not is_close(outer.scale * act.b, 1):
        return False
    hardsigmoid = Act("hardsigmoid", form.scale / act.b, form.shift / act.b)
    draft.replace(node, draft.node("Unary", [form.tensor], {"act": hardsigmoid}, node.output))
    return True


@rewrites("Binary")
def merge_gated_skip(draft: Draft, node: Node) -> bool:
    """x + x · gate, with a gate per channel -> x · (1 + gate), which reads x once."""
    if node.attrs["kind"] != "add":
        return False
    for skip, gated in (node.inputs[:2], node.inputs[1::-1]):
        inner = draft.producer(gated, "Binary")
        if inner is None or inner.attrs["kind"] != "mul" or inner.attrs["act"] is not None:
            continue
        if skip not in inner.inputs or not draft.read_once(gated):
            continue
        gate = inner.inputs[1] if inner.inputs[0] == skip else inner.inputs[0]
        out = draft.shapes[node.output]
        if draft.shapes[skip] != out or draft.shapes[gate] != (1, 1, out[2]) or out[:2] == (1, 1):
            continue
        ones = [draft.add_constant(gate, np.ones(out[2])) for _ in range(2)]
        raised = draft.node("Affine", [gate, *ones], {"act": None})
        attrs = {"kind": "mul", "act": node.attrs["act"]}
        inputs = [skip, raised.output, *node.inputs[2:]]
        draft.replace(node, raised, draft.node("Binary", inputs, attrs, node.output))
        return True
    return False
