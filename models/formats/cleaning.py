"""From an ONNX file as exported to one that every engine takes well: cleaned, with fixed shapes.

Old exporters list every initialiser as a graph input too: ONNX Runtime then neither folds nor
prepacks them and runs several times slower. Others leave a batch of ten or a 32x32 input behind.
The cleaned file has one input, a batch of one, the asked height and width, and inferred shapes
everywhere else. It is kept in the cache by the hash of the original and the size.

The file is not trusted: weights stored outside it must lie in its own folder, and sizes are
bounded.
"""

import hashlib
import math
import warnings
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx
from google.protobuf.message import (  # type: ignore[import-untyped]
    DecodeError,
    EncodeError,
)
from onnx import external_data_helper as external

from stillframe.cache_dir import cache_folder
from stillframe.errors import ModelError
from stillframe.models.weights import file_sha256, sealed, write_sealed

RECIPE = 1
"""Raised whenever cleaning changes what it writes, so that older cleaned files are left behind."""

LARGEST_SIDE = 8192
LARGEST_BYTES = (2 << 30) - 1  # protobuf's own limit
CHANNELS = (3, 1)
ELEMENTS = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.UINT8: "uint8",
}
DOMAINS = ("", "ai.onnx")
LARGEST_TENSOR = 1 << 31
"""Numbers in one tensor, 8 GiB as float32: whatever asks for more was not made for video."""


@dataclass(frozen=True, slots=True)
class ImageInput:
    """The input that takes the picture. height, width: None where the file leaves them open."""

    name: str
    layout: Literal["nchw", "nhwc"]
    channels: int
    height: int | None
    width: int | None
    element: str

    @property
    def size(self) -> tuple[int, int] | None:
        """(H, W) when the file fixes both."""
        return None if self.height is None or self.width is None else (self.height, self.width)


def image_input(path: Path) -> ImageInput:
    """The picture input of an ONNX file, cleaned or not."""
    return _image_input(_read(path), path)


def clean(path: Path, size: tuple[int, int] | None = None) -> Path:
    """The cleaned form of an ONNX file at an input of size (H, W), from the cache or made now.

    Without a size the one that the file fixes is taken. A file in the cache came out of a package
    or from a network: weights outside it are refused altogether.
    """
    model = _read(path)
    picture = _image_input(model, path)
    fixed = size or picture.size
    if fixed is None:
        raise ModelError(
            f"{path.name}: its input {picture.name!r} has no fixed height and width; "
            "give one with --input-size WxH"
        )
    if min(fixed) < 1 or max(fixed) > LARGEST_SIDE:
        raise ModelError(
            f"{path.name}: expected an input of 1..{LARGEST_SIDE} pixels a side, "
            f"got {fixed[1]}x{fixed[0]}"
        )
    beside = _external_files(model, path)
    key = hashlib.sha256(repr((RECIPE, onnx.__version__, fixed)).encode())
    for file in (path, *beside):
        key.update(file_sha256(file).encode())
    place = (
        cache_folder()
        / "cleaned"
        / f"{path.stem[:80]}-{fixed[0]}x{fixed[1]}-{key.hexdigest()[:16]}"
    )
    place = place.with_name(place.name + ".onnx")
    if not sealed(place):
        if beside:
            _load_external(model, path)
        _lift_initialisers(model)
        write_sealed(place, _with_shapes(model, picture, fixed, path))
    return place


def _read(path: Path) -> onnx.ModelProto:
    """Parse the file without the weights outside it; ModelError says what it is if not ONNX."""
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise ModelError(f"{path}: expected an ONNX file, got a folder or device")
        if not 0 < size <= LARGEST_BYTES:
            raise ModelError(
                f"{path}: expected an ONNX file of 1..{LARGEST_BYTES} bytes, got {size}"
            )
        model = onnx.load_model_from_string(path.read_bytes())
    except OSError as e:
        raise ModelError(f"{path}: cannot be read: {e.strerror}") from e
    except DecodeError as e:
        raise ModelError(f"{path}: not an ONNX file, or one that is cut short or damaged") from e
    if not model.graph.node or not model.graph.output or not model.opset_import:
        raise ModelError(f"{path}: not an ONNX file: it holds no graph with nodes and outputs")
    if not 1 <= model.ir_version <= onnx.IR_VERSION:
        raise ModelError(
            f"{path.name}: expected ONNX IR version 1..{onnx.IR_VERSION}, got {model.ir_version}; "
            "export it again for an older one, or take newer onnx and onnxruntime"
        )
    newest = onnx.defs.onnx_opset_version()
    for opset in model.opset_import:
        if opset.domain in DOMAINS and not 1 <= opset.version <= newest:
            raise ModelError(
                f"{path.name}: expected opset 1..{newest}, got {opset.version}; "
                "export it again with an older opset, or take newer onnx and onnxruntime"
            )
    return model


def _image_input(model: onnx.ModelProto, path: Path) -> ImageInput:
    known = _initialisers(model.graph)
    inputs = [i for i in model.graph.input if i.name not in known]
    if len(inputs) != 1:
        names = ", ".join(repr(i.name) for i in inputs) or "none"
        raise ModelError(f"{path.name}: expected one input, for the picture, got {names}")
    tensor = inputs[0].type.tensor_type
    dims = [d.dim_value if d.dim_value > 0 else None for d in tensor.shape.dim]
    said = f"{path.name}: input {inputs[0].name!r}"
    if len(dims) != 4:
        raise ModelError(
            f"{said}: expected four dimensions (batch, channels, height, width, or with the "
            f"channels last), got {len(dims)}"
        )
    if tensor.elem_type not in ELEMENTS:
        known_types = {v: k.lower() for k, v in onnx.TensorProto.DataType.items()}
        got = known_types.get(tensor.elem_type, f"type {tensor.elem_type}")
        raise ModelError(f"{said}: expected {', '.join(ELEMENTS.values())}, got {got}")
    axis = next((a for c in CHANNELS for a in (1, 3) if dims[a] == c), None)
    if axis is None:
        if dims[1] is not None and dims[3] is not None:
            raise ModelError(f"{said}: expected a picture of 1 or 3 channels, got {_text(dims)}")
        axis = 1 if dims[1] is None else 3
    height, width = (dims[2], dims[3]) if axis == 1 else (dims[1], dims[2])
    return ImageInput(
        name=inputs[0].name,
        layout="nchw" if axis == 1 else "nhwc",
        channels=dims[axis] or 3,
        height=height,
        width=width,
        element=ELEMENTS[tensor.elem_type],
    )


def _text(dims: list[int | None]) -> str:
    return "x".join("?" if d is None else str(d) for d in dims)


def _initialisers(graph: onnx.GraphProto) -> set[str]:
    sparse = {s.values.name for s in graph.sparse_initializer}
    return {i.name for i in graph.initializer} | sparse


def _lift_initialisers(model: onnx.ModelProto) -> None:
    """Weights that are graph inputs too become constants; those that nobody reads are dropped."""
    known = _initialisers(model.graph)
    read = {name for graph in _graphs(model.graph) for node in graph.node for name in node.input}
    read |= {output.name for graph in _graphs(model.graph) for output in graph.output}
    kept = [i for i in model.graph.initializer if i.name in read]
    del model.graph.initializer[:]
    model.graph.initializer.extend(kept)
    inputs = [i for i in model.graph.input if i.name not in known]
    del model.graph.input[:]
    model.graph.input.extend(inputs)
    model.ir_version = max(model.ir_version, 4)  # before, every initialiser had to be an input


def _with_shapes(
    model: onnx.ModelProto, picture: ImageInput, size: tuple[int, int], path: Path
) -> bytes:
    """The model's bytes with a batch of one, that input size, and every other shape inferred."""
    dims = (
        (1, picture.channels, *size) if picture.layout == "nchw" else (1, *size, picture.channels)
    )
    kind = model.graph.input[0].type.tensor_type
    kind.ClearField("shape")
    for d in dims:
        kind.shape.dim.add().dim_value = d
    for graph in _graphs(model.graph):
        del graph.value_info[:]
        for output in graph.output:
            output.type.tensor_type.ClearField("shape")
    try:
        shaped = onnx.shape_inference.infer_shapes(model, strict_mode=True, data_prop=True)
        fault = _wrong_reshape(shaped)
    except onnx.shape_inference.InferenceError as e:
        fault = _first_line(e)
        shaped = None
    except (ValueError, EncodeError, RuntimeError) as e:
        raise ModelError(f"{path.name}: its graph makes no sense: {_first_line(e)}") from e
    if fault and picture.size not in (None, size):
        raise ModelError(
            f"{path.name}: made for an input of {picture.width}x{picture.height}, "
            f"it does not run at {size[1]}x{size[0]}: {fault}"
        )
    if shaped is None:  # operators that onnx does not know; whoever runs it has the last word
        shaped = _loosely_shaped(model, path)
    _refuse_absurd(shaped, path)
    return bytes(shaped.SerializeToString())


def _loosely_shaped(model: onnx.ModelProto, path: Path) -> onnx.ModelProto:
    try:
        return onnx.shape_inference.infer_shapes(model)
    except (ValueError, RuntimeError, onnx.shape_inference.InferenceError) as e:
        raise ModelError(f"{path.name}: its graph makes no sense: {_first_line(e)}") from e


def _wrong_reshape(model: onnx.ModelProto) -> str:
    """What is wrong with the first Reshape that is to make more or fewer numbers than it gets.

    Shape inference does not look at this, and exports with a fixed size are full of them.
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


def _refuse_absurd(model: onnx.ModelProto, path: Path) -> None:
    """ModelError when a tensor of the graph would not fit into any memory."""
    sizes = [(i.name, math.prod(i.dims)) for i in model.graph.initializer]
    for value in (*model.graph.value_info, *model.graph.output):
        dims = [d.dim_value or 1 for d in value.type.tensor_type.shape.dim]
        sizes.append((value.name, math.prod(dims)))
    for name, size in sizes:
        if not 0 <= size <= LARGEST_TENSOR:
            raise ModelError(
                f"{path.name}: expected tensors of at most {LARGEST_TENSOR} numbers, "
                f"got {size} in {name!r}"
            )


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][:200] if lines else type(error).__name__


def _graphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph and all that its nodes hold."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from _graphs(inner)


def _outside(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor, wherever it is, whose values lie in another file."""
    nodes = [node for function in model.functions for node in function.node]
    for graph in _graphs(model.graph):
        nodes += graph.node
        yield from filter(external.uses_external_data, graph.initializer)
        for sparse in graph.sparse_initializer:
            yield from filter(external.uses_external_data, (sparse.values, sparse.indices))
    for node in nodes:
        for attribute in node.attribute:
            yield from filter(external.uses_external_data, (attribute.t, *attribute.tensors))


def _external_files(model: onnx.ModelProto, path: Path) -> list[Path]:
    """The files that hold weights of the model, each checked to lie in the model's folder."""
    folder = path.resolve().parent
    downloaded = folder.is_relative_to(cache_folder().resolve())
    found: dict[Path, None] = {}
    for tensor in _outside(model):
        places = [e.value for e in tensor.external_data if e.key == "location"]
        said = f"{path.name}: the weights {tensor.name!r} lie outside it, in {places[-1:]}"
        if downloaded:
            raise ModelError(f"{said}: refused for a downloaded model")
        named = len(places) == 1 and places[0] and isinstance(places[0], str)
        if not named or "\0" in places[0]:  # bytes come out of a name that is not UTF-8
            raise ModelError(f"{said}: expected one file name")
        place = (folder / places[0]).resolve()
        if Path(places[0]).is_absolute() or not place.is_relative_to(folder):
            raise ModelError(
                f"{said}: refused, the file must be in the model's own folder {folder}"
            )
        if not place.is_file():
            raise ModelError(f"{said}: there is no such file in {folder}")
        found[place] = None
    if (size := sum(f.stat().st_size for f in found)) > LARGEST_BYTES:
        raise ModelError(
            f"{path.name}: expected weights of {LARGEST_BYTES} bytes or less, got {size}"
        )
    return list(found)


def _load_external(model: onnx.ModelProto, path: Path) -> None:
    folder = str(path.resolve().parent)
    total = 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # unknown keys are only named in a warning
            for tensor in _outside(model):
                external.load_external_data_for_tensor(tensor, folder)
                wanted, total = math.prod(tensor.dims), total + len(tensor.raw_data)
                if total > LARGEST_BYTES:
                    raise ModelError(f"{path.name}: its weights exceed {LARGEST_BYTES} bytes")
                if wanted and not tensor.raw_data:
                    raise ModelError(f"{path.name}: the weights {tensor.name!r} are empty")
    except (OSError, TypeError, ValueError, RuntimeError, onnx.checker.ValidationError) as e:
        raise ModelError(f"{path.name}: its weights cannot be read: {_first_line(e)}") from e


@dataclass(frozen=True, slots=True)
class Outline:
    """What is in an ONNX file, without its weights' values.

    picture: None when no input takes a picture; fault says why. outputs: name -> its dimensions.
    operators: name -> how many nodes. weights: how many numbers the constants hold.
    """

    ir_version: int
    opset: int
    picture: ImageInput | None
    fault: str
    outputs: dict[str, str]
    operators: dict[str, int]
    weights: int


def outline(path: Path) -> Outline:
    """What is in an ONNX file. ModelError when it is none."""
    model = _read(path)
    picture, fault = None, ""
    try:
        picture = _image_input(model, path)
    except ModelError as e:
        fault = str(e)
    outputs = {
        o.name: _text([d.dim_value or None for d in o.type.tensor_type.shape.dim])
        for o in model.graph.output
    }
    counted = Counter(node.op_type for graph in _graphs(model.graph) for node in graph.node)
    return Outline(
        ir_version=model.ir_version,
        opset=max((o.version for o in model.opset_import if o.domain in DOMAINS), default=0),
        picture=picture,
        fault=fault,
        outputs=outputs,
        operators=dict(counted.most_common()),
        weights=sum(math.prod(i.dims) for i in model.graph.initializer),
    )
