"""An ONNX file as exported -> one that every backend runs well: cleaned, with fixed shapes.

Old exporters list every initializer as a graph input too: ONNX Runtime then neither folds nor
prepacks them and runs several times slower. Others leave a batch of 10 or a 32x32 input behind. The
cleaned file has one input, batch 1, the requested height and width, and inferred shapes everywhere
else. It is stored in the cache under the hash of the original and the size.
"""

import hashlib
import json
import math
from pathlib import Path

import onnx
from google.protobuf.message import EncodeError  # type: ignore[import-untyped]

from stillframe.cache_dir import cache_folder
from stillframe.errors import ModelError
from stillframe.models.formats.cleaned_file import CLEANING_VERSION
from stillframe.models.formats.external_data import external_files, load_external
from stillframe.models.formats.onnx_file import (
    ImageInput,
    Layout,
    find_image_input,
    initializer_names,
    last_line,
    read_onnx,
    subgraphs,
)
from stillframe.models.formats.side_inputs import (
    MAX_SIDE,
    SideInputs,
    put_constants,
    side_inputs,
)
from stillframe.models.formats.state import fix_state
from stillframe.models.weights.sealed import file_sha256, sealed, write_sealed

MAX_TENSOR = 1 << 31
"""Largest tensor, in numbers (8 GiB as float32): larger ones are a mistake or an attack."""


def clean(
    path: Path,
    size: tuple[int, int] | None = None,
    side: SideInputs | None = None,
    layout: Layout | None = None,
) -> Path:
    """The cleaned file of an ONNX file at an input of size (H, W), from the cache if it is there.

    size: None takes the size that the file fixes. side: what other inputs are fed; constants become
    part of the file. layout: of a file that leaves it open. Raises ModelError for a file that
    cannot be used at that size. Of a file in the cache, which was downloaded, external data is
    refused.
    """
    model = read_onnx(path)
    beside = side_inputs(model, side or SideInputs(), path.name)
    image = find_image_input(model, path, beside, layout)
    fixed = size or image.size
    if fixed is None:
        raise ModelError(
            f"{path.name}: its input {image.name!r} has no fixed height and width; "
            "give one with --input-size WxH"
        )
    if min(fixed) < 1 or max(fixed) > MAX_SIDE:
        raise ModelError(
            f"{path.name}: expected an input of 1..{MAX_SIDE} pixels a side, "
            f"got {fixed[1]}x{fixed[0]}"
        )
    data_files = external_files(model, path)
    key = hashlib.sha256(repr((CLEANING_VERSION, onnx.__version__, fixed)).encode())
    for file in (path, *data_files):
        key.update(file_sha256(file).encode())
    if layout is not None and image != find_image_input(model, path, beside):
        key.update(layout.encode())
    if beside.names:
        stated = [dict(beside.constants), dict(beside.state)]
        key.update(json.dumps(stated, sort_keys=True, default=str).encode())
    name = f"{path.stem[:80]}-{fixed[0]}x{fixed[1]}-{key.hexdigest()[:16]}.onnx"
    cleaned = cache_folder() / "cleaned" / name
    if not sealed(cleaned):
        if data_files:
            load_external(model, path)
        _remove_initializer_inputs(model)
        put_constants(model, beside, fixed, path.name)
        _set_image_shape(model, image, fixed)
        if beside.state:
            fix_state(model, beside, image.name, path.name)
        write_sealed(cleaned, _with_shapes(model, image, fixed, path))
    return cleaned


def _remove_initializer_inputs(model: onnx.ModelProto) -> None:
    """Remove initializers from the graph inputs, and those that no node reads altogether."""
    known = initializer_names(model.graph)
    read = {name for graph in subgraphs(model.graph) for node in graph.node for name in node.input}
    read |= {output.name for graph in subgraphs(model.graph) for output in graph.output}
    used = [i for i in model.graph.initializer if i.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(used)
    inputs = [i for i in model.graph.input if i.name not in known]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, 4)  # older ones require initializers among the inputs


def _set_image_shape(model: onnx.ModelProto, image: ImageInput, size: tuple[int, int]) -> None:
    """Batch 1 and that input size."""
    dims = (1, image.channels, *size) if image.layout == "nchw" else (1, *size, image.channels)
    port = next(each for each in model.graph.input if each.name == image.name)
    kind = port.type.tensor_type
    kind.ClearField("shape")
    for d in dims:
        kind.shape.dim.add().dim_value = d


def _with_shapes(
    model: onnx.ModelProto, image: ImageInput, size: tuple[int, int], path: Path
) -> bytes:
    """The model's bytes with every shape inferred that is not its inputs'."""
    for graph in subgraphs(model.graph):
        del graph.value_info[:]
        for output in graph.output:
            output.type.tensor_type.ClearField("shape")
    try:
        shaped = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        fault = _impossible_reshape(shaped)
    except onnx.shape_inference.InferenceError as e:
        fault = last_line(e)
        shaped = None
    except (ValueError, EncodeError, RuntimeError) as e:
        raise ModelError(f"{path.name}: its graph is inconsistent: {last_line(e)}") from e
    if fault and image.size not in (None, size):
        raise ModelError(
            f"{path.name}: made for an input of {image.width}x{image.height}, "
            f"it does not run at {size[1]}x{size[0]}: {fault}"
        )
    if shaped is None:  # operators that onnx does not know, but the backend may
        shaped = _infer_leniently(model, path)
    _check_tensor_sizes(shaped, path)
    return bytes(shaped.SerializeToString())


def _infer_leniently(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(model)
    except (ValueError, RuntimeError, onnx.shape_inference.InferenceError) as e:
        raise ModelError(f"{path.name}: its graph is inconsistent: {last_line(e)}") from e


def _impossible_reshape(model: onnx.ModelProto) -> str:
    """A message about the first Reshape to another number of elements; "" if there is none.

    Shape inference does not check this, and it is how exports of a fixed size fail at another.
    """
    sizes = {}
    for value in (*model.graph.input, *model.graph.value_info, *model.graph.output):
        dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
        if value.type.tensor_type.HasField("shape") and all(d > 0 for d in dims):
            sizes[value.name] = math.prod(dims)
    for node in model.graph.node:
        if node.op_type == "Reshape" and len(node.input) == 2:
            before, after = sizes.get(node.input[0]), sizes.get(node.output[0])
            if before and after and before != after:
                return f"Reshape to {node.output[0]!r} gets {before} numbers for {after}"
    return ""


def _check_tensor_sizes(model: onnx.ModelProto, path: Path) -> None:
    """Raise ModelError for a tensor of more than MAX_TENSOR numbers."""
    sizes = [(i.name, math.prod(i.dims)) for i in model.graph.initializer]
    for value in (*model.graph.value_info, *model.graph.output):
        dims = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
        sizes.append((value.name, math.prod(dims)))
    for name, size in sizes:
        if not 0 <= size <= MAX_TENSOR:
            raise ModelError(
                f"{path.name}: expected tensors of at most {MAX_TENSOR} numbers, "
                f"got {size} in {name!r}"
            )
