"""What a model asks for, checked before any library builds it: sizes, constants, memory."""

import contextlib
from collections.abc import Iterable, Mapping, Set
from math import prod
from pathlib import Path

import numpy as np
import onnx

from stillframe.errors import ModelError
from stillframe.reuse.frontend.graph_bodies import standalone_body
from stillframe.reuse.frontend.node_order import captured_by, node_title, subgraphs
from stillframe.reuse.frontend.shape_inference import dtype_name, inferred_values, tensor_shape

LARGEST_SIZE = 1 << 24
"""Of an attribute of a window. onnx aborts the process where one overflows 32 bits."""

WINDOW_ATTRIBUTES = frozenset(
    {"kernel_shape", "strides", "dilations", "pads", "output_padding", "output_shape"}
)

LARGEST_CONSTANT = 256 << 20
"""Bytes that folding may make of constants; or CONSTANT_GROWTH times those that they had."""

CONSTANT_GROWTH = 8

FREE_SHARE = 0.75
"""Of the free memory: what a network may take."""

MEMINFO = Path("/proc/meminfo")
CGROUP = Path("/sys/fs/cgroup")


def check_windows(graph: onnx.GraphProto, title: str) -> None:
    """Raise ModelError for a kernel, stride, dilation or padding that no picture could have."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.name in WINDOW_ATTRIBUTES:
                worst = max((abs(size) for size in attribute.ints), default=0)
                if worst > LARGEST_SIZE:
                    raise ModelError(
                        f"{title}: {node_title(node)}: expected {attribute.name} of at most"
                        f" {LARGEST_SIZE}, got {list(attribute.ints)}"
                    )
        for inner in subgraphs(node):
            check_windows(inner, title)


def check_memory(model: onnx.ModelProto, title: str) -> None:
    """Raise ModelError for a node that takes more memory than there is, or a bomb of constants.

    model: with fixed input shapes, its nodes in execution order. The bodies of control-flow nodes
    are checked too. Tensors whose shape is not known before a run count as nothing.
    """
    limit = memory_limit()
    for value in model.graph.input:
        shape = tensor_shape(value) or ()
        needed = prod(shape) * _item_bytes(value.type.tensor_type.elem_type)
        if needed > limit:
            raise ModelError(
                f"{title}: input {value.name!r} of shape {list(shape)} takes"
                f" {_gigabytes(needed)}; {_advice(limit)}"
            )
    constants = {tensor.name for tensor in model.graph.initializer}
    # Propagating constants would build a bomb, so those that show without it are refused first.
    for data_prop in (False, True):
        if _check_graph(model, constants, data_prop, limit, title):
            return


def _check_graph(
    model: onnx.ModelProto, constants: Set[str], data_prop: bool, limit: float, title: str
) -> bool:
    """Check the nodes of a graph, and those of bodies in it; True if every size was known.

    constants: names of its constant initializers and inputs. data_prop: see `inferred_values`.
    """
    values = _values_by_name(model, data_prop)
    sizes = _bytes_by_tensor(model, values)
    static = _check_nodes(model.graph, sizes, constants, limit, title)
    known = all(name in sizes for node in model.graph.node for name in node.output if name)
    for node in model.graph.node:
        for body in subgraphs(node):
            alone = onnx.ModelProto(
                graph=standalone_body(body, model.graph, values, static),
                opset_import=model.opset_import,
                ir_version=model.ir_version,
            )
            own = {tensor.name for tensor in body.initializer}
            captured = static.intersection(captured_by(body))
            known &= _check_graph(alone, own | captured, data_prop, limit, title)
    return known


def _check_nodes(
    graph: onnx.GraphProto,
    sizes: Mapping[str, int],
    constants: Set[str],
    limit: float,
    title: str,
) -> set[str]:
    """Check each node of a graph; -> the names of all constants, those that it computes too."""
    names = set(constants)
    for node in graph.node:
        read = sum(sizes.get(name, 0) for name in set(node.input))
        written = sum(sizes.get(name, 0) for name in node.output)
        static = all(name in names for name in node.input if name)
        if node.op_type in ("Shape", "Size") or (static and not subgraphs(node)):
            names |= set(node.output)
            built = 0 if node.op_type == "Constant" else written
            if built > max(LARGEST_CONSTANT, CONSTANT_GROWTH * read):
                raise ModelError(
                    f"{title}: {node_title(node)} makes {_gigabytes(built)} of {read} bytes of"
                    f" constants; expected at most {LARGEST_CONSTANT >> 20} MB"
                )
        if read + written > limit:
            raise ModelError(
                f"{title}: {node_title(node)} takes {_gigabytes(read + written)}; {_advice(limit)}"
            )
    return names


def check_plan(needed: int) -> None:
    """Raise ModelError if a plan's activations take more memory than a network may."""
    limit = memory_limit()
    if needed > limit:
        raise ModelError(f"the activations take {_gigabytes(needed)}; {_advice(limit)}")


def memory_limit() -> float:
    """Bytes that a network may take: FREE_SHARE of the free memory; without end if unknown."""
    return FREE_SHARE * min(_free_bytes(), default=float("inf"))


def _free_bytes() -> Iterable[int]:
    """Free memory of the machine, and of the container."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        for line in MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                yield int(line.split()[1]) << 10
    with contextlib.suppress(OSError, ValueError):  # "max" is no number: no limit
        limit = int((CGROUP / "memory.max").read_text())
        used = int((CGROUP / "memory.current").read_text())
        cached = [
            int(line.split()[1])
            for line in (CGROUP / "memory.stat").read_text().splitlines()
            if line.startswith("inactive_file ")
        ]
        yield max(limit - used + sum(cached), 0)


def _values_by_name(model: onnx.ModelProto, data_prop: bool) -> dict[str, onnx.ValueInfoProto]:
    """Shape and dtype of every tensor but initializers, as far as they are known."""
    values: list[onnx.ValueInfoProto] = list(model.graph.input)
    with contextlib.suppress(Exception):  # ONNX Runtime will say what is wrong with the model
        values += inferred_values(model, {}, data_prop)
    return {value.name: value for value in values}


def _bytes_by_tensor(
    model: onnx.ModelProto, values: Mapping[str, onnx.ValueInfoProto]
) -> dict[str, int]:
    sizes = {
        tensor.name: prod(tensor.dims) * _item_bytes(tensor.data_type)
        for tensor in model.graph.initializer
    }
    for value in values.values():
        shape = tensor_shape(value)
        if shape is not None and all(size >= 0 for size in shape):
            sizes[value.name] = prod(shape) * _item_bytes(value.type.tensor_type.elem_type)
    return sizes


def _item_bytes(element_type: int) -> int:
    name = dtype_name(element_type)
    return 4 if name == "unknown" else np.dtype(name).itemsize


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.3g} GB"


def _advice(limit: float) -> str:
    return f"{_gigabytes(limit)} can be used, {FREE_SHARE:.0%} of what is free: feed smaller frames"
