"""Small networks with attention, of the structure that today's detectors and depth models have."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tests.graph_cases import Step, ints, model, number

Array = NDArray[Any]


class Writer:
    """Writes the steps of a model one after the other; every method returns a tensor's name."""

    def __init__(self, seed: int = 0) -> None:
        self.rng = np.random.default_rng(seed)
        self.steps: list[Step] = []

    def add(self, op: str, *inputs: Any, **attrs: Any) -> str:
        output = f"t{len(self.steps)}"
        self.steps.append((op, list(inputs), output, attrs))
        return output

    def weights(self, *shape: int, fan_in: int) -> Array:
        return (self.rng.normal(size=shape) / np.sqrt(fan_in)).astype(np.float32)

    def conv(
        self,
        x: str,
        inside: int,
        out: int,
        kernel: int = 3,
        stride: int = 1,
        *,
        group: int = 1,
        act: bool = True,
    ) -> str:
        """Conv of the same padding, then SiLU."""
        fan_in = inside // group * kernel * kernel
        y = self.add(
            "Conv",
            x,
            self.weights(out, inside // group, kernel, kernel, fan_in=fan_in),
            self.weights(out, fan_in=10),
            pads=[kernel // 2] * 4,
            strides=[stride] * 2,
            group=group,
        )
        return self.add("Mul", y, self.add("Sigmoid", y)) if act else y

    def linear(self, x: str, inside: int, out: int) -> str:
        product = self.add("MatMul", x, self.weights(inside, out, fan_in=inside))
        return self.add("Add", product, self.weights(out, fan_in=10))

    def normalise(self, x: str, depth: int) -> str:
        """LayerNorm over the last axis."""
        gamma = (1 + self.rng.normal(size=depth) / 10).astype(np.float32)
        beta = self.weights(depth, fan_in=100)
        return self.add("LayerNormalization", x, gamma, beta, axis=-1, epsilon=1e-5)

    def psa(self, x: str, depth: int, size: tuple[int, int], heads: int = 2) -> str:
        """The attention block of YOLO10, 11 and 26: queries and keys of half the depth, a
        depthwise convolution of the values as position code, two residuals."""
        tokens, each = size[0] * size[1], depth // heads
        key = each // 2
        qkv = self.conv(x, depth, depth + 2 * heads * key, 1, act=False)
        split = self.add("Reshape", qkv, ints(1, heads, 2 * key + each, tokens))
        output = f"t{len(self.steps)}"
        names = [f"{output}q", f"{output}k", f"{output}v"]
        self.steps.append(("Split", [split, ints(key, key, each)], names, {"axis": 2}))
        q, k, v = names
        turned = self.add("Transpose", q, perm=[0, 1, 3, 2])
        scores = self.add("MatMul", turned, k)
        scores = self.add("Mul", scores, number(key**-0.5))
        shares = self.add("Softmax", scores, axis=-1)
        shares = self.add("Transpose", shares, perm=[0, 1, 3, 2])
        y = self.add("MatMul", v, shares)
        y = self.add("Reshape", y, ints(1, depth, *size))
        values = self.add("Reshape", v, ints(1, depth, *size))
        code = self.conv(values, depth, depth, 3, group=depth, act=False)
        y = self.conv(self.add("Add", y, code), depth, depth, 1, act=False)
        x = self.add("Add", x, y)
        inner = self.conv(x, depth, 2 * depth, 1)
        return self.add("Add", x, self.conv(inner, 2 * depth, depth, 1, act=False))

    def model(self, outputs: Sequence[str], size: tuple[int, ...]) -> bytes:
        return model(self.steps, {"x": size}, outputs)


def detector(height: int = 320, width: int = 320, seed: int = 0, depth: int = 32) -> bytes:
    """Five convolutions of stride 2, one attention block, six convolutions, as a YOLO has it."""
    net = Writer(seed)
    x = net.conv("x", 3, 8, 3, 2)
    for inside, out in ((8, 16), (16, 24), (24, depth), (depth, depth)):
        x = net.conv(x, inside, out, 3, 2)
    x = net.psa(x, depth, (height // 32, width // 32))
    for _ in range(6):
        x = net.conv(x, depth, depth)
    return net.model([x], (1, 3, height, width))


def area_detector(height: int = 128, width: int = 160, areas: int = 4, seed: int = 0) -> bytes:
    """Attention within horizontal strips of the flattened tokens, as YOLO12 has it."""
    net = Writer(seed)
    depth, heads, rows, columns = 32, 2, height // 8, width // 8
    tokens, each = rows * columns, depth // heads
    x = net.conv(net.conv(net.conv("x", 3, 8, 3, 2), 8, 16, 3, 2), 16, depth, 3, 2)
    qkv = net.conv(x, depth, 3 * depth, 1, act=False)
    flat = net.add("Reshape", qkv, ints(1, 3 * depth, tokens))
    flat = net.add("Transpose", flat, perm=[0, 2, 1])
    flat = net.add("Reshape", flat, ints(areas, tokens // areas, 3 * depth))
    heads_first = net.add("Reshape", flat, ints(areas, tokens // areas, heads, 3 * each))
    heads_first = net.add("Transpose", heads_first, perm=[0, 2, 3, 1])
    names = [f"s{number}" for number in range(3)]
    net.steps.append(("Split", [heads_first, ints(each, each, each)], names, {"axis": 2}))
    q, k, v = names
    scores = net.add("MatMul", net.add("Transpose", q, perm=[0, 1, 3, 2]), k)
    shares = net.add("Softmax", net.add("Mul", scores, number(each**-0.5)), axis=-1)
    y = net.add("MatMul", v, net.add("Transpose", shares, perm=[0, 1, 3, 2]))

    def picture(name: str) -> str:
        name = net.add("Transpose", name, perm=[0, 3, 1, 2])
        name = net.add("Reshape", name, ints(areas, tokens // areas, depth))
        name = net.add("Reshape", name, ints(1, tokens, depth))
        name = net.add("Reshape", name, ints(1, rows, columns, depth))
        return net.add("Transpose", name, perm=[0, 3, 1, 2])

    code = net.conv(picture(v), depth, depth, 7, group=depth, act=False)
    y = net.add("Add", picture(y), code)
    x = net.add("Add", x, net.conv(y, depth, depth, 1, act=False))
    x = net.add("Add", x, net.conv(net.conv(x, depth, 48, 1), 48, depth, 1, act=False))
    return net.model([net.conv(x, depth, 8)], (1, 3, height, width))


def cross_attention(side: int = 16, depth: int = 16, seed: int = 0) -> bytes:
    """Queries from the first three channels of x, keys and values from the last three: each side
    can change without the other."""
    net = Writer(seed)

    def part(of_queries: bool, out: int) -> str:
        weights = net.weights(out, 6, 1, 1, fan_in=3)
        weights[:, 3:] *= not of_queries
        weights[:, :3] *= of_queries
        return net.add("Reshape", net.add("Conv", "x", weights), ints(1, 1, out, side * side))

    q, k, v = part(True, depth), part(False, depth), part(False, depth)
    scores = net.add("MatMul", net.add("Transpose", q, perm=[0, 1, 3, 2]), k)
    shares = net.add("Softmax", net.add("Mul", scores, number(depth**-0.5)), axis=-1)
    y = net.add("MatMul", v, net.add("Transpose", shares, perm=[0, 1, 3, 2]))
    y = net.add("Reshape", y, ints(1, depth, side, side))
    return net.model([net.conv(y, depth, 8)], (1, 6, side, side))


def vit(
    height: int = 56,
    width: int = 70,
    *,
    patch: int = 7,
    depth: int = 24,
    heads: int = 3,
    blocks: int = 2,
    window: tuple[int, int] | None = None,
    class_token: bool = True,
    expanded: bool = False,
    seed: int = 0,
) -> bytes:
    """A vision transformer and a convolution of what it makes of the picture.

    window: rows and columns of tokens that attend to each other. expanded: LayerNorm and GELU in
    single operators.
    """
    net = Writer(seed)
    rows, columns = height // patch, width // patch
    count, each = rows * columns, depth // heads
    stem = net.weights(depth, 3, patch, patch, fan_in=3 * patch * patch)
    x = net.add("Conv", "x", stem, net.weights(depth, fan_in=10), strides=[patch, patch])
    x = net.add("Reshape", x, ints(1, depth, count))
    x = net.add("Transpose", x, perm=[0, 2, 1])
    if class_token:
        x = net.add("Concat", net.weights(1, 1, depth, fan_in=4), x, axis=1)
        count += 1
    x = net.add("Add", x, net.weights(1, count, depth, fan_in=4))
    for _ in range(blocks):
        y = normalised(net, x, depth) if expanded else net.normalise(x, depth)
        y = net.linear(y, depth, 3 * depth)
        batch, tokens = 1, count
        if window:
            down, across = rows // window[0], columns // window[1]
            y = net.add("Reshape", y, ints(1, down, window[0], across, window[1], 3 * depth))
            y = net.add("Transpose", y, perm=[0, 1, 3, 2, 4, 5])
            batch, tokens = down * across, window[0] * window[1]
        y = net.add("Reshape", y, ints(batch, tokens, 3, heads, each))
        y = net.add("Transpose", y, perm=[2, 0, 3, 1, 4])
        q, k, v = (net.add("Gather", y, np.array(at, np.int64), axis=0) for at in range(3))
        q = net.add("Mul", q, number(each**-0.5))
        shares = net.add("MatMul", q, net.add("Transpose", k, perm=[0, 1, 3, 2]))
        y = net.add("MatMul", net.add("Softmax", shares, axis=-1), v)
        y = net.add("Transpose", y, perm=[0, 2, 1, 3])
        y = net.add("Reshape", y, ints(batch, tokens, depth))
        if window:
            y = net.add("Reshape", y, ints(1, down, across, window[0], window[1], depth))
            y = net.add("Transpose", y, perm=[0, 1, 3, 2, 4, 5])
            y = net.add("Reshape", y, ints(1, count, depth))
        y = net.linear(y, depth, depth)
        x = net.add("Add", x, net.add("Mul", y, net.weights(depth, fan_in=4)))
        y = normalised(net, x, depth) if expanded else net.normalise(x, depth)
        y = net.linear(y, depth, 4 * depth)
        gate = net.add("Erf", net.add("Div", y, number(2**0.5)))
        y = net.add("Mul", net.add("Mul", y, net.add("Add", gate, number(1.0))), number(0.5))
        x = net.add("Add", x, net.linear(y, 4 * depth, depth))
    x = net.normalise(x, depth)
    if class_token:
        x = net.add("Slice", x, ints(1), ints(1 << 40), ints(1))
    x = net.add("Transpose", x, perm=[0, 2, 1])
    x = net.add("Reshape", x, ints(1, depth, rows, columns))
    return net.model([net.conv(x, depth, 5)], (1, 3, height, width))


def normalised(net: Writer, x: str, depth: int) -> str:
    """LayerNorm as exporters wrote it before it was one operator."""
    centred = net.add("Sub", x, net.add("ReduceMean", x, axes=[-1]))
    power = net.add("ReduceMean", net.add("Pow", centred, number(2.0)), axes=[-1])
    deviation = net.add("Sqrt", net.add("Add", power, number(1e-5)))
    y = net.add("Div", centred, deviation)
    y = net.add("Mul", y, (1 + net.rng.normal(size=depth) / 10).astype(np.float32))
    return net.add("Add", y, net.weights(depth, fan_in=100))


def bins_head(height: int = 64, width: int = 96, seed: int = 0) -> bytes:
    """The head of a YOLO: two maps of distances in bins and of scores, side by side as tokens."""
    net = Writer(seed)
    x = net.conv(net.conv("x", 3, 8, 3, 2), 8, 16, 3, 2)
    maps, count = [], 0
    for stride in (8, 16):
        x = net.conv(x, 16, 16, 3, 2)
        both = net.add(
            "Concat", net.conv(x, 16, 64, 1, act=False), net.conv(x, 16, 5, 1, act=False), axis=1
        )
        positions = (height // stride) * (width // stride)
        maps.append(net.add("Reshape", both, ints(1, 69, positions)))
        count += positions
    joined = net.add("Concat", *maps, axis=2)
    net.steps.append(("Split", [joined, ints(64, 5)], ["bins", "scores"], {"axis": 1}))
    bins = net.add("Reshape", "bins", ints(1, 4, 16, count))
    bins = net.add("Softmax", net.add("Transpose", bins, perm=[0, 2, 1, 3]), axis=1)
    distances = net.add("Conv", bins, np.arange(16, dtype=np.float32).reshape(1, 16, 1, 1))
    distances = net.add("Reshape", distances, ints(1, 4, count))
    near = net.add("Slice", distances, ints(0), ints(2), ints(1))
    far = net.add("Slice", distances, ints(2), ints(4), ints(1))
    anchors = net.weights(1, 2, count, fan_in=1)
    low, high = net.add("Sub", anchors, near), net.add("Add", anchors, far)
    middle = net.add("Div", net.add("Add", low, high), number(2.0))
    boxes = net.add("Concat", middle, net.add("Sub", high, low), axis=1)
    boxes = net.add("Mul", boxes, np.abs(net.weights(1, count, fan_in=1)))
    out = net.add("Concat", boxes, net.add("Sigmoid", "scores"), axis=1)
    return net.model([out], (1, 3, height, width))
