"""ONNX operator -> the engine's operators: what networks of tokens are made of.

Tokens (1, N, C) are a picture's positions, or positions one below the other where others have
joined them. Products with constant matrices are 1 × 1 convolutions; attention is one operator.
"""

from collections.abc import Sequence
from math import prod

import numpy as np

from stillframe.reuse.frontend import factors
from stillframe.reuse.frontend.context import (
    POINTWISE_CONV,
    ImportContext,
    OnnxNode,
    UnsupportedError,
    full_slice,
)
from stillframe.reuse.frontend.factors import Axes, Factor
from stillframe.reuse.ir.graph import Array, Shape


# --- selecting ----------------------------------------------------------------------------------
def select(
    context: ImportContext, name: str, output: str, axis: int, taken: Sequence[int], keep: bool
) -> None:
    """Some indices of an axis that is a part of the channels, or all positions.

    keep: whether the axis stays where one index is taken.
    """
    axes, shape = context.factored(name), context.layout_of(name).shape
    chosen = factors.select_channels(axes, axis, taken, shape[2])
    if chosen is not None:
        channels, after = chosen
        if not keep:
            after = (*after[:axis], *after[axis + 1 :])
        steps = np.diff(channels)
        if np.all(steps == 1):
            attrs = full_slice(shape)
            attrs["start"] = (0, 0, int(channels[0]))
            attrs["size"] = (*shape[:2], len(channels))
            context.emit("Slice", [name], output, attrs)
        else:
            emit_selection(context, name, output, channels)
        context.set_axes(output, after)
        return
    flat, order = flat_positions(context, name, axis, f"{output}~flat")
    step = int(taken[1] - taken[0]) if len(taken) > 1 else 1
    if step < 1 or list(taken) != list(range(taken[0], taken[-1] + 1, step)):
        raise UnsupportedError("positions that are not evenly spaced")
    attrs = full_slice(context.shape(flat))
    attrs["start"], attrs["step"] = (int(taken[0]), 0, 0), (step, 1, 1)
    attrs["size"] = (len(taken), 1, shape[2])
    context.emit("Slice", [flat], output, attrs)
    context.set_layout(output, order)


def flat_positions(context: ImportContext, name: str, axis: int, output: str) -> tuple[str, str]:
    """A tensor's positions one below the other, if an axis of it runs along all of them; -> its
    name and order."""
    layout, axes = context.layout_of(name), context.factored(name)
    height, width, _ = layout.shape
    positions = tuple(each for each in factors.natural(layout.shape, "NHWC") if each.axis < 2)
    if layout.axes is not None or factors.merged(axes[axis]) != factors.merged(positions):
        raise UnsupportedError(
            f"axis {axis} of {name!r}, shape {list(context.onnx_shape(name))}, is not rows, columns"
            " or channels"
        )
    return context.regrid(name, output, (height * width, 1)), layout.order


def emit_selection(context: ImportContext, name: str, output: str, channels: Array) -> None:
    """Select channels with a 1 × 1 convolution of zeros and ones; passes fold it away."""
    depth = context.shape(name)[2]
    weights = np.zeros((1, 1, depth, len(channels)))
    weights[0, 0, channels, np.arange(len(channels))] = 1
    emit_product(context, name, output, weights[0, 0], np.zeros(len(channels)))


def emit_product(
    context: ImportContext, name: str, output: str, matrix: Array, bias: Array
) -> None:
    """A 1 × 1 convolution. matrix: (C, M)."""
    names = [
        name,
        context.add_constant(f"{output}~weights", matrix[None, None]),
        context.add_constant(f"{output}~bias", bias),
    ]
    context.emit("Conv", names, output, POINTWISE_CONV)


# --- joining ------------------------------------------------------------------------------------
def concat(context: ImportContext, node: OnnxNode) -> None:
    """Tokens one after the other; constant ones, such as a class token, at either end."""
    names = [name for name in node.inputs if name not in context.weights]
    if not names:
        raise UnsupportedError("only constants among its inputs")
    rank = len(context.onnx_shape(names[0]))
    axis = node.attrs["axis"] % rank
    parts, orders = [], set()
    for number, name in enumerate(node.inputs):
        if name in context.weights:
            continue
        flat, order = flat_positions(context, name, axis, f"{node.output}~flat{number}")
        parts.append(flat)
        orders.add(order)
    if len(orders) > 1:
        raise UnsupportedError("its inputs differ in layout")
    order = orders.pop()
    depth = context.shape(parts[0])[2]
    computed = [name not in context.weights for name in node.inputs]
    first, last = computed.index(True), len(computed) - computed[::-1].index(True)
    if not all(computed[first:last]):
        raise UnsupportedError("a constant between its inputs")
    before, after = (
        [token_rows(context.weights[name], axis, order, depth) for name in some]
        for some in (node.inputs[:first], node.inputs[last:])
    )
    source = parts[0]
    ends = bool(before or after)
    if len(parts) > 1:
        source = f"{node.output}~joined" if ends else node.output
        context.emit("Concat", parts, source, {"axis": 0})
    elif not ends:
        context.emit("Slice", [source], node.output, full_slice(context.shape(source)))
    if ends:
        count = context.shape(source)[0]
        rows = np.concatenate([*before, np.zeros((count, depth), np.float32), *after])
        left, right = (sum(len(each) for each in some) for some in (before, after))
        attrs = {"pad": (left, 0, right, 0, 0, 0), "mode": "constant", "value": 0.0}
        context.emit("Pad", [source], f"{node.output}~padded", attrs)
        constant = context.add_constant(f"{node.output}~tokens", rows[:, None])
        inputs = [f"{node.output}~padded", constant]
        context.emit("Binary", inputs, node.output, {"kind": "add", "act": None})
    context.set_layout(node.output, order)


def token_rows(value: Array, axis: int, order: str, depth: int) -> Array:
    """A constant among tokens as (tokens, C)."""
    if value.dtype != np.float32:
        raise UnsupportedError(f"a {value.dtype} operand")
    moved = np.moveaxis(value, axis, 0)
    if moved.size != len(moved) * depth:
        raise UnsupportedError(f"a constant of shape {list(value.shape)} among its inputs")
    return moved.reshape(len(moved), depth)


# --- products and norms -------------------------------------------------------------------------
def matmul(context: ImportContext, node: OnnxNode) -> None:
    """A product with a constant matrix over all channels: a 1 × 1 convolution."""
    left, right = node.inputs[:2]
    name, other = (right, left) if left in context.weights else (left, right)
    matrix: Array = context.constant(other, "the matrix")
    if matrix.dtype != np.float32 or prod(matrix.shape[:-2]) != 1 or matrix.ndim < 2:
        raise UnsupportedError(f"a matrix of shape {list(matrix.shape)}")
    matrix = np.asarray(matrix.reshape(matrix.shape[-2:]))
    turned = node.attrs.get("transA" if name == right else "transB")
    if node.attrs.get("transB" if name == right else "transA"):
        raise UnsupportedError("multiplies a transposed tensor")
    matrix = matrix.T if turned else matrix
    axes, shape = context.factored(name), context.onnx_shape(name)
    axis = len(axes) - (2 if name == right else 1)
    if name == right:
        if len(axes) < 2 or node.op == "Gemm":
            raise UnsupportedError("the matrix stands on the left")
        matrix = matrix.T
    depth = context.layout_of(name).shape[2]
    channels = (Factor(2, 1, depth),) if depth > 1 else ()
    if axes[axis] != channels or matrix.shape[0] != depth:
        raise UnsupportedError(
            f"multiplies a tensor of shape {list(shape)}, neither a vector nor channels-last"
        )
    bias = np.zeros(matrix.shape[1])
    if node.input(2):
        value = context.constant(node.inputs[2], "the bias")
        bias = np.broadcast_to(value * node.attrs.get("beta", 1.0), (1, bias.size))[0]
    emit_product(
        context, name, node.output, matrix * np.float32(node.attrs.get("alpha", 1.0)), bias
    )
    after = (Factor(2, 1, matrix.shape[1]),) if matrix.shape[1] > 1 else ()
    context.set_axes(node.output, (*axes[:axis], after, *axes[axis + 1 :]))


def layer_norm(context: ImportContext, node: OnnxNode) -> None:
    """LayerNormalization and RMSNormalization over all channels."""
    if len([output for output in node.outputs if output]) > 1:
        raise UnsupportedError("its statistics as outputs")
    name = node.inputs[0]
    axes, shape = context.factored(name), context.layout_of(name).shape
    axis = node.attrs.get("axis", -1) % len(axes)
    channels = (Factor(2, 1, shape[2]),) if shape[2] > 1 else ()
    if axis != len(axes) - 1 or axes[axis] != channels:
        raise UnsupportedError(f"over axis {axis}, not over all channels")
    scale = context.constant(node.inputs[1], "the scale")
    shift = np.zeros(shape[2], np.float32)
    if node.input(2):
        shift = context.constant(node.inputs[2], "the shift")
    names = [
        name,
        context.add_constant(f"{node.output}~scale", np.broadcast_to(scale, (shape[2],))),
        context.add_constant(f"{node.output}~shift", np.broadcast_to(shift, (shape[2],))),
    ]
    centred = node.op == "LayerNormalization"
    attrs = {"epsilon": float(node.attrs.get("epsilon", 1e-5)), "centred": centred}
    context.emit("LayerNorm", names, node.output, attrs)
    context.set_like(node.output, name)


# --- attention ----------------------------------------------------------------------------------
def merge_attention(
    nodes: Sequence[OnnxNode], context: ImportContext, model_outputs: Sequence[str]
) -> list[list[OnnxNode]]:
    """The chains from a product of queries and keys to the product with the values."""
    writers = {name: node for node in nodes for name in node.outputs}

    def alone(name: str) -> bool:
        return len(context.readers.get(name, ())) == 1 and name not in model_outputs

    chains = []
    for softmax in nodes:
        if softmax.op != "Softmax":
            continue
        chain = [softmax]
        while chain[0].op != "MatMul":  # back to the scores
            first = writers.get(chain[0].inputs[0])
            scaled = chain[0].op in ("Mul", "Div") and chain[0].inputs[1] in context.weights
            if first is None or not (scaled or chain[0] is softmax) or not alone(first.output):
                break
            chain.insert(0, first)
        while chain[-1].op != "MatMul" and alone(chain[-1].output):  # on to the values
            last = context.readers[chain[-1].output][0]
            if last.op not in ("Transpose", "MatMul"):
                break
            chain.append(last)
        if chain[0].op == chain[-1].op == "MatMul" and len(chain) > 2:
            chains.append(chain)
    return chains


def convert_attention(context: ImportContext, chain: Sequence[OnnxNode]) -> None:
    """MatMul, perhaps a scale, Softmax, perhaps a Transpose, MatMul -> Attention."""
    first, last = chain[0], chain[-1]
    queries, keys = first.inputs[:2]
    scale, turned = 1.0, False
    for node in chain[1:-1]:
        rank = len(context.onnx_shape(node.inputs[0]))
        if node.op in ("Mul", "Div"):
            factor = context.constant(node.inputs[1], "the scale")
            if factor.size != 1:
                raise UnsupportedError("a scale that is not one number")
            value = float(factor.reshape(()))
            scale = scale * value if node.op == "Mul" else scale / value
        elif node.op == "Softmax":
            if node.attrs.get("axis", -1 if context.opset >= 13 else 1) % rank != rank - 1:
                raise UnsupportedError("a Softmax over queries")
        else:
            perm = tuple(node.attrs.get("perm") or reversed(range(rank)))
            if perm != (*range(rank - 2), rank - 1, rank - 2):
                raise UnsupportedError(f"shares whose axes are turned by {list(perm)}")
            turned = not turned
    shares = chain[-2].output
    values = last.inputs[1] if last.inputs[0] == shares else last.inputs[0]
    if turned != (last.inputs[1] == shares) or values == shares:
        raise UnsupportedError("values that are multiplied by queries")
    of_q, of_k, of_v = (list(context.factored(name)) for name in (queries, keys, values))
    if not len(of_q) == len(of_k) == len(of_v) >= 3:
        raise UnsupportedError("queries, keys and values of different ranks")
    of_k[-2:] = of_k[:-3:-1]
    if turned:
        of_v[-2:] = of_v[:-3:-1]
    q, k, v = (context.layout_of(name).shape for name in (queries, keys, values))
    heads, window = batches(of_q, q)
    if batches(of_k, k)[0] != heads or batches(of_v, v)[0] != heads:
        raise UnsupportedError("queries, keys and values differ in heads")
    windows = [batches(axes, shape)[1] for axes, shape in ((of_k, k), (of_v, v))]
    whole = window == q[:2]
    if windows[0] != windows[1] or k[:2] != v[:2]:
        raise UnsupportedError("keys and values differ in positions")
    if not (windows[0] == window and k[:2] == q[:2]) and not (whole and windows[0] == k[:2]):
        raise UnsupportedError("queries and keys differ in windows")
    attrs = {"heads": heads, "scale": scale, "window": window}
    context.emit("Attention", [queries, keys, values], last.output, attrs)
    depth = v[2] // heads
    out: list[tuple[Factor, ...]] = [
        tuple(each if each.axis < 2 else Factor(2, depth, heads) for each in axis)
        for axis in of_q[:-2]
    ]
    channels = (Factor(2, 1, depth),) if depth > 1 else ()
    pair = [of_q[-2], channels]
    out += pair[::-1] if turned else pair
    context.set_axes(last.output, tuple(out))


def fused_attention(context: ImportContext, node: OnnxNode) -> None:
    """ONNX's own Attention and com.microsoft.MultiHeadAttention: queries, keys and values, as
    tokens or by heads, without masks and without a past."""
    more = {
        "Attention": ("", "", "", "a mask", "past keys", "past values"),
        "MultiHeadAttention": (
            *("", "", "", "", "a mask of keys", "a bias of scores", "past keys", "past values"),
        ),
    }[node.op]
    for index, what in enumerate(more):
        if what and node.input(index):
            raise UnsupportedError(what)
    if any(node.outputs[1:]):
        raise UnsupportedError("its keys or values as outputs")
    causal = node.attrs.get("is_causal") or node.attrs.get("unidirectional")
    if causal or node.attrs.get("softcap") or node.attrs.get("qk_matmul_output_mode"):
        raise UnsupportedError("a causal or capped one")
    names = [node.input(index) for index in range(3)]
    if not all(names):
        raise UnsupportedError("packed queries, keys and values")
    ranks = {len(context.onnx_shape(name)) for name in names}
    if ranks == {4}:
        by_heads = [context.factored(name) for name in names]
        heads = {
            batches(axes, context.layout_of(name).shape)[0]
            for axes, name in zip(by_heads, names, strict=True)
        }
    else:
        heads = {
            int(node.attrs[key])
            for key in ("num_heads", "q_num_heads", "kv_num_heads")
            if node.attrs.get(key)
        }
    if len(heads) != 1:
        raise UnsupportedError("queries, keys and values differ in heads")
    if node.op == "MultiHeadAttention" and node.input(3):
        names = biased(context, node, names)
    (count,) = heads
    emit_attention(context, node, names, count, ranks == {4})


def biased(context: ImportContext, node: OnnxNode, names: Sequence[str]) -> list[str]:
    """Queries, keys and values plus their parts of a constant."""
    bias = context.constant(node.input(3), "the bias").reshape(-1)
    added, start = [], 0
    for name, letter in zip(names, "qkv", strict=True):
        depth = context.layout_of(name).shape[2]
        part = context.add_constant(
            f"{node.output}~bias {letter}", bias[None, None, start : start + depth]
        )
        start += depth
        output = f"{node.output}~{letter}"
        context.emit("Binary", [name, part], output, {"kind": "add", "act": None})
        added.append(output)
    return added


def emit_attention(
    context: ImportContext, node: OnnxNode, names: Sequence[str], heads: int, by_heads: bool
) -> None:
    """Attention of all queries to all keys. names: of graph tensors; the layout of the output
    follows from that of the node's first input."""
    queries = node.inputs[0]
    for name in node.inputs[: len(names)]:
        axes, shape = context.factored(name), context.layout_of(name).shape
        tokens = axes[-2]
        positions = tuple(each for each in factors.natural(shape, "NHWC") if each.axis < 2)
        if tokens != factors.merged(positions):
            raise UnsupportedError("tokens that are not all positions")
        if not by_heads and axes[-1] != ((Factor(2, 1, shape[2]),) if shape[2] > 1 else ()):
            raise UnsupportedError("tokens whose last axis is not all channels")
    q, k, v = (context.shape(name) for name in names)
    if k[:2] != v[:2] or q[2] != k[2] or any(each[2] % heads for each in (q, k, v)):
        raise UnsupportedError("queries, keys and values differ in size")
    scale = float(node.attrs.get("scale") or (q[2] // heads) ** -0.5)
    attrs = {"heads": heads, "scale": scale, "window": q[:2]}
    context.emit("Attention", names, node.output, attrs)
    depth = v[2] // heads
    axes = context.factored(queries)
    if by_heads:
        of_heads = (Factor(2, depth, heads),) if heads > 1 else ()
        channels = (Factor(2, 1, depth),) if depth > 1 else ()
        context.set_axes(node.output, (*axes[:-3], of_heads, axes[-2], channels))
    else:
        channels = (Factor(2, 1, v[2]),) if v[2] > 1 else ()
        context.set_axes(node.output, (*axes[:-1], channels))


def packed_attention(context: ImportContext, node: OnnxNode) -> None:
    """com.microsoft.Attention: tokens times one matrix for queries, keys and values."""
    if any(node.input(index) for index in range(3, len(node.inputs))):
        raise UnsupportedError("a mask or a past")
    if node.attrs.get("unidirectional") or node.attrs.get("do_rotary") or any(node.outputs[1:]):
        raise UnsupportedError("a causal one, turned positions, or a past as output")
    name = node.inputs[0]
    axes, shape = context.factored(name), context.layout_of(name).shape
    if axes[-1] != ((Factor(2, 1, shape[2]),) if shape[2] > 1 else ()):
        raise UnsupportedError("tokens whose last axis is not all channels")
    matrix = context.constant(node.inputs[1], "the matrix")
    bias = np.zeros(matrix.shape[1], np.float32)
    if node.input(2):
        bias = context.constant(node.inputs[2], "the bias")
    sizes = node.attrs.get("qkv_hidden_sizes") or [matrix.shape[1] // 3] * 3
    names, start = [], 0
    for size, letter in zip(sizes, "qkv", strict=True):
        end = start + size
        output = f"{node.output}~{letter}"
        emit_product(context, name, output, matrix[:, start:end], bias[start:end])
        names.append(output)
        start = end
    single = OnnxNode(
        node.index, node.op, node.domain, node.name, (name,), node.outputs, node.attrs
    )
    emit_attention(context, single, names, int(node.attrs["num_heads"]), False)


def batches(axes: Sequence[tuple[Factor, ...]], shape: Shape) -> tuple[int, tuple[int, int]]:
    """What the axes of queries, keys or values (..., tokens, channels of a head) say: how many
    heads, and the rows and columns of a window."""
    *outer, tokens, channels = axes
    flat = [each for axis in outer for each in axis]
    of_heads = [each for each in flat if each.axis == 2]
    depth = prod(each.size for each in channels)
    heads = shape[2] // max(depth, 1)
    if factors.merged(channels) != ((Factor(2, 1, depth),) if depth > 1 else ()):
        raise UnsupportedError("a head whose channels do not lie side by side")
    if factors.merged(of_heads) != ((Factor(2, depth, heads),) if heads > 1 else ()):
        raise UnsupportedError("heads in another order than their channels")
    sizes = []
    for axis in (0, 1):
        inner = factors.merged(each for each in tokens if each.axis == axis)
        around = factors.merged(each for each in flat if each.axis == axis)
        size = prod(each.size for each in inner)
        count = shape[axis] // size
        if inner != ((Factor(axis, 1, size),) if size > 1 else ()):
            raise UnsupportedError("windows whose tokens do not lie side by side")
        if around != ((Factor(axis, size, count),) if count > 1 else ()):
            raise UnsupportedError("windows in another order than their tokens")
        sizes.append(size)
    if any(each.axis == 2 for each in tokens):
        raise UnsupportedError("tokens that are channels")
    return heads, (sizes[0], sizes[1])


def axes_of_bins(axes: Axes, axis: int) -> int:
    """How many neighbouring channels a Softmax over this axis takes together."""
    (factor,) = axes[axis] if len(axes[axis]) == 1 else (None,)
    if factor is None or factor.axis != 2 or factor.stride != 1:
        raise UnsupportedError(f"over axis {axis}, not over channels")
    return factor.size
