"""What a model asks for, checked before any library builds it: sizes, constants, memory."""

import contextlib
from collections.abc import Iterable, Mapping
from math import prod
from pathlib import Path

import numpy as np
import onnx

from stillframe.errors import ModelError
from stillframe.reuse.frontend.node_order import node_title, subgraphs
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

    model: with fixed input shapes, its nodes in execution order. Tensors whose shape is not known
    before a run count as nothing.
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
    # Propagating constants would build a bomb, so those that show without it are refused first.
    for data_prop in (False, True):
        sizes = _bytes_by_tensor(model, data_prop)
        _check_nodes(model.graph, sizes, limit, title)
        if all(name in sizes for node in model.graph.node for name in node.output if name):
            return


def _check_nodes(
    graph: onnx.GraphProto, sizes: Mapping[str, int], limit: float, title: str
) -> None:
    constants = {tensor.name for tensor in graph.initializer}
    for node in graph.node:
        read = sum(sizes.get(name, 0) for name in set(node.input))
        written = sum(sizes.get(name, 0) for name in node.output)
        static = all(name in constants for name in node.input if name)
        if node.op_type in ("Shape", "Size") or (static and not subgraphs(node)):
            constants |= set(node.output)
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


def _bytes_by_tensor(model: onnx.ModelProto, data_prop: bool) -> dict[str, int]:
    values: list[onnx.ValueInfoProto] = list(model.graph.input)
    with contextlib.suppress(Exception):  # ONNX Runtime will say what is wrong with the model
        values += inferred_values(model, {}, data_prop)
    sizes = {
        tensor.name: prod(tensor.dims) * _item_bytes(tensor.data_type)
        for tensor in model.graph.initializer
    }
    for value in values:
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
