"""Shape and dtype of every tensor of an ONNX model."""

from collections.abc import Mapping

import numpy as np
import onnx
from onnx import TensorProto, helper, shape_inference

from stillframe.reuse.ir.graph import Shape

MAX_SHAPE_CONSTANT = 64
"""Constants of up to this many numbers may be a shape or a scale; larger ones are only weights."""


def infer_shapes(model: onnx.ModelProto, corrected: Mapping[str, Shape]) -> None:
    """Write shape and dtype of every tensor into the model, as far as inference finds them.

    corrected: true shapes of tensors that ONNX infers wrongly; later shapes follow from them.
    """
    values = {value.name: value for value in inferred_values(model, corrected)}
    for value in model.graph.output:
        value.CopyFrom(values[value.name])
    outputs = {value.name for value in model.graph.output}
    del model.graph.value_info[:]
    model.graph.value_info.extend(
        value for name, value in values.items() if name not in outputs or name in corrected
    )


def inferred_values(
    model: onnx.ModelProto, corrected: Mapping[str, Shape], data_prop: bool = True
) -> list[onnx.ValueInfoProto]:
    """Shape and dtype of every tensor but the inputs, as far as inference finds them.

    data_prop: compute constants that shapes depend on as well, however large they are.
    """
    known = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in corrected.items()]
    graph = onnx.GraphProto(name="shapes")
    graph.node.extend(
        standing_in(n) for n in model.graph.node if not set(n.output) & set(corrected)
    )
    graph.input.extend([*model.graph.input, *known])
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and np.prod(tensor.dims) > MAX_SHAPE_CONSTANT:
            value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            graph.input.append(value)
        else:
            graph.initializer.append(tensor)
    for value in model.graph.output:
        output = graph.output.add(name=value.name)
        output.type.tensor_type.elem_type = value.type.tensor_type.elem_type
    copy = onnx.ModelProto(
        graph=graph, opset_import=model.opset_import, ir_version=model.ir_version
    )
    inferred = shape_inference.infer_shapes(copy, data_prop=data_prop).graph
    return [*inferred.value_info, *inferred.output, *known]


STAND_INS: Mapping[str, tuple[str, slice]] = {
    "QLinearAdd": ("Add", slice(0, 6, 3)),
    "QLinearMul": ("Mul", slice(0, 6, 3)),
    "QLinearConcat": ("Concat", slice(2, None, 3)),
    "QLinearSigmoid": ("Identity", slice(0, 1)),
    "QLinearLeakyRelu": ("Identity", slice(0, 1)),
    "QLinearSoftmax": ("Identity", slice(0, 1)),
    "QLinearAveragePool": ("MaxPool", slice(0, 1)),
    "QLinearGlobalAveragePool": ("GlobalMaxPool", slice(0, 1)),
    "QGemm": ("Gemm", slice(0, 6, 3)),
}
"""Operators on integers that ONNX does not define -> one that it does, of the same shapes and
dtypes, and which of their inputs that one reads."""


def standing_in(node: onnx.NodeProto) -> onnx.NodeProto:
    """A node that ONNX can infer the shape of, where it cannot of this one."""
    if node.domain != "com.microsoft" or node.op_type not in STAND_INS:
        return node
    operator, read = STAND_INS[node.op_type]
    inputs = list(node.input)[read]
    known = onnx.defs.get_schema(operator).attributes
    attributes = [each for each in node.attribute if each.name in known]
    if any(each.name == "channels_last" and each.i for each in node.attribute):
        return node
    return onnx.NodeProto(
        op_type=operator, name=node.name, input=inputs, output=node.output, attribute=attributes
    )


def tensor_shape(value: onnx.ValueInfoProto) -> Shape | None:
    """The shape of a tensor, -1 for open sizes; None if nothing is known."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims)


def dtype_name(element_type: int) -> str:
    """ONNX element type -> 'float32', 'int64', …; 'unknown' if NumPy has no such type."""
    try:
        return np.dtype(helper.tensor_dtype_to_np_dtype(element_type)).name
    except (KeyError, TypeError, ValueError):
        return "unknown"
