"""Small graphs of the engine's operators for planner tests: by hand, and at random.

No numbers are computed here, so weights are zeros.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from stillframe.reuse.ir.graph import ISLAND, Act, Array, Graph, Node, Port, Shape
from stillframe.reuse.ir.ops import OPS

RELU = Act("relu")


@dataclass
class Net:
    """A graph under construction; every method adds one node and returns its output's name."""

    nodes: list[Node] = field(default_factory=list)
    inputs: list[Port] = field(default_factory=list)
    shapes: dict[str, Shape] = field(default_factory=dict)
    constants: dict[str, Array] = field(default_factory=dict)

    def input(self, height: int, width: int, channels: int, name: str = "x") -> str:
        self.inputs.append(Port(name, (1, height, width, channels), "float32", "NHWC"))
        self.shapes[name] = (height, width, channels)
        return name

    def constant(self, *shape: int) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = np.zeros(shape, np.float32)
        self.shapes[name] = shape
        return name

    def add(self, op: str, inputs: Sequence[str], name: str = "", **attrs: Any) -> str:
        name = name or f"{op.lower()}{len(self.nodes)}"
        shape = OPS[op].shape(attrs, [self.shapes[each] for each in inputs])
        if min(shape) < 1:
            raise ValueError(f"{name!r} would be empty: {shape}")
        self.nodes.append(Node(op, tuple(inputs), (name,), attrs))
        self.shapes[name] = shape
        return name

    def conv(
        self,
        source: str,
        channels: int = 2,
        kernel: tuple[int, int] = (3, 3),
        name: str = "",
        *,
        stride: tuple[int, int] = (1, 1),
        dilation: tuple[int, int] = (1, 1),
        pad: tuple[int, int, int, int] | None = None,
        residual: str | None = None,
    ) -> str:
        """pad: by default what keeps the size of an odd kernel at stride 1."""
        if pad is None:
            y, x = ((kernel[axis] - 1) * dilation[axis] // 2 for axis in (0, 1))
            pad = (y, x, y, x)
        weights = self.constant(*kernel, self.shapes[source][2], channels)
        return self.add(
            "Conv",
            [source, weights, self.constant(channels), *([residual] if residual else [])],
            name,
            stride=stride,
            pad=pad,
            dilation=dilation,
            group=1,
            act=RELU,
            residual_first=True,
        )

    def point(self, source: str, channels: int = 2, name: str = "", **kwargs: Any) -> str:
        return self.conv(source, channels, (1, 1), name, **kwargs)

    def pool(
        self,
        source: str,
        kernel: tuple[int, int] = (2, 2),
        stride: tuple[int, int] = (2, 2),
        name: str = "",
        pad: tuple[int, int, int, int] = (0, 0, 0, 0),
    ) -> str:
        return self.add(
            "MaxPool",
            [source],
            name,
            kernel=kernel,
            stride=stride,
            pad=pad,
            dilation=(1, 1),
            ceil_mode=False,
        )

    def unary(self, source: str, name: str = "") -> str:
        return self.add("Unary", [source], name, act=RELU)

    def binary(self, one: str, two: str, name: str = "") -> str:
        return self.add("Binary", [one, two], name, kind="add", act=None)

    def mean(self, source: str, name: str = "") -> str:
        return self.add("GlobalPool", [source], name, kind="mean")

    def moments(self, source: str, name: str = "") -> str:
        channels = self.shapes[source][2]
        gamma, beta = self.constant(channels), self.constant(channels)
        return self.add("Moments", [source, gamma, beta], name, epsilon=1e-5)

    def modulate(self, source: str, moments: str, name: str = "") -> str:
        return self.add("Modulate", [source, moments], name, act=None)

    def affine(self, source: str, name: str = "") -> str:
        channels = self.shapes[source][2]
        scale, shift = self.constant(channels), self.constant(channels)
        return self.add("Affine", [source, scale, shift], name, act=None)

    def concat(self, *parts: str, axis: int = 2, name: str = "") -> str:
        return self.add("Concat", parts, name, axis=axis)

    def cut(
        self,
        source: str,
        start: tuple[int, int, int] = (0, 0, 0),
        size: tuple[int, int, int] | None = None,
        step: tuple[int, int, int] = (1, 1, 1),
        name: str = "",
    ) -> str:
        """A Slice; by default as much as there is."""
        if size is None:
            shape = self.shapes[source]
            size = tuple(-(-(shape[i] - start[i]) // step[i]) for i in range(3))  # type: ignore[assignment]
        return self.add("Slice", [source], name, start=start, step=step, size=size)

    def pad(self, source: str, pad: tuple[int, ...], mode: str, name: str = "") -> str:
        return self.add("Pad", [source], name, pad=pad, mode=mode, value=0.0)

    def resize(self, source: str, height: int, width: int, linear: bool, name: str = "") -> str:
        """Half-pixel centres."""
        tables = []
        for size, read in ((height, self.shapes[source][0]), (width, self.shapes[source][1])):
            at = (np.arange(size) + 0.5) * read / size - 0.5
            low = np.clip(np.floor(at if linear else at + 0.5), 0, read - 1).astype(np.int32)
            high = np.minimum(low + 1, read - 1).astype(np.int32) if linear else low
            weight = np.clip(at - low, 0, 1) if linear else np.zeros(size)
            tables.append((low, high, np.where(high > low, weight, 0).astype(np.float32)))
        return self.add("Resize", [source], name, rows=tables[0], cols=tables[1])

    def blocks(self, op: str, source: str, block: int = 2, name: str = "") -> str:
        return self.add(op, [source], name, block=block, mode="DCR")

    def island(self, *sources: str, shape: Shape, name: str = "") -> str:
        name = name or f"island{len(self.nodes)}"
        reads = tuple(Port(each, self.shapes[each], "float32", "NHWC") for each in sources)
        writes = (Port(name, shape, "float32", "NHWC"),)
        attrs = {"model": b"", "reason": "", "reads": reads, "writes": writes, "nodes": ()}
        attrs["multiply_adds"] = 0
        self.nodes.append(Node(ISLAND, sources, (name,), attrs))
        self.shapes[name] = shape
        return name

    def graph(self, *outputs: str) -> Graph:
        ports = tuple(Port(name, (1, *self.shapes[name]), "float32", "NHWC") for name in outputs)
        return Graph(
            tuple(self.nodes), tuple(self.inputs), ports, self.shapes, self.constants
        ).check()


def random_net(seed: int, length: int = 14) -> Graph:
    """A net of every operator, with many joins: most tensors have one size and are read twice."""
    draw = random.Random(seed)
    net = Net()
    sizes = [(draw.randrange(5, 9), draw.randrange(5, 9)) for _ in range(1 + (draw.random() < 0.2))]
    tensors = [net.input(*size, 2, name=f"x{i}") for i, size in enumerate(sizes)]

    def pick() -> str:
        return tensors[-1] if draw.random() < 0.5 else draw.choice(tensors[-6:])

    def mate(name: str) -> str | None:
        """Another tensor of the same picture size, the same one now and then."""
        size = net.shapes[name][:2]
        fitting = [each for each in tensors[-9:] if net.shapes[each][:2] == size]
        other = [each for each in fitting if each != name]
        return draw.choice(other or fitting) if other or draw.random() < 0.2 else None

    def twin(name: str) -> str | None:
        other = mate(name)
        if other is None or net.shapes[other] != net.shapes[name]:
            return None
        return other

    while len(net.nodes) < length:
        source = pick()
        height, width, channels = net.shapes[source]
        choice = draw.random()
        if choice < 0.16 and min(height, width) > 3:
            kernel = draw.choice([(3, 3), (1, 3), (3, 1), (2, 2)])
            dilation = draw.choice([(1, 1), (1, 1), (2, 2), (1, 2)])
            new = net.conv(source, draw.randrange(1, 4), kernel, dilation=dilation)
        elif choice < 0.20:
            new = net.conv(
                source, 2, stride=draw.choice([(2, 2), (2, 1), (3, 3)]), pad=(1, 1, 1, 1)
            )
        elif choice < 0.34:
            other = twin(source)
            kernel = draw.choice([(1, 1), (1, 1), (3, 3)])
            new = net.conv(source, channels, kernel, residual=other)
        elif choice < 0.42:
            new = net.unary(source) if draw.random() < 0.7 else net.affine(source)
        elif choice < 0.45:
            new = net.add("Softmax", [source])
        elif choice < 0.62:
            other = twin(source)
            if other is None:
                continue
            new = net.binary(source, other)
        elif choice < 0.74:
            other = mate(source)
            if other is None:
                continue
            parts = [
                source,
                other,
                *([draw.choice([source, other])] if draw.random() < 0.2 else []),
            ]
            same = len({net.shapes[each] for each in parts}) == 1
            axis = draw.choice([0, 1, 2, 2]) if same and height + width < 16 else 2
            new = net.concat(*parts, axis=axis)
        elif choice < 0.82:
            if channels > 1 and draw.random() < 0.7:
                start = draw.randrange(channels)
                new = net.cut(source, (0, 0, start))
            elif min(height, width) > 3:
                steps = draw.choice([(2, 2, 1), (1, 1, 1)])
                new = net.cut(source, (1, 0, 0), (2, 2, channels), steps)
            else:
                continue
        elif choice < 0.86:
            kernel = draw.choice([(2, 2), (1, 2), (2, 1), (1, 1), (3, 3)])
            stride = (1, 1) if 1 in kernel or kernel == (3, 3) else (2, 2)
            if min(height, width) < 3:
                continue
            grow = int(kernel == (3, 3))
            new = net.pool(source, kernel, stride, pad=(grow, grow, grow, grow))
        elif choice < 0.90:
            squeezed = net.point(net.mean(pick()), channels)
            new = net.binary(source, squeezed)
        elif choice < 0.92:
            new = net.modulate(source, net.moments(source))
        elif choice < 0.94 and min(height, width) > 1:
            mode = draw.choice(["constant", "reflect", "edge"])
            new = net.pad(source, (1, 0, 0, 1, 0, 0), mode)
        elif choice < 0.96 and height + width < 16:
            new = net.resize(source, height + 2, width + 1, draw.random() < 0.5)
        elif choice < 0.98:
            if height % 2 == 0 and width % 2 == 0:
                new = net.blocks("SpaceToDepth", source)
            elif channels % 4 == 0:
                new = net.blocks("DepthToSpace", source)
            else:
                continue
        elif choice < 0.99:
            new = net.island(source, shape=(height, width, 2))
        else:
            continue
        tensors.append(new)
    read = {name for node in net.nodes for name in node.inputs}
    loose = [name for node in net.nodes for name in node.outputs if name not in read]
    return net.graph(*loose)
