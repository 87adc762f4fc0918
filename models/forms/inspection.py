"""An unknown ONNX file as form recognition examines it: names, shapes, metadata, sample outputs.

Names and shapes come from the cleaned file. Where they do not decide, the network is run once on a
synthetic image.
"""

import ast
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from stillframe.endable_session import EndableSession
from stillframe.errors import ModelError, shortened
from stillframe.models.formats.cleaning import clean
from stillframe.models.formats.onnx_file import ImageInput, Layout, find_image_input, read_onnx
from stillframe.models.formats.side_inputs import SideInputs, side_inputs
from stillframe.models.formats.state import zero_states
from stillframe.native_calls import RunEndedError

DEFAULT_SIZE = (640, 640)
"""(H, W) for a file that leaves its input size open and names none in its metadata."""

OTHER_SIZES = ((48, 320), (224, 224), (256, 256), (320, 320))
"""What is tried where a network cannot run at that: a line of text, pictures of classifiers."""

MOST_UNNAMED = 3
"""Outputs of a recogniser beside its signs: for no sign, a space, an end."""

RANGE_PRESERVING = frozenset(
    (
        *("Cast", "Concat", "Flatten", "Identity", "Reshape", "Resize", "Slice", "Split"),
        *("Squeeze", "Transpose", "Unsqueeze", "Upsample"),
    )
)
"""Operators that move or resample values: their outputs have the range of their inputs."""

MAX_NAMED_SIDE = 4096  # pixels a side that metadata may ask for
MAX_METADATA = 200_000  # characters
MAX_STRIDE = 128
STRIDE_TOLERANCE = 0.25  # rows and columns of a grid are rounded, so its two strides may differ


def reads_lines(proto: onnx.ModelProto, shapes: Sequence[Sequence[int | None]]) -> bool:
    """Whether the outputs, of these shapes, are scores of the signs in the metadata at each place
    of a line, as of PaddleOCR's recognisers."""
    signs = next((p.value for p in proto.metadata_props if p.key == "character"), "")
    if not signs or len(shapes) != 1 or len(shapes[0]) != 3:
        return False
    return 1 <= (shapes[0][2] or 0) - len(signs.split("\n")) <= MOST_UNNAMED


def declared_shapes(proto: onnx.ModelProto) -> list[list[int]]:
    """Of the outputs; 0 for a size that is open."""
    dims = (output.type.tensor_type.shape.dim for output in proto.graph.output)
    return [[dim.dim_value for dim in each] for each in dims]


@dataclass(frozen=True, slots=True)
class OutputInfo:
    """One output of the network."""

    name: str
    shape: tuple[int | None, ...]
    """None where a size depends on the image."""
    element: str
    """ONNX Runtime's name of the type: "float"."""
    producers: frozenset[str]
    """Operators that its values come from, looking through those of RANGE_PRESERVING."""

    def __str__(self) -> str:
        return f"{self.name} " + "x".join("?" if d is None else str(d) for d in self.shape)


@dataclass(frozen=True)
class InspectedModel:
    """An ONNX file with an input of a certain size; every property is computed on first use."""

    path: Path
    size: tuple[int, int]
    """(H, W) of the input."""
    size_is_free: bool
    """The file fixes neither height nor width."""
    image_input: ImageInput
    side: SideInputs
    """What the other inputs are fed."""
    labels: tuple[str, ...] | None = None
    """Class names that are stated instead of those in the metadata."""

    @classmethod
    def open(
        cls,
        path: Path,
        size: tuple[int, int] | None = None,
        side: SideInputs | None = None,
        labels: tuple[str, ...] | None = None,
        layout: Layout | None = None,
    ) -> "InspectedModel":
        """The file at the size it fixes, else at `size`, else at the size in its metadata, else at
        DEFAULT_SIZE or, where the network cannot run at that, at the first of OTHER_SIZES.

        side: what inputs beside the picture are fed, and is not known. layout: of a file that
        leaves it open.
        """
        proto = read_onnx(path)
        image = find_image_input(proto, path, side, layout)
        beside = side_inputs(proto, side or SideInputs(), path.name)
        if image.size is not None:
            return cls(path, image.size, False, image, beside, labels)
        if size is None:
            match _metadata(proto).get("imgsz"):
                case [int(high), int(wide)] if (
                    0 < high <= MAX_NAMED_SIDE and 0 < wide <= MAX_NAMED_SIDE
                ):
                    size = high, wide
                case int(square) if 0 < square <= MAX_NAMED_SIDE:
                    size = square, square
                case _:
                    return cls._of_usual_size(proto, path, image, beside, labels)
        fixed = image.height or size[0], image.width or size[1]
        return cls(path, fixed, image.height is None and image.width is None, image, beside, labels)

    @classmethod
    def _of_usual_size(
        cls,
        proto: onnx.ModelProto,
        path: Path,
        image: ImageInput,
        beside: SideInputs,
        labels: tuple[str, ...] | None,
    ) -> "InspectedModel":
        """At the first usual size that the network runs at; one that is not DEFAULT_SIZE is fixed,
        for others may not do. Raises ModelError, of DEFAULT_SIZE, where none does."""
        is_line = reads_lines(proto, declared_shapes(proto))
        sizes = (*OTHER_SIZES, DEFAULT_SIZE) if is_line else (DEFAULT_SIZE, *OTHER_SIZES)
        refusals: dict[tuple[int, int], ModelError] = {}
        for size in sizes:
            is_free = size == DEFAULT_SIZE and image.height is None and image.width is None
            fixed = image.height or size[0], image.width or size[1]
            inspected = cls(path, fixed, is_free, image, beside, labels)
            try:
                _ = inspected.session
            except ModelError as error:
                refusals[size] = error
                continue
            return inspected
        height, width = DEFAULT_SIZE
        raise ModelError(
            f"{refusals[DEFAULT_SIZE]}; its input size is open and it does not run at "
            f"{height}x{width}: state one with --size HEIGHTxWIDTH"
        )

    @cached_property
    def cleaned(self) -> Path:
        return clean(self.path, self.size, self.side, self.image_input.layout)

    @cached_property
    def proto(self) -> onnx.ModelProto:
        return onnx.load(self.cleaned)

    @cached_property
    def metadata(self) -> dict[str, Any]:
        return _metadata(self.proto)

    @cached_property
    def outputs(self) -> tuple[OutputInfo, ...]:
        """In the graph's order, with the shapes that follow from the input's size; without those
        that are fed back, which come last."""
        ort_outputs = {v.name: v for v in self.session.get_outputs()}
        outputs = []
        for value in self.proto.graph.output:
            if value.name in self.side.state:
                continue
            ort_output = ort_outputs[value.name]
            dims = [d.dim_value or None for d in value.type.tensor_type.shape.dim]
            ort_dims = [d if isinstance(d, int) and d > 0 else None for d in ort_output.shape]
            shape = dims if len(dims) == len(ort_dims) and None not in dims else ort_dims
            element = ort_output.type.removeprefix("tensor(").removesuffix(")")
            outputs.append(
                OutputInfo(value.name, tuple(shape), element, self._producers(value.name))
            )
        return tuple(outputs)

    @property
    def shapes(self) -> list[tuple[int | None, ...]]:
        """Of the outputs."""
        return [o.shape for o in self.outputs]

    def inferred_shape(self, name: str) -> tuple[int, ...] | None:
        """Of a tensor inside the graph; None where it is not known."""
        return self._inferred_shapes.get(name)

    @cached_property
    def _inferred_shapes(self) -> dict[str, tuple[int, ...]]:
        shapes = {}
        for value in self.proto.graph.value_info:
            dims = tuple(d.dim_value for d in value.type.tensor_type.shape.dim)
            if value.type.tensor_type.HasField("shape") and all(d > 0 for d in dims):
                shapes[value.name] = dims
        return shapes

    @property
    def session(self) -> onnxruntime.InferenceSession:
        return self._endable.session

    @cached_property
    def _endable(self) -> EndableSession:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # errors are raised; nothing is printed
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            return EndableSession(
                str(self.cleaned), options, ["CPUExecutionProvider"], self.path.name
            )
        except Exception as e:  # ONNX Runtime's errors share no base class of their own
            raise ModelError(f"{self.path.name}: ONNX Runtime refuses it: {_last_line(e)}") from e

    def run_sample(self, low: float = 0.0, high: float = 1.0) -> list[NDArray[Any]]:
        """The outputs for the sample image, with black and white fed as low and high."""
        height, width = self.size
        channels = self.image_input.channels
        values = sample_image(height, width).astype(np.float64) / 255 * (high - low) + low
        if self.image_input.element == "uint8":
            values = sample_image(height, width).astype(np.float64)
        tensor = values[..., :channels].astype(self.image_input.element)[None]
        if self.image_input.layout == "nchw":
            tensor = np.ascontiguousarray(tensor.transpose(0, 3, 1, 2))
        try:
            names = [output.name for output in self.session.get_outputs()]
            chosen = [name for name in names if name not in self.side.state]
            feeds = {self.image_input.name: tensor, **zero_states(self.proto, self.side)}
            outputs: list[NDArray[Any]] = self._endable.run(chosen, feeds)
        except RunEndedError:
            raise
        except Exception as e:  # as above
            raise ModelError(
                f"{self.path.name}: ONNX Runtime cannot run it: {_last_line(e)}"
            ) from e
        return outputs

    @cached_property
    def sample_outputs(self) -> list[NDArray[Any]]:
        return self.run_sample()

    @cached_property
    def coarsest_stride(self) -> int:
        """Of the convolutions' grids: both sides of an input should be multiples of it."""
        values = {v.name: v for v in self.proto.graph.value_info}
        coarsest = 1
        for node in self.proto.graph.node:
            value = values.get(node.output[0])
            if node.op_type != "Conv" or value is None:
                continue
            # A Conv's output is NCHW whatever the layout of the file's input.
            dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
            if len(dims) == 4 and min(dims[2:]) > 1:
                down, across = self.size[0] / dims[2], self.size[1] / dims[3]
                # Otherwise it is a list of boxes, not a grid.
                if math.isclose(down, across, rel_tol=STRIDE_TOLERANCE):
                    coarsest = max(coarsest, round(down))
        return min(coarsest, MAX_STRIDE)

    def __str__(self) -> str:
        outputs = ", ".join(map(str, self.outputs))
        width, height = self.size[::-1]
        return f"input {self.image_input.name} {width}x{height}, outputs {outputs}"

    def _producers(self, name: str) -> frozenset[str]:
        writers = {out: node for node in self.proto.graph.node for out in node.output}
        producers: set[str] = set()
        queue, visited = [name], {name}
        while queue:
            node = writers.get(queue.pop())
            if node is None:
                continue
            if node.op_type not in RANGE_PRESERVING:
                producers.add(node.op_type)
                continue
            sources = node.input if node.op_type == "Concat" else node.input[:1]
            new = [s for s in sources if s not in visited]
            visited.update(new)
            queue.extend(new)
        return frozenset(producers)


def output_index(model: InspectedModel, *words: str) -> int | None:
    """The first output whose name contains one of the words, tried in order of preference."""
    for word in words:
        for index, output in enumerate(model.outputs):
            if word in output.name.lower():
                return index
    return None


def sample_image(height: int, width: int) -> NDArray[np.uint8]:
    """(H, W, 3): the same synthetic image every time, smooth and sharp, light and dark."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = [np.sin(x / 17 + 2 * i) * np.cos(y / 23 + i) for i in range(3)]
    image: NDArray[np.uint8] = np.clip(np.stack(waves, 2) * 100 + 128, 0, 255).astype(np.uint8)
    cv2.rectangle(image, (width // 5, height // 4), (width // 2, height // 2), (240, 60, 30), -1)
    cv2.circle(image, (2 * width // 3, height // 2), max(1, height // 5), (20, 40, 200), -1)
    return image


def _metadata(model: onnx.ModelProto) -> dict[str, Any]:
    """The exporter's metadata; values that are Python literals are parsed."""
    metadata: dict[str, Any] = {}
    for entry in model.metadata_props:
        if len(entry.value) > MAX_METADATA:
            continue
        try:
            metadata[entry.key] = ast.literal_eval(entry.value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            metadata[entry.key] = entry.value
    return metadata


def _last_line(error: Exception) -> str:
    """The last line of ONNX Runtime's message; those before it name its own source files."""
    lines: Sequence[str] = [line.strip() for line in str(error).splitlines() if line.strip()]
    return shortened(lines[-1]) if lines else type(error).__name__
