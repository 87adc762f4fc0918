"""Converters of the ONNX operators that only move numbers: one row per operator at the end."""

from collections.abc import Callable, Sequence

import numpy as np

from stillframe.reuse.frontend.context import (
    POINT_CONV,
    ImportContext,
    OnnxNode,
    TensorLayout,
    UnsupportedError,
    whole,
)
from stillframe.reuse.ir.graph import Array


def identity(placing: ImportContext, call: OnnxNode) -> None:
    """Also what has no effect when a model is only run: Dropout, Expand to the same shape."""
    if len([output for output in call.outputs if output]) > 1:
        raise UnsupportedError("its mask output")
    if placing.onnx_shape(call.inputs[0]) != placing.onnx_shape(call.output):
        raise UnsupportedError("changes the shape")
    placing.alias(call.inputs[0], call.output)


def reshape(placing: ImportContext, call: OnnxNode) -> None:
    """The same numbers in the same order under another shape."""
    name = call.inputs[0]
    placing.place(name)
    placing.onnx_shape(call.output)
    placing.alias(name, call.output)


def transpose(placing: ImportContext, call: OnnxNode) -> None:
    """Between the two orders, or of axes that hold one number."""
    name = call.inputs[0]
    placed, shape = placing.place(name), placing.onnx_shape(name)
    perm = tuple(call.attrs.get("perm") or reversed(range(len(shape))))
    moved = [axis for axis in perm if shape[axis] != 1]
    if moved == sorted(moved):
        placing.alias(name, call.output)
        return
    turned = swaps(placed, shape, perm)
    if turned is None:
        raise UnsupportedError(f"axes {list(perm)} of {list(shape)}: neither to NHWC nor to NCHW")
    placing.alias(name, call.output, turned)


def swaps(placed: TensorLayout, shape: Sequence[int], perm: tuple[int, ...]) -> str | None:
    """The layout after a Transpose that brings channels last or first; None for any other."""
    depth = placed.shape[2]
    if placed.layout == "NCHW":
        first = next(axis for axis in range(len(shape)) if shape[axis] != 1)
        rest = [axis for axis in perm if axis != first and shape[axis] != 1]
        last = [axis for axis in perm if shape[axis] != 1][-1]
        if shape[first] == depth and last == first and rest == sorted(rest):
            return "NHWC"
    else:
        last = next(axis for axis in reversed(range(len(shape))) if shape[axis] != 1)
        rest = [axis for axis in perm if axis != last and shape[axis] != 1]
        first = next(axis for axis in perm if shape[axis] != 1)
        if shape[last] == depth and first == last and rest == sorted(rest):
            return "NCHW"
    return None


def concat(placing: ImportContext, call: OnnxNode) -> None:
    names = [name for name in call.inputs if name not in placing.weights]
    if len(names) != len(call.inputs):
        raise UnsupportedError("a constant among its inputs")
    placed = [placing.place(name) for name in names]
    axes = {placing.axis(name, call.attrs["axis"]) for name in names}
    stiff = {each.layout for each in placed if not each.flexible}
    if len(axes) > 1 or len(stiff) > 1:
        raise UnsupportedError("inputs lie differently")
    layout = stiff.pop() if stiff else placed[0].layout
    shapes = [placing.onnx_shape(name) for name in names]
    views = [shape != each.turned(layout).plain for shape, each in zip(shapes, placed, strict=True)]
    axis = axes.pop()
    sizes = [each.shape[:axis] + each.shape[axis + 1 :] for each in placed]
    if any(size != sizes[0] for size in sizes) or (any(views) and not all(views)):
        raise UnsupportedError("inputs lie differently")
    placing.emit("Concat", names, call.output, {"axis": axis})
    placing.bind(call.output, layout)


def take(
    placing: ImportContext, name: str, output: str, axis: int, start: int, step: int, size: int
) -> None:
    """Write a Slice of one axis of (H, W, C)."""
    shape = placing.shape(name)
    attrs = whole(shape)
    for key, value in (("start", start), ("step", step), ("size", size)):
        attrs[key] = (*attrs[key][:axis], value, *attrs[key][axis + 1 :])
    placing.emit("Slice", [name], output, attrs)


def split(placing: ImportContext, call: OnnxNode) -> None:
    name = call.inputs[0]
    placed = placing.place(name)
    axis = placing.axis(name, call.attrs.get("axis", 0))
    total = placed.shape[axis]
    count = len(call.outputs)
    each = -(-total // count)
    sizes: Sequence[int] = [min(each, total - each * index) for index in range(count)]
    if call.input(1):
        sizes = placing.constant(call.inputs[1], "the list of sizes").tolist()
    elif call.attrs.get("split"):
        sizes = call.attrs["split"]
    start = 0
    for output, size in zip(call.outputs, sizes, strict=True):
        if output:
            take(placing, name, output, axis, start, 1, size)
            placing.bind(output, placed.layout)
        start += size


def cut(placing: ImportContext, call: OnnxNode) -> None:
    name = call.inputs[0]
    placed, shape = placing.place(name), placing.onnx_shape(name)
    if placing.opset < 10:
        starts, ends = call.attrs["starts"], call.attrs["ends"]
        axes = call.attrs.get("axes") or range(len(starts))
        steps: Sequence[int] = [1] * len(starts)
    else:
        starts = placing.constant(call.inputs[1], "the start").tolist()
        ends = placing.constant(call.inputs[2], "the end").tolist()
        axes = range(len(starts))
        if call.input(3):
            axes = placing.constant(call.inputs[3], "the list of axes").tolist()
        steps = [1] * len(starts)
        if call.input(4):
            steps = placing.constant(call.inputs[4], "the step").tolist()
    attrs = whole(placed.shape)
    values = {key: list(value) for key, value in attrs.items()}
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        axis = axis + len(shape) if axis < 0 else axis
        if step < 1:
            raise UnsupportedError(f"step {step}")
        taken = range(*slice(start, end, step).indices(shape[axis]))
        if len(taken) == shape[axis]:
            continue
        if not taken:
            raise UnsupportedError("takes nothing")
        at = placing.axis(name, axis)
        values["start"][at], values["step"][at] = taken.start, step
        values["size"][at] = len(taken)
    placing.emit("Slice", [name], call.output, {key: tuple(v) for key, v in values.items()})
    placing.bind(call.output, placed.layout)


def gather(placing: ImportContext, call: OnnxNode) -> None:
    """Positions at equal distances along one axis, or any channels."""
    name = call.inputs[0]
    placed, shape = placing.place(name), placing.onnx_shape(name)
    axis = call.attrs.get("axis", 0)
    indices = placing.constant(call.inputs[1], "the list of indices")
    taken = indices.reshape(-1)
    at = placing.axis(name, axis)
    taken = np.where(taken < 0, taken + shape[axis], taken)
    steps = np.diff(taken)
    step = int(steps[0]) if len(steps) else 1
    if indices.ndim > 1:
        raise UnsupportedError(f"indices of shape {list(indices.shape)}")
    if step > 0 and bool((steps == step).all()):
        take(placing, name, call.output, at, int(taken[0]), step, len(taken))
    elif at == 2:
        select(placing, name, call.output, taken)
    else:
        raise UnsupportedError("rows or columns at unequal distances")
    placing.bind(call.output, placed.layout)


def select(placing: ImportContext, name: str, output: str, channels: Array) -> None:
    """Write a choice of channels as a 1 × 1 convolution; passes fold it into its neighbours."""
    depth = placing.shape(name)[2]
    weights = np.zeros((1, 1, depth, len(channels)))
    weights[0, 0, channels, np.arange(len(channels))] = 1
    names = [
        name,
        placing.hold(f"{output}~weights", weights),
        placing.hold(f"{output}~bias", np.zeros(len(channels))),
    ]
    placing.emit("Conv", names, output, POINT_CONV)


def pad(placing: ImportContext, call: OnnxNode) -> None:
    name = call.inputs[0]
    placed = placing.any_picture(name)
    mode = call.attrs.get("mode", "constant")
    if mode not in ("constant", "reflect", "edge"):
        raise UnsupportedError(f"mode {mode}")
    if placing.opset < 11:
        pads, value = call.attrs["pads"], call.attrs.get("value", 0.0)
    else:
        pads = placing.constant(call.inputs[1], "the padding").tolist()
        value = 0.0
        if call.input(2):
            value = float(placing.constant(call.inputs[2], "the value").reshape(()))
    axes: Sequence[int] = range(len(pads) // 2)
    if call.input(3):
        axes = placing.constant(call.inputs[3], "the list of axes").tolist()
    before, behind = [0, 0, 0], [0, 0, 0]
    for axis, first, last in zip(axes, pads[: len(axes)], pads[len(axes) :], strict=True):
        if first or last:
            at = placing.axis(name, axis)
            before[at], behind[at] = int(first), int(last)
    source, layout = name, placed.layout
    if min(before + behind) < 0:
        source = f"{call.output}~cropped"
        attrs = whole(placed.shape)
        attrs["start"] = tuple(max(-first, 0) for first in before)
        attrs["size"] = tuple(
            size + min(first, 0) + min(last, 0)
            for size, first, last in zip(placed.shape, before, behind, strict=True)
        )
        placing.emit("Slice", [name], source, attrs)
    (top, left, front), (bottom, right, back) = (
        [max(amount, 0) for amount in amounts] for amounts in (before, behind)
    )
    shape = placing.shape(source)
    if mode == "reflect":
        widest = [max(first, last) for first, last in zip(before, behind, strict=True)]
        if any(wide >= size > 0 and wide for wide, size in zip(widest, shape, strict=True)):
            raise UnsupportedError("reflects more than the picture holds")
    attrs = {"pad": (top, left, bottom, right, front, back), "mode": mode, "value": value}
    placing.emit("Pad", [source], call.output, attrs)
    placing.bind(call.output, layout)


REARRANGEMENTS: dict[tuple[int, ...], str] = {
    (0, 3, 4, 1, 5, 2): "DepthToSpace DCR",
    (0, 1, 4, 2, 5, 3): "DepthToSpace CRD",
    (0, 3, 5, 1, 2, 4): "SpaceToDepth DCR",
    (0, 1, 3, 5, 2, 4): "SpaceToDepth CRD",
    (0, 2, 1, 3, 4): "shuffle",
}
"""Transpose between two Reshapes -> the operator that the three spell out."""


def grouped(
    calls: Sequence[OnnxNode], placing: ImportContext, kept: Sequence[str]
) -> list[list[OnnxNode]]:
    """Calls one by one, but Reshape-Transpose-Reshape together where that is one operator."""
    found: dict[int, list[OnnxNode]] = {call.index: [call] for call in calls}
    for first in calls:
        chain = [first]
        for op in ("Transpose", "Reshape"):
            readers = placing.readers.get(chain[-1].output, ())
            if len(readers) != 1 or readers[0].op != op or chain[-1].output in kept:
                break
            chain.append(readers[0])
        if first.op == "Reshape" and len(chain) == 3 and operator_of(placing, chain):
            for call in chain[:2]:
                del found[call.index]
            found[chain[2].index] = chain
    return list(found.values())


def operator_of(placing: ImportContext, chain: Sequence[OnnxNode]) -> tuple[str, int] | None:
    """(row of REARRANGEMENTS, block or number of groups) of such a chain, None if it is none."""
    first, middle, last = chain
    shapes = [placing.onnx_shapes.get(name, ()) for name in (first.inputs[0], first.output)]
    (before, inner), after = shapes, placing.onnx_shapes.get(last.output, ())
    name = REARRANGEMENTS.get(tuple(middle.attrs.get("perm") or ()))
    if name is None or len(before) != 4 or len(inner) != len(middle.attrs["perm"]):
        return None
    depth, height, width = before[1:]
    if name == "shuffle":
        same = before == after and inner[0] == before[0] and inner[3:] == before[2:]
        return (name, inner[1]) if same else None
    if name.startswith("DepthToSpace"):
        block = inner[1] if name.endswith("DCR") else inner[2]
        split = (block, block, depth // block**2)
        split = split if name.endswith("DCR") else (split[2], block, block)
        expected = (before[0], *split, height, width)
        out = (before[0], depth // block**2, height * block, width * block)
    else:
        block = inner[3]
        expected = (before[0], depth, height // block, block, width // block, block)
        out = (before[0], depth * block**2, height // block, width // block)
    return (name, block) if inner == expected and after == out else None


def rearrange(placing: ImportContext, chain: Sequence[OnnxNode]) -> None:
    """Write the operator that Reshape-Transpose-Reshape spells out.

    A shuffle of channels is a choice of channels.
    """
    name, output = chain[0].inputs[0], chain[-1].output
    placed = placing.picture(name)
    found = operator_of(placing, chain)
    if found is None:
        raise UnsupportedError("rearranges axes")
    kind, block = found
    if kind == "shuffle":
        depth = placed.shape[2]
        order = np.arange(depth).reshape(block, -1).T.reshape(-1)
        select(placing, name, output, order)
    else:
        op, mode = kind.split()
        placing.emit(op, [name], output, {"block": block, "mode": mode})
    placing.bind(output, "NCHW")


SHAPE_CONVERTERS: dict[str, Callable[[ImportContext, OnnxNode], None]] = {
    "Identity": identity,
    "Dropout": identity,
    "Expand": identity,
    "Reshape": reshape,
    "Flatten": reshape,
    "Squeeze": reshape,
    "Unsqueeze": reshape,
    "Transpose": transpose,
    "Concat": concat,
    "Split": split,
    "Slice": cut,
    "Gather": gather,
    "Pad": pad,
}
