"""Small random networks in the engine's operators, for fuzzing: odd sizes, many joined branches."""

from collections.abc import Callable, Container, Sequence
from typing import Any

import numpy as np
from onnx import TensorProto, helper

from stillframe.reuse.frontend import resize_indices
from stillframe.reuse.ir.graph import ISLAND, Act, Array, Graph, Node, Port, Shape
from stillframe.reuse.ir.ops import OPS

ACTS = (
    *(Act(kind) for kind in ("relu", "sigmoid", "tanh", "hardswish", "silu", "mish", "gelu")),
    *(Act(kind) for kind in ("gelu_tanh", "softplus", "erf", "abs", "neg", "square")),
    Act("leaky", 0.1),
    Act("clip", -0.5, 0.8),
    Act("hardsigmoid", 0.2, 0.5),
    Act("elu", 0.7),
)
LARGEST = 40
"""No tensor gets more rows, columns or channels than this."""


class Builder:
    """A graph as it grows; `tensors` are all (H, W, C) tensors so far, in order."""

    def __init__(self, rng: np.random.Generator, shape: Shape) -> None:
        self.rng = rng
        self.nodes: list[Node] = []
        self.shapes: dict[str, Shape] = {"x": shape}
        self.constants: dict[str, Array] = {}
        self.tensors = ["x"]

    def chance(self, probability: float) -> bool:
        return bool(self.rng.random() < probability)

    def number(self, low: int, high: int) -> int:
        """low <= n <= high"""
        return int(self.rng.integers(low, high + 1))

    def pick(self, choices: Sequence[Any]) -> Any:
        return choices[self.number(0, len(choices) - 1)]

    def tensor(self) -> str:
        """Mostly a recent one, at times one far back: so branches arise."""
        back = min(int(self.rng.geometric(0.4)), len(self.tensors))
        return self.tensors[-back]

    def partner(self, name: str, same: bool) -> str | None:
        """Another tensor of the same shape (or only of the same rows and columns)."""
        size = 3 if same else 2
        partners = [
            other
            for other in self.tensors
            if other != name and self.shapes[other][:size] == self.shapes[name][:size]
        ]
        return self.pick(partners) if partners else None

    def constant(self, *shape: int, scale: float = 1.0, shift: float = 0.0) -> str:
        name = f"c{len(self.constants)}"
        self.constants[name] = (self.rng.normal(size=shape) * scale + shift).astype(np.float32)
        self.shapes[name] = shape
        return name

    def act(self, probability: float = 0.5) -> Act | None:
        return self.pick(ACTS) if self.chance(probability) else None

    def add(self, op: str, inputs: Sequence[str], **attrs: Any) -> bool:
        """False, and nothing added, where the output would be empty or too large."""
        shape = OPS[op].shape(attrs, [self.shapes[name] for name in inputs])
        if min(shape) < 1 or max(shape) > LARGEST:
            return False
        name = f"t{len(self.nodes)}"
        self.nodes.append(Node(op, tuple(inputs), (name,), attrs))
        self.shapes[name] = shape
        self.tensors.append(name)
        return True


def kernel(build: Builder, height: int, width: int) -> dict[str, Any]:
    """Half of the time one that keeps the size, so that branches can meet again."""
    if build.chance(0.5):
        before = ((height - 1) // 2, (width - 1) // 2)
        pads = (*before, height - 1 - before[0], width - 1 - before[1])
        return {"stride": (1, 1), "dilation": (1, 1), "pad": pads}
    return {
        "stride": (build.pick((1, 1, 1, 2)), build.pick((1, 1, 1, 2, 3))),
        "dilation": (build.pick((1, 1, 1, 2)), build.pick((1, 1, 1, 2))),
        "pad": tuple(build.number(0, 2) for _ in range(4)),
    }


def conv(build: Builder) -> bool:
    name = build.tensor()
    depth = build.shapes[name][2]
    group = build.pick((1, 1, 1, depth))
    height, width = build.pick(((1, 1), (1, 1), (3, 3), (3, 3), (2, 3), (5, 1)))
    channels = depth if group == depth and group > 1 else build.number(1, 19)
    attrs = {**kernel(build, height, width), "group": group, "act": build.act()}
    residual = None
    x = (*build.shapes[name][:2], 1)
    if OPS["Conv"].shape(attrs, [x, (height, width, 1, 1)]) == x and build.chance(0.6):
        residual = build.partner(name, same=group > 1)
        if residual is not None and group == 1:
            channels = build.shapes[residual][2]
    fan_in = height * width * depth // group
    weights = build.constant(height, width, depth // group, channels, scale=fan_in**-0.5)
    inputs = [name, weights, build.constant(channels, scale=0.2)]
    inputs += [residual] if residual is not None else []
    attrs["residual_first"] = residual is not None and build.chance(0.5)
    if build.chance(0.1):
        attrs["act"] = Act("prelu")
        inputs.append(build.constant(channels, scale=0.3))
    return build.add("Conv", inputs, **attrs)


def pool(build: Builder) -> bool:
    op = build.pick(("MaxPool", "AveragePool"))
    size = (build.number(1, 3), build.number(1, 4))
    attrs = kernel(build, *size)
    widest = [extent - 1 if attrs["dilation"] == (1, 1) else 0 for extent in size]
    pads = zip(attrs["pad"], (*widest, *widest), strict=True)
    attrs["pad"] = tuple(map(min, pads))  # so that every window holds a position of the picture
    attrs |= {"kernel": size, "ceil_mode": build.chance(0.3)}
    if op == "AveragePool":
        attrs["count_include_pad"] = build.chance(0.5)
    return build.add(op, [build.tensor()], **attrs)


def unary(build: Builder) -> bool:
    name = build.tensor()
    if build.chance(0.2):
        slopes = build.constant(build.shapes[name][2], scale=0.3)
        return build.add("Unary", [name, slopes], act=Act("prelu"))
    return build.add("Unary", [name], act=build.act(1.0))


def binary(build: Builder) -> bool:
    name = build.tensor()
    height, width, depth = build.shapes[name]
    kind = build.pick(("add", "add", "sub", "mul", "min", "max", "div"))
    other = build.partner(name, same=True)
    vectors = [each for each in build.tensors if build.shapes[each] == (1, 1, depth)]
    if vectors and build.chance(0.3):
        other = build.pick(vectors)
    if other is None or kind == "div" or build.chance(0.2):
        shape = build.pick(((1, 1, 1), (1, 1, depth), (height, width, 1), (height, width, depth)))
        other = build.constant(*shape)
        if kind == "div":
            build.constants[other] = np.abs(build.constants[other]) + np.float32(0.5)
    inputs = [other, name] if build.chance(0.3) and kind != "div" else [name, other]
    return build.add("Binary", inputs, kind=kind, act=build.act(0.3))


def affine(build: Builder) -> bool:
    name = build.tensor()
    depth = build.shapes[name][2]
    inputs = [name, build.constant(depth), build.constant(depth, scale=0.3)]
    return build.add("Affine", inputs, act=build.act(0.4))


def gate(build: Builder) -> bool:
    """Squeeze and excite: a vector of the whole picture scales the picture."""
    name = build.tensor()
    depth = build.shapes[name][2]
    middle = build.number(1, 5)
    if not build.add("GlobalPool", [name], kind=build.pick(("mean", "mean", "max"))):
        return False
    attrs = {"stride": (1, 1), "dilation": (1, 1), "pad": (0, 0, 0, 0), "group": 1}
    for before, after, act in ((depth, middle, "relu"), (middle, depth, "sigmoid")):
        weights = build.constant(1, 1, before, after, scale=before**-0.5)
        inputs = [build.tensors[-1], weights, build.constant(after, scale=0.2)]
        build.add("Conv", inputs, **attrs, act=Act(act), residual_first=False)
    return build.add("Binary", [name, build.tensors[-1]], kind="mul", act=build.act(0.2))


def normalise(build: Builder) -> bool:
    name = build.tensor()
    depth = build.shapes[name][2]
    inputs = [name, build.constant(depth, scale=0.2, shift=1.0), build.constant(depth)]
    if 2 * depth > LARGEST or not build.add("Moments", inputs, epsilon=1e-3):
        return False
    return build.add("Modulate", [name, build.tensors[-1]], act=build.act())


def softmax(build: Builder) -> bool:
    return build.add("Softmax", [build.tensor()])


def layer_norm(build: Builder) -> bool:
    name = build.tensor()
    depth = build.shapes[name][2]
    inputs = [name, build.constant(depth, scale=0.2, shift=1.0), build.constant(depth)]
    return build.add("LayerNorm", inputs, epsilon=1e-2, centred=build.chance(0.7))


def channel_max(build: Builder) -> bool:
    return build.add("ChannelMax", [build.tensor()], index=False)


def regrid(build: Builder) -> bool:
    name = build.tensor()
    count = build.shapes[name][0] * build.shapes[name][1]
    sizes = [(rows, count // rows) for rows in range(1, count + 1) if count % rows == 0]
    return build.add("Regrid", [name], size=build.pick((sizes[-1], build.pick(sizes))))


def attention(build: Builder) -> bool:
    """Of queries to keys of the same picture or another one; within windows where those fit."""
    queries = build.tensor()
    height, width, depth = build.shapes[queries]
    alike = [name for name in build.tensors if build.shapes[name][2] == depth]
    keys = build.pick((queries, queries, build.pick(alike)))
    grid = build.shapes[keys][:2]
    values = build.pick([name for name in build.tensors if build.shapes[name][:2] == grid])
    if height * width * grid[0] * grid[1] > 1 << 14:
        return False
    both = (depth, build.shapes[values][2])
    heads = build.pick([n for n in (1, 2, 3) if not any(size % n for size in both)])
    window = (height, width)
    if grid == window and build.chance(0.5):
        window = (
            build.pick([n for n in range(1, height + 1) if height % n == 0]),
            build.pick([n for n in range(1, width + 1) if width % n == 0]),
        )
    attrs = {"heads": heads, "scale": 0.3 / depth, "window": window}
    return build.add("Attention", [queries, keys, values], **attrs)


def concat(build: Builder) -> bool:
    name = build.tensor()
    axis = build.pick((0, 1, 2, 2, 2, 2))
    others = [name]
    for _ in range(build.number(1, 2)):
        partners = [
            other
            for other in build.tensors
            if all(build.shapes[other][i] == build.shapes[name][i] for i in range(3) if i != axis)
        ]
        others.append(build.pick(partners))
    return build.add("Concat", others, axis=axis)


def cut(build: Builder) -> bool:
    name = build.tensor()
    start, step, size = [], [], []
    for axis, length in enumerate(build.shapes[name]):
        begin = build.number(0, (length - 1) // 2)
        by = build.pick((1, 1, 2)) if axis < 2 else 1
        start.append(begin)
        step.append(by)
        size.append(build.number(1, (length - 1 - begin) // by + 1))
    return build.add("Slice", [name], start=tuple(start), step=tuple(step), size=tuple(size))


def pad(build: Builder) -> bool:
    name = build.tensor()
    mode = build.pick(("constant", "reflect", "edge"))
    most = [min(3, length - 1) if mode == "reflect" else 3 for length in build.shapes[name]]
    rows, cols = most[:2]
    amounts = [build.number(0, limit) for limit in (rows, cols, rows, cols)]
    depths = (build.number(0, 2), build.number(0, 2)) if mode == "constant" else (0, 0)
    value = float(build.pick((0.0, 0.25)))
    return build.add("Pad", [name], pad=(*amounts, *depths), mode=mode, value=value)


def resize(build: Builder) -> bool:
    name = build.tensor()
    mode = build.pick(("nearest", "linear"))
    coordinates = build.pick(tuple(resize_indices.COORDINATES))
    rounding = build.pick(tuple(resize_indices.ROUNDING))
    attrs = {}
    for key, length in zip(("rows", "cols"), build.shapes[name][:2], strict=True):
        out = build.pick((length, 2 * length, 2 * length, max(length // 2, 1), length + 3))
        attrs[key] = resize_indices.resize_taps(
            length, out, out / length, mode=mode, coordinates=coordinates, rounding=rounding
        )
    return build.add("Resize", [name], **attrs)


def blocks(build: Builder) -> bool:
    name = build.tensor()
    height, width, depth = build.shapes[name]
    block, mode = build.pick((2, 3)), build.pick(("DCR", "CRD"))
    if depth % block**2 == 0:
        return build.add("DepthToSpace", [name], block=block, mode=mode)
    if height % block == 0 and width % block == 0:
        return build.add("SpaceToDepth", [name], block=block, mode=mode)
    return False


def island(build: Builder) -> bool:
    """What only ONNX Runtime can run, point by point; Relu takes some changes back."""
    name, output = build.tensor(), f"t{len(build.nodes)}"
    shape = [1, *build.shapes[name]]
    steps = build.pick(([("Sin", name, output)], [("Sin", name, "i"), ("Relu", "i", output)]))
    value = helper.make_tensor_value_info
    graph = helper.make_graph(
        [helper.make_node(op, [read], [written]) for op, read, written in steps],
        "island",
        [value(name, TensorProto.FLOAT, shape)],
        [value(output, TensorProto.FLOAT, shape)],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    attrs = {
        "model": model.SerializeToString(),
        "reason": "no such operator",
        "reads": (port(name, build.shapes[name]),),
        "writes": (port(output, build.shapes[name]),),
        "multiply_adds": 0,
        "nodes": tuple(op for op, _, _ in steps),
    }
    build.nodes.append(Node(ISLAND, (name,), (output,), attrs))
    build.shapes[output] = build.shapes[name]
    build.tensors.append(output)
    return True


KINDS: tuple[tuple[float, Callable[[Builder], bool]], ...] = (
    (6, conv),
    (3, pool),
    (2, unary),
    (5, binary),
    (1, affine),
    (1, gate),
    (0.7, normalise),
    (0.7, softmax),
    (3, concat),
    (2, cut),
    (2, pad),
    (2, resize),
    (3, blocks),
)
"""How often each kind of node is tried, and what adds it."""
ISLANDS = (1.5, island)
TOKENS = ((2.0, layer_norm), (2.0, regrid), (3.0, attention), (0.7, channel_max))
"""What networks of tokens have as well, in every fifth graph."""


def random_graph(
    seed: int, *, nodes: int = 14, size: tuple[int, int] | None = None, wide: bool = False
) -> Graph:
    """A checked graph of at least `nodes` nodes with one input "x", (H, W, C) of size or random.

    The same seed gives the same graph. Its outputs are all tensors that no node reads, and one
    that others read as well. wide: up to two more inputs, of the same size or vectors, and islands.
    """
    rng = np.random.default_rng(seed)
    height, width = size or (int(rng.integers(5, 20)), int(rng.integers(5, 20)))
    build = Builder(rng, (height, width, int(rng.integers(1, 5))))
    for number in range(build.number(0, 2) if wide else 0):
        name = f"x{number}"
        build.shapes[name] = (height, width, build.number(1, 4))
        if build.chance(0.2):
            build.shapes[name] = (1, 1, build.shapes["x"][2])
        build.tensors.append(name)
    kinds = (*KINDS, ISLANDS) if wide else KINDS
    kinds = (*kinds, *TOKENS) if seed % 5 == 4 else kinds
    weights = np.array([weight for weight, _ in kinds])
    while len(build.nodes) < nodes:
        _, kind = kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]
        kind(build)
    read = {name for node in build.nodes for name in node.inputs}
    written = [name for node in build.nodes for name in node.outputs]
    outputs = [name for name in written if name not in read]
    inner = [name for name in written if name in read]
    outputs += [build.pick(inner)] if inner else []
    fed = [name for name in build.tensors if name not in written and (name in read or not wide)]
    region = {
        name for node in build.nodes if node.op != ISLAND for name in (*node.inputs, *node.outputs)
    }
    return Graph(
        nodes=tuple(at_border(node, region) for node in build.nodes),
        inputs=tuple(port(name, build.shapes[name], region) for name in fed),
        outputs=tuple(port(name, build.shapes[name], region) for name in outputs),
        shapes=build.shapes,
        constants=build.constants,
    ).check()


def at_border(node: Node, region: Container[str]) -> Node:
    """An island with the layouts of its ports."""
    if node.op != ISLAND:
        return node
    ports = {
        side: tuple(port(each.name, each.shape[1:], region) for each in node.attrs[side])
        for side in ("reads", "writes")
    }
    return node.with_(attrs={**node.attrs, **ports})


def port(name: str, shape: Shape, region: Container[str] | None = None) -> Port:
    """region: the tensors that more than islands touch; None: all."""
    layout = "NHWC" if region is None or name in region else "raw"
    return Port(name, (1, *shape), "float32", layout)
