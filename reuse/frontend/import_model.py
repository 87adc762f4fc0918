"""ONNX file -> Graph: load, fix and fold, infer shapes, convert, partition."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import onnx
from onnx import helper, numpy_helper

from stillframe.errors import ModelError
from stillframe.reuse.frontend.context import ImportContext, OnnxNode, WrongShapeError
from stillframe.reuse.frontend.importer import Importer
from stillframe.reuse.frontend.model_errors import model_title
from stillframe.reuse.frontend.node_order import captured_names
from stillframe.reuse.frontend.onnx_loader import PreparedModel, Shapes, prepare_model
from stillframe.reuse.frontend.shape_inference import dtype_name, infer_shapes, tensor_shape
from stillframe.reuse.ir.graph import Graph, Shape


def import_model(
    source: str | Path | bytes, *, shapes: Shapes | None = None, widened: bool = False
) -> Graph:
    """The graph as the file has it: engine operators in regions, islands for everything else."""
    prepared = prepare_model(source, shapes or {}, widened=widened)
    corrected: dict[str, Shape] = {}
    for _ in range(len(prepared.model.graph.node) + 1):
        infer_shapes(prepared.model, corrected)
        try:
            return build_graph(prepared)
        except WrongShapeError as error:  # infer again, with what the operator says
            corrected[error.name] = error.shape
    raise ModelError(f"{model_title(source)}: the shapes of {sorted(corrected)} cannot be inferred")


def build_graph(prepared: PreparedModel) -> Graph:
    """The graph of a prepared model with inferred shapes."""
    model = prepared.model
    values = [*model.graph.input, *model.graph.value_info, *model.graph.output]
    nodes = [read_node(index, node) for index, node in enumerate(model.graph.node)]
    readers: dict[str, list[OnnxNode]] = {}
    for node in nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    opsets = {each.domain: each.version for each in model.opset_import}
    context = ImportContext(
        opset=opsets.get("", opsets.get("ai.onnx", 1)),
        onnx_shapes={v.name: s for v in values if (s := tensor_shape(v)) is not None},
        dtypes={v.name: dtype_name(v.type.tensor_type.elem_type) for v in values},
        weights={t.name: numpy_helper.to_array(t) for t in model.graph.initializer},
        input_names=tuple(value.name for value in model.graph.input),
        readers=readers,
    )
    outputs = tuple(value.name for value in model.graph.output)
    importer = Importer(context, nodes, outputs, prepared.dtypes, partial(island_model, model))
    return replace(importer.graph(), notes=prepared.notes)


def read_node(index: int, node: onnx.NodeProto) -> OnnxNode:
    """A NodeProto with its attributes as Python values; a Cast's `to` as the name of a dtype."""
    attrs: dict[str, Any] = {}
    for attribute in node.attribute:
        value = helper.get_attribute_value(attribute)
        text = isinstance(value, bytes)
        attrs[attribute.name] = value.decode(errors="replace") if text else value
    if node.op_type == "Cast":
        attrs["to"] = dtype_name(attrs["to"])
    inputs = (*node.input, *captured_names(node))
    return OnnxNode(
        index, node.op_type, node.domain, node.name, tuple(inputs), tuple(node.output), attrs
    )


def island_model(
    model: onnx.ModelProto, nodes: Sequence[OnnxNode], reads: Sequence[str], writes: Sequence[str]
) -> bytes:
    """Some nodes of a model as an ONNX model of their own, with the constants that they read."""
    values = [*model.graph.input, *model.graph.value_info, *model.graph.output]
    typed = {value.name: value for value in values}
    names = {name for node in nodes for name in node.inputs}
    graph = helper.make_graph(
        [model.graph.node[node.index] for node in nodes],
        "island",
        [typed.get(name, onnx.ValueInfoProto(name=name)) for name in reads],
        [typed.get(name, onnx.ValueInfoProto(name=name)) for name in writes],
        [tensor for tensor in model.graph.initializer if tensor.name in names],
    )
    island = helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)
    return bytes(island.SerializeToString())
