"""The multiply-adds of ONNX nodes that the engine leaves to ONNX Runtime."""

from collections.abc import Callable, Sequence
from math import prod

from stillframe.reuse.frontend.context import ImportContext, OnnxNode
from stillframe.reuse.ir.graph import Shape

ShapeOf = Callable[[str], Shape]


def multiply_adds(nodes: Sequence[OnnxNode], context: ImportContext) -> int:
    """Of all nodes; those of operators or shapes that are not known count as 0."""

    def shape_of(name: str) -> Shape:
        if name in context.weights:
            return tuple(context.weights[name].shape)
        shape = context.onnx_shapes.get(name)
        if shape is None or any(size < 0 for size in shape):
            raise LookupError(name)
        return shape

    total = 0
    for node in nodes:
        rule = RULES.get(node.op)
        if rule is not None:
            try:
                total += rule(node, shape_of)
            except (LookupError, ValueError):
                continue
    return total


def _convolution(weights: int) -> Callable[[OnnxNode, ShapeOf], int]:
    """An input of this index holds the weights (M, C / group, ...)."""
    return lambda node, shape_of: (
        prod(shape_of(node.output)) * prod(shape_of(node.inputs[weights])[1:])
    )


def _transposed(node: OnnxNode, shape_of: ShapeOf) -> int:
    return prod(shape_of(node.inputs[0])) * prod(shape_of(node.inputs[1])[1:])


def _product(node: OnnxNode, shape_of: ShapeOf) -> int:
    axis = 0 if node.attrs.get("transA") else -1
    return prod(shape_of(node.output)) * shape_of(node.inputs[0])[axis]


def _einsum(node: OnnxNode, shape_of: ShapeOf) -> int:
    terms = str(node.attrs["equation"]).replace(" ", "").split("->")[0].split(",")
    sizes: dict[str, int] = {}
    for term, name in zip(terms, node.inputs, strict=True):
        sizes |= dict(zip(term, shape_of(name), strict=True))
    return prod(sizes.values())


def _recurrent(node: OnnxNode, shape_of: ShapeOf) -> int:
    steps, batch = shape_of(node.inputs[0])[:2]
    return steps * batch * sum(prod(shape_of(name)) for name in node.inputs[1:3])


RULES: dict[str, Callable[[OnnxNode, ShapeOf], int]] = {
    "Conv": _convolution(1),
    "FusedConv": _convolution(1),
    "ConvInteger": _convolution(1),
    "QLinearConv": _convolution(3),
    "ConvTranspose": _transposed,
    "MatMul": _product,
    "FusedMatMul": _product,
    "MatMulInteger": _product,
    "QLinearMatMul": _product,
    "Gemm": _product,
    "Einsum": _einsum,
    "LSTM": _recurrent,
    "GRU": _recurrent,
    "RNN": _recurrent,
}
"""ONNX operator, of any domain -> its multiply-adds."""
