"""ONNX file -> a model ready to convert: shapes fixed, float32, constants folded."""

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
from onnx import TensorProto, helper, numpy_helper
from onnxruntime import InferenceSession  # bound at import: callers may replace it by ReuseSession

from stillframe.errors import ModelError
from stillframe.reuse.frontend.model_errors import model_title
from stillframe.reuse.frontend.model_limits import check_memory, check_windows
from stillframe.reuse.frontend.node_order import node_title, sort_nodes
from stillframe.reuse.frontend.shape_inference import dtype_name
from stillframe.reuse.frontend.widen import WidenError, is_quantised, widen

Shapes = Mapping[str, Sequence[int]]
UNSOUND_OPTIMIZERS = ["Pad_Fusion"]
"""Optimizers of ONNX Runtime that change results: this drops the zeros of a Pad before MaxPool."""


@dataclass(frozen=True, slots=True)
class PreparedModel:
    """What the importer starts from."""

    model: onnx.ModelProto
    """Fixed input shapes, float32, constants folded; initializers are no longer inputs."""
    dtypes: dict[str, str]
    """Dtype of each input and output as the file declares it."""
    notes: tuple[str, ...]
    """What was changed that a user should know."""


def load_model(source: str | Path | bytes) -> onnx.ModelProto:
    """The model with its external data, local functions inlined. Raises ModelError."""
    title = model_title(source)
    try:
        if isinstance(source, bytes):
            model = onnx.load_model_from_string(source)
        else:
            model = onnx.load(source)
    except FileNotFoundError as error:
        raise ModelError(f"{title}: expected an ONNX file, found no file ({error})") from error
    except Exception as error:
        raise ModelError(f"{title}: expected an ONNX model, could not read it: {error}") from error
    if not model.graph.node and not model.graph.output:
        raise ModelError(f"{title}: expected an ONNX model, found one without nodes")
    if model.functions:
        model = onnx.inliner.inline_local_functions(model)
    check_windows(model.graph, title)
    return model


def prepare_model(
    source: str | Path | bytes, shapes: Shapes, *, widened: bool = False
) -> PreparedModel:
    """Load a model and bring it into the form that the importer expects. Raises ModelError.

    shapes: input name -> shape, for inputs that leave sizes open. widened: a quantised model is to
    be computed in float32; where it cannot be, a note says why.
    """
    model, title = load_model(source), model_title(source)
    initializers = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in initializers]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    fix_shapes(model, shapes, title)
    sort_nodes(model.graph, title)
    check_memory(model, title)
    ports = [*model.graph.input, *model.graph.output]
    dtypes = {value.name: dtype_name(value.type.tensor_type.elem_type) for value in ports}
    notes: tuple[str, ...] = ()
    if float16_to_float32(model.graph):
        notes = ("float16 model: converted whole to float32",)
    if is_quantised(model):
        notes += (quantised_note(model, widened),)
    return PreparedModel(fold_constants(model, title), dtypes, notes)


def quantised_note(model: onnx.ModelProto, widened: bool) -> str:
    """Widen a quantised model where that is asked for; what became of it, in words."""
    if not widened:
        return (
            "quantised model: its integers are left to ONNX Runtime and nothing there is reused; "
            "widen (--widen) lets the engine compute it in float32"
        )
    try:
        widen(model)
    except WidenError as error:
        return f"quantised model: left to ONNX Runtime, since it cannot be widened: {error}"
    return (
        "quantised model: widened to float32; results differ from the quantised ones by less "
        "rounding in them"
    )


def fix_shapes(model: onnx.ModelProto, shapes: Shapes, title: str) -> None:
    """Set the input shapes and clear every shape that the file declares after the inputs.

    An open batch becomes 1. Raises ModelError for any other size that stays open.
    """
    names = [value.name for value in model.graph.input]
    for name in shapes:
        if name not in names:
            raise ModelError(f"{title}: got a shape for input {name!r}; its inputs are {names}")
    for value in model.graph.input:
        if not value.type.HasField("tensor_type"):
            continue
        dims = value.type.tensor_type.shape.dim
        if value.name in shapes:
            shape = shapes[value.name]
            if value.type.tensor_type.HasField("shape") and len(shape) != len(dims):
                raise ModelError(
                    f"{title}: input {value.name!r} has {len(dims)} axes, got shape {tuple(shape)}"
                )
            del dims[:]
            for size in shape:
                dims.add().dim_value = int(size)
        open_axes = [axis for axis, dim in enumerate(dims) if dim.dim_value < 1]
        if open_axes == [0]:
            dims[0].dim_value = 1
        elif open_axes or not value.type.tensor_type.HasField("shape"):
            shown = [dim.dim_param or dim.dim_value or "?" for dim in dims]
            raise ModelError(
                f"{title}: input {value.name!r} leaves its shape open {shown}; give its shape"
            )
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]


def float16_to_float32(graph: onnx.GraphProto) -> bool:
    """Convert weights, inputs, outputs and casts, subgraphs included; False if there were none."""
    changed = False

    def convert(tensor: TensorProto) -> None:
        nonlocal changed
        if tensor.data_type == TensorProto.FLOAT16:
            values = numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(numpy_helper.from_array(values, tensor.name))
            changed = True

    for initializer in graph.initializer:
        convert(initializer)
    for port in [*graph.input, *graph.output]:
        if port.type.tensor_type.elem_type == TensorProto.FLOAT16:
            port.type.tensor_type.elem_type = TensorProto.FLOAT
            changed = True
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                convert(attribute.t)
            elif attribute.type == onnx.AttributeProto.GRAPH:
                changed |= float16_to_float32(attribute.g)
            elif attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
                changed = True
    if changed:
        del graph.value_info[:]
    return changed


def fold_constants(model: onnx.ModelProto, title: str) -> onnx.ModelProto:
    """The model after ONNX Runtime's basic optimisation: constants, shapes and batch norms folded.

    Raises ModelError for a model that ONNX Runtime cannot run.
    """
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    with tempfile.TemporaryDirectory(prefix="stillframe-") as folder:
        path = Path(folder) / "folded.onnx"
        options.optimized_model_filepath = str(path)
        try:
            InferenceSession(
                model.SerializeToString(),
                options,
                providers=["CPUExecutionProvider"],
                disabled_optimizers=UNSOUND_OPTIMIZERS,
            )
        except Exception as error:
            raise ModelError(f"{title}: {refusal(model, error)}") from error
        folded = onnx.load(path)
    sort_nodes(folded.graph, title)
    name_constant_outputs(folded)
    return folded


def refusal(model: onnx.ModelProto, error: Exception) -> str:
    """Why ONNX Runtime cannot run the model: the unknown operator, or its own message."""
    for node in model.graph.node:
        known = onnx.defs.has(node.op_type, domain=node.domain)
        if not known and not node.domain.startswith("com.microsoft"):
            return f"{node_title(node)} is not an operator that ONNX Runtime can run"
    return f"ONNX Runtime refuses it: {' '.join(str(error).split())}"


def name_constant_outputs(model: onnx.ModelProto) -> None:
    """Write each output that folding turned into a constant with an Identity node."""
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    for name in {value.name for value in model.graph.output} & set(initializers):
        initializers[name].name = f"{name}~value"
        for node in model.graph.node:
            for index, read in enumerate(node.input):
                node.input[index] = f"{name}~value" if read == name else read
        model.graph.node.append(helper.make_node("Identity", [f"{name}~value"], [name]))
