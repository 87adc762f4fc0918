"""What an ONNX file holds, without the values of its weights: its image input, its outline.

The file is not trusted: its size, versions and types are checked here.
"""

import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

from stillframe.errors import ModelError, shortened
from stillframe.models.formats.exporting import refuse_foreign
from stillframe.models.formats.side_inputs import SideInputs, side_inputs

MAX_BYTES = (2 << 30) - 1  # protobuf's own limit
CHANNELS = (3, 1)  # tried in this order to find the channel axis
ELEMENTS = {
    onnx.TensorProto.FLOAT: "float32",
    onnx.TensorProto.FLOAT16: "float16",
    onnx.TensorProto.UINT8: "uint8",
}
Layout = Literal["nchw", "nhwc"]
DOMAINS = ("", "ai.onnx")  # of ONNX's own operators


@dataclass(frozen=True, slots=True)
class ImageInput:
    """The input that takes the image."""

    name: str
    layout: Layout
    channels: int
    height: int | None
    """None where the file leaves it open, as is width."""
    width: int | None
    element: str
    """NumPy's name of the type: a value of ELEMENTS."""

    @property
    def size(self) -> tuple[int, int] | None:
        """(H, W) if the file fixes both."""
        return None if self.height is None or self.width is None else (self.height, self.width)


def image_input(
    path: Path, side: SideInputs | None = None, layout: Layout | None = None
) -> ImageInput:
    """The image input of an ONNX file, cleaned or not. Raises ModelError if there is none.

    side, layout: see `find_image_input`.
    """
    return find_image_input(read_onnx(path), path, side, layout)


@dataclass(frozen=True, slots=True)
class Outline:
    """Summary of an ONNX file."""

    ir_version: int
    opset: int
    image: ImageInput | None
    """None if no input takes an image."""
    fault: str
    """Why `image` is None."""
    outputs: dict[str, str]
    """Output name -> dimensions, such as "1x3x?x?"."""
    operators: dict[str, int]
    """Operator -> number of nodes, most frequent first."""
    weights: int
    """Numbers in all constants."""


def outline(path: Path) -> Outline:
    """The summary of an ONNX file. Raises ModelError for any other file."""
    model = read_onnx(path)
    image, fault = None, ""
    try:
        image = find_image_input(model, path)
    except ModelError as e:
        fault = str(e)
    outputs = {
        o.name: dims_text([d.dim_value or None for d in o.type.tensor_type.shape.dim])
        for o in model.graph.output
    }
    counted = Counter(node.op_type for graph in subgraphs(model.graph) for node in graph.node)
    return Outline(
        ir_version=model.ir_version,
        opset=max((o.version for o in model.opset_import if o.domain in DOMAINS), default=0),
        image=image,
        fault=fault,
        outputs=outputs,
        operators=dict(counted.most_common()),
        weights=sum(math.prod(i.dims) for i in model.graph.initializer),
    )


def read_onnx(path: Path) -> onnx.ModelProto:
    """The model without its external data. Raises ModelError for anything but usable ONNX."""
    refuse_foreign(path)
    try:
        size = path.stat().st_size
        if not path.is_file():
            raise ModelError(f"{path}: expected an ONNX file, got a folder or device")
        if not 0 < size <= MAX_BYTES:
            raise ModelError(f"{path}: expected an ONNX file of 1..{MAX_BYTES} bytes, got {size}")
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


def find_image_input(
    model: onnx.ModelProto,
    path: Path,
    side: SideInputs | None = None,
    layout: Layout | None = None,
) -> ImageInput:
    """The only input of the model that takes a picture; ModelError, naming the path, without one.

    side: what other inputs are fed, beside those that are known. layout: where the file leaves open
    which axis has the channels; ModelError if it does not and says otherwise.
    """
    known = initializer_names(model.graph)
    beside = side_inputs(model, side or SideInputs(), path.name).names
    inputs = [i for i in model.graph.input if i.name not in known | beside]
    if len(inputs) != 1:
        names = ", ".join(repr(i.name) for i in inputs) or "none"
        remedy = (
            "; give the others constants in a model card, such as "
            "constants: {NAME: [[height, width]]}, or name what is fed back to them under state"
        )
        raise ModelError(
            f"{path.name}: expected one input, for the image, got {names}"
            f"{remedy if len(inputs) > 1 else ''}"
        )
    tensor = inputs[0].type.tensor_type
    dims = [d.dim_value if d.dim_value > 0 else None for d in tensor.shape.dim]
    where = f"{path.name}: input {inputs[0].name!r}"
    if len(dims) != 4:
        raise ModelError(
            f"{where}: expected four dimensions (batch, channels, height, width, or with the "
            f"channels last), got {len(dims)}"
        )
    if tensor.elem_type not in ELEMENTS:
        known_types = {v: k.lower() for k, v in onnx.TensorProto.DataType.items()}
        got = known_types.get(tensor.elem_type, f"type {tensor.elem_type}")
        raise ModelError(f"{where}: expected {', '.join(ELEMENTS.values())}, got {got}")
    axis = next((a for c in CHANNELS for a in (1, 3) if dims[a] == c), None)
    if axis is None:
        if dims[1] is not None and dims[3] is not None:
            raise ModelError(
                f"{where}: expected an image of 1 or 3 channels, got {dims_text(dims)}"
            )
        axis = 1 if dims[1] is None else 3
    if layout is not None and axis != (stated_axis := 1 if layout == "nchw" else 3):
        if dims[stated_axis] not in (None, *CHANNELS):
            own = "nchw" if axis == 1 else "nhwc"
            raise ModelError(
                f"{where}: layout: expected {own}, as {dims_text(dims)} has its channels there, "
                f"got {layout}"
            )
        axis = stated_axis
    height, width = (dims[2], dims[3]) if axis == 1 else (dims[1], dims[2])
    return ImageInput(
        name=inputs[0].name,
        layout="nchw" if axis == 1 else "nhwc",
        channels=dims[axis] or 3,
        height=height,
        width=width,
        element=ELEMENTS[tensor.elem_type],
    )


def dims_text(dims: list[int | None]) -> str:
    return "x".join("?" if d is None else str(d) for d in dims)


def initializer_names(graph: onnx.GraphProto) -> set[str]:
    """Dense and sparse ones."""
    sparse = {s.values.name for s in graph.sparse_initializer}
    return {i.name for i in graph.initializer} | sparse


def subgraphs(graph: onnx.GraphProto) -> Iterator[onnx.GraphProto]:
    """The graph, and recursively those inside its nodes (branches, loop bodies)."""
    yield graph
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                if inner.node:
                    yield from subgraphs(inner)


def last_line(error: Exception) -> str:
    """The last line of an error's text, which is where onnx puts the cause."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shortened(lines[-1]) if lines else type(error).__name__
