"""What can be seen of an unknown ONNX file: its outputs, what ends them, and what it answers.

Names and shapes come from the cleaned file; where they are not enough, the network is run once on a
drawn picture.
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

from stillframe.errors import ModelError
from stillframe.models.formats.cleaning import ImageInput, clean, image_input

DEFAULT_SIZE = (640, 640)
"""Where a file leaves its height and width open and does not say what it was made for."""

MOVING = frozenset(
    (
        *("Cast", "Concat", "Flatten", "Identity", "Reshape", "Resize", "Slice", "Split"),
        *("Squeeze", "Transpose", "Unsqueeze", "Upsample"),
    )
)
"""Operators that move values or resample them: what comes out ranges over what goes in."""

LARGEST = 4096  # pixels a side that a file may name
LONGEST_METADATA = 200_000  # characters
LARGEST_STRIDE = 128
UNEVEN = 0.25  # by which a grid's two strides may seem to differ, its sides being whole


@dataclass(frozen=True, slots=True)
class Output:
    """One output. shape: None where it depends on the picture. ends: the operators that its values
    come from, those that only move values left out."""

    name: str
    shape: tuple[int | None, ...]
    element: str
    ends: frozenset[str]

    def __str__(self) -> str:
        return f"{self.name} " + "x".join("?" if d is None else str(d) for d in self.shape)


@dataclass(frozen=True)
class Seen:
    """An ONNX file, looked at with an input of size (H, W). open: the file fixes no such size."""

    path: Path
    size: tuple[int, int]
    open: bool
    picture: ImageInput

    @classmethod
    def at(cls, path: Path, size: tuple[int, int] | None = None) -> "Seen":
        """The file at the size it fixes, else at the size asked for, else at one that it names."""
        picture = image_input(path)
        if picture.size is not None:
            return cls(path, picture.size, False, picture)
        if size is None:
            match _metadata(onnx.load(path, load_external_data=False)).get("imgsz"):
                case [int(high), int(wide)] if 0 < high <= LARGEST and 0 < wide <= LARGEST:
                    size = high, wide
                case int(side) if 0 < side <= LARGEST:
                    size = side, side
                case _:
                    size = DEFAULT_SIZE
        fixed = picture.height or size[0], picture.width or size[1]
        return cls(path, fixed, picture.height is None and picture.width is None, picture)

    @cached_property
    def cleaned(self) -> Path:
        return clean(self.path, self.size)

    @cached_property
    def model(self) -> onnx.ModelProto:
        return onnx.load(self.cleaned)

    @cached_property
    def metadata(self) -> dict[str, Any]:
        return _metadata(self.model)

    @cached_property
    def outputs(self) -> tuple[Output, ...]:
        """In the graph's order, with the shapes that follow from the input's size."""
        known = {v.name: v for v in self.session.get_outputs()}
        found = []
        for value in self.model.graph.output:
            dims = [d.dim_value or None for d in value.type.tensor_type.shape.dim]
            told = [d if isinstance(d, int) and d > 0 else None for d in known[value.name].shape]
            shape = dims if len(dims) == len(told) and None not in dims else told
            element = known[value.name].type.removeprefix("tensor(").removesuffix(")")
            found.append(Output(value.name, tuple(shape), element, self._ends(value.name)))
        return tuple(found)

    @property
    def shapes(self) -> list[tuple[int | None, ...]]:
        return [o.shape for o in self.outputs]

    @cached_property
    def session(self) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4  # faults are raised; nothing is printed
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        try:
            return onnxruntime.InferenceSession(
                str(self.cleaned), options, providers=["CPUExecutionProvider"]
            )
        except Exception as e:  # ONNX Runtime's errors share no base class of their own
            raise ModelError(f"{self.path.name}: ONNX Runtime refuses it: {_last_line(e)}") from e

    def answer(self, low: float = 0.0, high: float = 1.0) -> list[NDArray[Any]]:
        """The outputs for a drawn picture whose black and white are those values."""
        height, width = self.size
        channels = self.picture.channels
        values = drawn(height, width).astype(np.float64) / 255 * (high - low) + low
        if self.picture.element == "uint8":
            values = drawn(height, width).astype(np.float64)
        tensor = values[..., :channels].astype(self.picture.element)[None]
        if self.picture.layout == "nchw":
            tensor = np.ascontiguousarray(tensor.transpose(0, 3, 1, 2))
        try:
            outputs: list[NDArray[Any]] = self.session.run(None, {self.picture.name: tensor})
        except Exception as e:  # as above
            raise ModelError(
                f"{self.path.name}: ONNX Runtime cannot run it: {_last_line(e)}"
            ) from e
        return outputs

    @cached_property
    def first_answer(self) -> list[NDArray[Any]]:
        return self.answer()

    @cached_property
    def stride(self) -> int:
        """Of the coarsest grid inside: both sides of an input should be multiples of it."""
        values = {v.name: v for v in self.model.graph.value_info}
        coarsest = 1
        for node in self.model.graph.node:
            value = values.get(node.output[0])
            if node.op_type != "Conv" or value is None:
                continue
            # a convolution's output has its rows in the third place whatever the file's layout
            dims = [d.dim_value for d in value.type.tensor_type.shape.dim]
            if len(dims) == 4 and min(dims[2:]) > 1:
                down, across = self.size[0] / dims[2], self.size[1] / dims[3]
                if math.isclose(down, across, rel_tol=UNEVEN):  # else it is a list, not a grid
                    coarsest = max(coarsest, round(down))
        return min(coarsest, LARGEST_STRIDE)

    def __str__(self) -> str:
        got = ", ".join(map(str, self.outputs))
        return f"input {self.picture.name} {self.size[1]}x{self.size[0]}, outputs {got}"

    def _ends(self, name: str) -> frozenset[str]:
        makers = {out: node for node in self.model.graph.node for out in node.output}
        ends: set[str] = set()
        waiting, met = [name], {name}
        while waiting:
            node = makers.get(waiting.pop())
            if node is None:
                continue
            if node.op_type not in MOVING:
                ends.add(node.op_type)
                continue
            sources = node.input if node.op_type == "Concat" else node.input[:1]
            fresh = [s for s in sources if s not in met]
            met.update(fresh)
            waiting.extend(fresh)
        return frozenset(ends)


def drawn(height: int, width: int) -> NDArray[np.uint8]:
    """(H, W, 3) picture with smooth and sharp parts, light and dark, the same every time."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    waves = [np.sin(x / 17 + 2 * i) * np.cos(y / 23 + i) for i in range(3)]
    picture: NDArray[np.uint8] = np.clip(np.stack(waves, 2) * 100 + 128, 0, 255).astype(np.uint8)
    cv2.rectangle(picture, (width // 5, height // 4), (width // 2, height // 2), (240, 60, 30), -1)
    cv2.circle(picture, (2 * width // 3, height // 2), max(1, height // 5), (20, 40, 200), -1)
    return picture


def _metadata(model: onnx.ModelProto) -> dict[str, Any]:
    """What the exporter wrote beside the graph; Python literals are read as such."""
    found: dict[str, Any] = {}
    for entry in model.metadata_props:
        if len(entry.value) > LONGEST_METADATA:
            continue
        try:
            found[entry.key] = ast.literal_eval(entry.value)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found[entry.key] = entry.value
    return found


def _last_line(error: Exception) -> str:
    """What ONNX Runtime says at the end, where it stops naming its own source files."""
    lines: Sequence[str] = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1][-200:] if lines else type(error).__name__
