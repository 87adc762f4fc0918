"""ONNX file -> Graph; the only file that imports onnx.

load -> clean (shapes fixed, constants folded) -> one converter per node -> partition -> Graph
"""

import hashlib
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.inliner
import onnxruntime
from onnx import TensorProto, helper, numpy_helper, shape_inference
from onnxruntime import InferenceSession  # bound now: callers may put ours in its place

from stillframe.errors import ModelError
from stillframe.reuse.frontend.context import ImportContext, OnnxNode, WrongShapeError
from stillframe.reuse.frontend.importer import Importer
from stillframe.reuse.ir.graph import Graph, Shape
from stillframe.reuse.passes.optimize import optimize

Shapes = Mapping[str, Sequence[int]]
FEW_NUMBERS = 64
"""Constants up to this size may say a shape or a scale; larger ones are only weights."""
UNSOUND = ["Pad_Fusion"]
"""ONNX Runtime's rewrites that change results: this one lets MaxPool forget the zeros of a Pad."""


def compile_graph(source: str | Path | bytes, shapes: Shapes | None = None) -> Graph:
    """The optimised graph of a model. shapes: input name -> shape, for dimensions left open.

    Raises ModelError for what nobody can run, with the node's name and operator.
    """
    return optimize(import_model(source, shapes=shapes))


def import_model(source: str | Path | bytes, *, shapes: Shapes | None = None) -> Graph:
    """The graph as the file has it: regions in the engine's operators, islands for the rest."""
    title = "the model" if isinstance(source, bytes) else str(source)
    model, dtypes, notes = clean(source, shapes or {}, title)
    corrected: dict[str, Shape] = {}
    for _ in range(len(model.graph.node) + 1):
        infer(model, corrected)
        try:
            return graph_of(model, dtypes, notes)
        except WrongShapeError as error:
            corrected[error.name] = error.shape
    raise ModelError(f"{title}: the shapes of {sorted(corrected)} cannot be told")


def load(source: str | Path | bytes, title: str) -> onnx.ModelProto:
    """The model with everything in memory, local functions written out."""
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
    return model


def clean(
    source: str | Path | bytes, shapes: Shapes, title: str
) -> tuple[onnx.ModelProto, dict[str, str], tuple[str, ...]]:
    """A model with fixed shapes, float32, folded constants and only true inputs.

    Returns it with the dtype that callers see of each input and output, and notes for them.
    """
    model = load(source, title)
    held = {tensor.name for tensor in model.graph.initializer}
    inputs = [value for value in model.graph.input if value.name not in held]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    fix_shapes(model, shapes, title)
    ports = [*model.graph.input, *model.graph.output]
    dtypes = {value.name: dtype_name(value.type.tensor_type.elem_type) for value in ports}
    notes: tuple[str, ...] = ()
    if widen(model.graph):
        notes = ("float16 model: converted whole to float32",)
    return fold(model, title), dtypes, notes


def fix_shapes(model: onnx.ModelProto, shapes: Shapes, title: str) -> None:
    """Write the given shapes into the inputs and forget what was declared behind them."""
    names = [value.name for value in model.graph.input]
    for name in shapes:
        if name not in names:
            raise ModelError(f"{title}: a shape is given for {name!r}; its inputs are {names}")
    for value in model.graph.input:
        if not value.type.HasField("tensor_type"):
            continue
        dims = value.type.tensor_type.shape.dim
        if value.name in shapes:
            given = shapes[value.name]
            if value.type.tensor_type.HasField("shape") and len(given) != len(dims):
                raise ModelError(
                    f"{title}: input {value.name!r} has {len(dims)} axes, got shape {tuple(given)}"
                )
            del dims[:]
            for size in given:
                dims.add().dim_value = int(size)
        open_dims = [axis for axis, dim in enumerate(dims) if dim.dim_value < 1]
        if open_dims == [0]:
            dims[0].dim_value = 1
        elif open_dims or not value.type.tensor_type.HasField("shape"):
            shown = [dim.dim_param or dim.dim_value or "?" for dim in dims]
            raise ModelError(
                f"{title}: input {value.name!r} leaves its shape open {shown}; give its shape"
            )
    for value in model.graph.output:
        value.type.tensor_type.ClearField("shape")
    del model.graph.value_info[:]


def widen(graph: onnx.GraphProto) -> bool:
    """float16 -> float32 in weights, ports and casts, subgraphs included; False: nothing to do."""
    changed = False

    def tensor(value: TensorProto) -> None:
        nonlocal changed
        if value.data_type == TensorProto.FLOAT16:
            name = value.name
            value.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(value).astype(np.float32)))
            value.name = name
            changed = True

    for initializer in graph.initializer:
        tensor(initializer)
    for port in [*graph.input, *graph.output]:
        if port.type.tensor_type.elem_type == TensorProto.FLOAT16:
            port.type.tensor_type.elem_type = TensorProto.FLOAT
            changed = True
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.TENSOR:
                tensor(attribute.t)
            elif attribute.type == onnx.AttributeProto.GRAPH:
                changed |= widen(attribute.g)
            elif attribute.name in ("to", "dtype") and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.FLOAT
                changed = True
    if changed:
        del graph.value_info[:]
    return changed


def fold(model: onnx.ModelProto, title: str) -> onnx.ModelProto:
    """ONNX Runtime's basic optimisation: folds constants, shapes and batch norms."""
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
                disabled_optimizers=UNSOUND,
            )
        except Exception as error:
            raise ModelError(f"{title}: {refusal(model, error)}") from error
        folded = onnx.load(path)
    name_constant_outputs(folded)
    return folded


def refusal(model: onnx.ModelProto, error: Exception) -> str:
    """What in the model nobody can run, by node and operator where that is known."""
    for node in model.graph.node:
        known = onnx.defs.has(node.op_type, domain=node.domain)
        if not known and not node.domain.startswith("com.microsoft"):
            operator = f"{node.domain}.{node.op_type}" if node.domain else node.op_type
            shown = node.name or (node.output[0] if node.output else "")
            return f"node {shown!r} ({operator}) is no operator that ONNX Runtime can run"
    return f"ONNX Runtime refuses it: {' '.join(str(error).split())}"


def name_constant_outputs(model: onnx.ModelProto) -> None:
    """Let a node write each output that folding has turned into a constant."""
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    for name in {value.name for value in model.graph.output} & set(held):
        held[name].name = f"{name}~value"
        for node in model.graph.node:
            for index, read in enumerate(node.input):
                node.input[index] = f"{name}~value" if read == name else read
        model.graph.node.append(helper.make_node("Identity", [f"{name}~value"], [name]))


def infer(model: onnx.ModelProto, corrected: Mapping[str, Shape]) -> None:
    """Write the shape and dtype of every tensor into the model, as far as they can be told.

    corrected: shapes that are known better; what lies behind follows from them.
    """
    known = [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in corrected.items()]
    graph = onnx.GraphProto(name="shapes")
    graph.node.extend(n for n in model.graph.node if not set(n.output) & set(corrected))
    graph.input.extend([*model.graph.input, *known])
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and np.prod(tensor.dims) > FEW_NUMBERS:
            value = helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            graph.input.append(value)
        else:
            graph.initializer.append(tensor)
    for value in model.graph.output:
        end = graph.output.add(name=value.name)
        end.type.tensor_type.elem_type = value.type.tensor_type.elem_type
    copy = onnx.ModelProto(
        graph=graph, opset_import=model.opset_import, ir_version=model.ir_version
    )
    inferred = shape_inference.infer_shapes(copy, data_prop=True).graph
    del model.graph.value_info[:]
    model.graph.value_info.extend([*inferred.value_info, *known])
    found = {value.name: value for value in [*inferred.output, *known]}
    for value in model.graph.output:
        value.CopyFrom(found[value.name])


def dtype_name(element: int) -> str:
    """'float32', 'int64', …; 'unknown' for what has no NumPy name."""
    try:
        return np.dtype(helper.tensor_dtype_to_np_dtype(element)).name
    except (KeyError, TypeError, ValueError):
        return "unknown"


def call_of(index: int, node: onnx.NodeProto) -> OnnxNode:
    attrs: dict[str, Any] = {}
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        attrs[attribute.name] = value.decode() if isinstance(value, bytes) else value
    if node.op_type == "Cast":
        attrs["to"] = dtype_name(attrs["to"])
    inputs = (*node.input, *captured(node))
    return OnnxNode(
        index, node.op_type, node.domain, node.name, tuple(inputs), tuple(node.output), attrs
    )


def captured(node: onnx.NodeProto) -> list[str]:
    """Names that the subgraphs of a control-flow node read from around it."""
    found: dict[str, None] = {}
    for attribute in node.attribute:
        graphs = [attribute.g] if attribute.type == onnx.AttributeProto.GRAPH else attribute.graphs
        for graph in graphs:
            own = {value.name for value in [*graph.input, *graph.initializer]}
            own |= {name for inner in graph.node for name in inner.output}
            reads = [name for inner in graph.node for name in [*inner.input, *captured(inner)]]
            reads += [value.name for value in graph.output]
            found |= dict.fromkeys(name for name in reads if name and name not in own)
    return list(found)


def graph_of(model: onnx.ModelProto, dtypes: Mapping[str, str], notes: tuple[str, ...]) -> Graph:
    """The graph of a clean model; dtypes are those of its ports as callers see them."""
    values = [*model.graph.input, *model.graph.value_info, *model.graph.output]
    calls = [call_of(index, node) for index, node in enumerate(model.graph.node)]
    readers: dict[str, list[OnnxNode]] = {}
    for call in calls:
        for name in call.inputs:
            readers.setdefault(name, []).append(call)
    versions = {each.domain: each.version for each in model.opset_import}
    placing = ImportContext(
        opset=versions.get("", versions.get("ai.onnx", 1)),
        onnx_shapes={v.name: s for v in values if (s := shape_of(v)) is not None},
        dtypes={v.name: dtype_name(v.type.tensor_type.elem_type) for v in values},
        weights={t.name: numpy_helper.to_array(t) for t in model.graph.initializer},
        feeds=tuple(value.name for value in model.graph.input),
        readers=readers,
    )
    outputs = tuple(value.name for value in model.graph.output)
    importing = Importer(placing, calls, outputs, dtypes, partial(island_model, model))
    return replace(importing.graph(), notes=notes)


def island_model(
    model: onnx.ModelProto, calls: Sequence[OnnxNode], reads: Sequence[str], writes: Sequence[str]
) -> bytes:
    """Some nodes of a model as a model of their own, with the constants they read."""
    values = [*model.graph.input, *model.graph.value_info, *model.graph.output]
    typed = {value.name: value for value in values}
    names = {name for call in calls for name in call.inputs}
    graph = helper.make_graph(
        [model.graph.node[call.index] for call in calls],
        "island",
        [typed.get(name, onnx.ValueInfoProto(name=name)) for name in reads],
        [typed.get(name, onnx.ValueInfoProto(name=name)) for name in writes],
        [tensor for tensor in model.graph.initializer if tensor.name in names],
    )
    island = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return bytes(island.SerializeToString())


def shape_of(value: onnx.ValueInfoProto) -> Shape | None:
    """The shape of a tensor, -1 where open; None if nothing is known."""
    if not value.type.tensor_type.HasField("shape"):
        return None
    dims = value.type.tensor_type.shape.dim
    return tuple(dim.dim_value if dim.HasField("dim_value") else -1 for dim in dims)


DeclaredPort = tuple[str, tuple[int | str | None, ...], str]


WEIGHTED = frozenset({"Conv", "ConvTranspose", "ConvInteger", "QLinearConv", "Gemm", "MatMul"})


def fingerprint(source: str | Path | bytes) -> str:
    """What tells models apart whatever input size they are fixed at: SHA-256 in hexadecimal, of the
    weights of convolutions and products and the names that they write; without any, of all held."""
    model = load(source, "the model" if isinstance(source, bytes) else str(source))
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        for value in node.attribute:
            if node.op_type == "Constant" and value.name == "value":
                held[node.output[0]] = value.t
    key = hashlib.sha256()
    named = [
        (node.output[0], [held[name] for name in node.input if name in held])
        for node in model.graph.node
        if node.op_type in WEIGHTED
    ]
    for name, tensors in named or [("", list(held.values()))]:
        key.update(repr((name, [tuple(tensor.dims) for tensor in tensors])).encode())
        for tensor in tensors:
            key.update(numpy_helper.to_array(tensor).tobytes())
    return key.hexdigest()


def declared_ports(source: str | Path | bytes) -> tuple[list[DeclaredPort], list[DeclaredPort]]:
    """(name, shape, dtype) of each true input and of each output, as the file declares them.

    A size is a name where the file names it and None where it says nothing.
    """
    title = "the model" if isinstance(source, bytes) else str(source)
    model = load(source, title)
    held = {tensor.name for tensor in model.graph.initializer}

    def declared(value: onnx.ValueInfoProto) -> DeclaredPort:
        kind = value.type.tensor_type
        sizes = tuple(
            dim.dim_value if dim.dim_value > 0 else dim.dim_param or None for dim in kind.shape.dim
        )
        return value.name, sizes, dtype_name(kind.elem_type)

    inputs = [declared(value) for value in model.graph.input if value.name not in held]
    return inputs, [declared(value) for value in model.graph.output]
