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
