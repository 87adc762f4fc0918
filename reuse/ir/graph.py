"""The graph of a network, between ONNX and the plan: four frozen classes and a check.

Every tensor of a region is (H, W, C) float32; batch is 1 and has no axis. Vectors, such as the
output of global pooling, are (1, 1, C). Tensors that only islands touch keep their ONNX shape.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]
Array = NDArray[Any]

ISLAND = "Island"
"""The operator that ONNX Runtime runs as a sub-model. Its attributes:

model: bytes of the ONNX model.
reads, writes: a Port per input and output, in order; the model uses the same names.
reason: why the engine cannot run it.
nodes: "operator name" of each ONNX node in it.
multiply_adds: of all of them; those of operators and shapes that are not known count as 0.
"""


@dataclass(frozen=True, slots=True)
class Act:
    """An activation function, applied to each number at the end of an operator."""

    kind: str
    """A key of `reference.ACTS`, or "prelu": its slopes, one a channel, are the last input."""
    a: float = 0.0
    """First parameter: slope of leaky, low of clip, alpha of hardsigmoid and elu."""
    b: float = 0.0
    """Second parameter: high of clip, beta of hardsigmoid."""


@dataclass(frozen=True, slots=True)
class Node:
    """One operator applied to tensors."""

    op: str
    """A key of `ops.OPS`, or ISLAND."""
    inputs: tuple[str, ...]
    """Names of tensors and constants."""
    outputs: tuple[str, ...]
    attrs: Mapping[str, Any] = field(default_factory=dict)

    @property
    def output(self) -> str:
        """The only output; only islands may have more."""
        (name,) = self.outputs
        return name

    def with_(self, **changes: Any) -> "Node":
        """A copy with other fields."""
        return replace(self, **changes)


@dataclass(frozen=True, slots=True)
class Port:
    """An ONNX tensor that enters or leaves the graph or an island."""

    name: str
    shape: Shape
    """ONNX shape; -1 for a size known only after a run."""
    dtype: str
    """NumPy's name: "float32"."""
    layout: str
    """How the (H, W, C) tensor maps to `shape`.

    "NHWC": the array, reshaped. "NCHW": its (C, H, W) transpose, reshaped. "raw": not at all, only
    islands touch this tensor and its graph shape is the ONNX shape.
    """


@dataclass(frozen=True, slots=True)
class Graph:
    """A network as the engine runs it."""

    nodes: tuple[Node, ...]
    """In execution order."""
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    shapes: Mapping[str, Shape]
    """Shape of every tensor and constant."""
    constants: Mapping[str, Array]
    notes: tuple[str, ...] = ()
    """What was changed in the model that a user should know."""

    def check(self) -> "Graph":
        """Raise ValueError naming the first node that breaks a rule; return the graph itself."""
        known = set(self.constants) | {port.name for port in self.inputs}
        for index, node in enumerate(self.nodes):
            where = f"node {index} {node.op} -> {', '.join(map(repr, node.outputs))}"
            for name in node.inputs:
                if name not in known:
                    raise ValueError(f"{where} reads {name!r} before anything writes it")
            for name in node.outputs:
                if name in known:
                    raise ValueError(f"{where} writes {name!r}, which is already written")
                if name not in self.shapes:
                    raise ValueError(f"{where}: the shape of {name!r} is not known")
                known.add(name)
        for port in self.outputs:
            if port.name not in known:
                raise ValueError(f"output {port.name!r} is not written by any node")
        for name, value in self.constants.items():
            if tuple(np.shape(value)) != tuple(self.shapes.get(name, ())):
                raise ValueError(
                    f"constant {name!r}: declared {self.shapes.get(name)}, is {np.shape(value)}"
                )
        return self

    def readers(self) -> dict[str, list[int]]:
        """Tensor name -> indices of the nodes that read it, in order."""
        readers: dict[str, list[int]] = {}
        for index, node in enumerate(self.nodes):
            for name in node.inputs:
                readers.setdefault(name, []).append(index)
        return readers
