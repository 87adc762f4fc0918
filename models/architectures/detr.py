"""The parts of detection transformers: encoder layer, query selection, deformable attention.

Tokens and queries are (1, n, channels); boxes are centre, width and height, 0..1.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stillframe.models.architectures.attention import likened
from stillframe.models.architectures.builder import LIVELY, BuiltTensor, NetworkBuilder

CLASSES = 80
SCORE_OFFSET, SCORE_GAIN = -4.0, 1.5
"""Of the logits of classes: few of them are above 0, as after training."""
BRANCH = 0.5
"""Deviation of what a branch adds to the tokens."""
MOVE = 0.1
"""Deviation of what a layer adds to the logits of boxes: small, so that noise does not grow."""
EDGE = 0.01
"""Anchors nearer than this to 0 or 1 are not used."""

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Memory:
    """The maps that queries read, as one row of tokens."""

    tokens: BuiltTensor
    sides: tuple[Size, ...]
    """(H, W) of each level."""

    @property
    def counts(self) -> list[int]:
        return [height * width for height, width in self.sides]


class DetrBuilder(NetworkBuilder):
    """The layers that detection transformers share."""

    def activated(
        self,
        x: BuiltTensor,
        name: str,
        channels: int,
        kernel: int = 1,
        stride: int = 1,
        act: Literal["relu", "silu"] = "silu",
    ) -> BuiltTensor:
        y = self.conv(x, name, channels, kernel, stride=stride, offset=LIVELY)
        return self.relu(y) if act == "relu" else self.silu(y)

    def to_tokens(self, x: BuiltTensor) -> BuiltTensor:
        """(1, C, H, W) -> (1, H · W, C)."""
        return self.transpose(self.reshape(x, 1, x.channels, -1), 0, 2, 1)

    def to_picture(self, x: BuiltTensor, sides: Sequence[int]) -> BuiltTensor:
        return self.reshape(self.transpose(x, 0, 2, 1), 1, x.shape[-1], *sides)

    # --- attention ------------------------------------------------------------------------------

    def self_attention(
        self, x: BuiltTensor, value: BuiltTensor, name: str, heads: int
    ) -> BuiltTensor:
        """Queries and keys from x, values from `value`; four dense layers."""
        channels, count = x.shape[-1], x.shape[1]
        depth = channels // heads
        weight = self.uniform((channels, channels), channels**-0.5)
        drawn = self.uniform((channels, channels), channels**-0.5)
        likeness = likened(weight, drawn, depth, count)

        def split(y: BuiltTensor, *order: int) -> BuiltTensor:
            return self.transpose(self.reshape(y, 1, count, heads, depth), *order)

        q = self.linear(x, f"{name}.q", channels, weight=weight)
        k = self.linear(x, f"{name}.k", channels, weight=likeness)
        v = split(self.linear(value, f"{name}.v", channels), 0, 2, 1, 3)
        q = self.binary("Mul", split(q, 0, 2, 1, 3), self.constant(depth**-0.5))
        weights = self.softmax(self.matmul(q, split(k, 0, 2, 3, 1)), -1)
        merged = self.transpose(self.matmul(weights, v), 0, 2, 1, 3)
        merged = self.reshape(merged, 1, count, channels)
        return self.linear(merged, f"{name}.out_proj", channels, gain=BRANCH)

    def encoder_layer(self, x: BuiltTensor, name: str, hidden: int, heads: int = 8) -> BuiltTensor:
        """A map (1, C, H, W): every position attends to all, then a feed-forward part (AIFI)."""
        tokens = self.to_tokens(x)
        places = self.constant(sine_positions(x.shape[2], x.shape[3], x.channels))
        placed = self.binary("Add", tokens, places)
        y = self.self_attention(placed, tokens, f"{name}.self_attn", heads)
        tokens = self.layer_norm(self.binary("Add", tokens, y), f"{name}.norm1", 1e-5)
        y = self.gelu(self.linear(tokens, f"{name}.linear1", hidden))
        y = self.linear(y, f"{name}.linear2", x.channels, gain=BRANCH)
        tokens = self.layer_norm(self.binary("Add", tokens, y), f"{name}.norm2", 1e-5)
        return self.to_picture(tokens, x.shape[2:])

    def deformable_attention(
        self,
        query: BuiltTensor,
        boxes: BuiltTensor,
        memory: Memory,
        name: str,
        heads: int,
        points: Sequence[int],
        *,
        projected: bool,
    ) -> BuiltTensor:
        """Each query reads `points` places of each level around its box (Zhu et al. 2021).

        boxes: (1, n, 4). projected: whether values and the sum go through a dense layer.
        """
        count, channels = query.shape[1], query.shape[-1]
        depth, total = channels // heads, sum(points)
        value = memory.tokens
        if projected:
            value = self.linear(value, f"{name}.value_proj", channels)
        value = self.transpose(self.reshape(value, 1, -1, heads, depth), 0, 2, 3, 1)
        value = self.reshape(value, heads, depth, -1)
        levels = self.split(value, memory.counts, 2) if len(points) > 1 else [value]

        offsets = self.linear(query, f"{name}.sampling_offsets", heads * total * 2)
        offsets = self.reshape(offsets, 1, count, heads, total, 2)
        weights = self.linear(query, f"{name}.attention_weights", heads * total)
        weights = self.softmax(self.reshape(weights, 1, count, heads, total), -1)

        scale = np.concatenate([np.full(n, 0.5 / n) for n in points])[:, None]
        placed = self.reshape(boxes, 1, count, 1, 1, 4)
        offsets = self.binary("Mul", offsets, self.constant(scale))
        offsets = self.binary("Mul", offsets, self.slice(placed, 4, 2, 4))
        places = self.binary("Add", self.slice(placed, 4, 0, 2), offsets)
        grid = self.binary("Mul", places, self.constant(2.0))
        grid = self.binary("Sub", grid, self.constant(1.0))
        grid = self.reshape(self.transpose(grid, 0, 2, 1, 3, 4), heads, count, total, 2)
        grids = self.split(grid, points, 2) if len(points) > 1 else [grid]
        samples = []
        for level, part, sides in zip(levels, grids, memory.sides, strict=True):
            picture = self.reshape(level, heads, depth, *sides)
            samples.append(
                self.add_node(
                    "GridSample",
                    [picture, part],
                    mode="bilinear",
                    padding_mode="zeros",
                    align_corners=0,
                )
            )
        read = self.concat(samples, 3) if len(samples) > 1 else samples[0]
        weights = self.reshape(self.transpose(weights, 0, 2, 1, 3), heads, 1, count, total)
        product = self.binary("Mul", read, weights)
        summed = self.add_node("ReduceSum", [product, self.integers(-1)], keepdims=0)
        merged = self.transpose(self.reshape(summed, 1, channels, count), 0, 2, 1)
        if not projected:
            return merged
        return self.linear(merged, f"{name}.output_proj", channels, gain=BRANCH)

    # --- queries --------------------------------------------------------------------------------

    def perceptron(
        self, x: BuiltTensor, name: str, widths: Sequence[int], gain: float = 1.0
    ) -> BuiltTensor:
        """Dense layers with ReLU between them."""
        for index, width in enumerate(widths):
            last = index == len(widths) - 1
            offset, deviation = (0.0, gain) if last else (LIVELY, 1.0)
            x = self.linear(x, f"{name}.layers.{index}", width, gain=deviation, offset=offset)
            x = x if last else self.relu(x)
        return x

    def memory_of(self, maps: Sequence[BuiltTensor]) -> Memory:
        tokens = [self.to_tokens(m) for m in maps]
        sides = tuple((m.shape[2], m.shape[3]) for m in maps)
        return Memory(self.concat(tokens, 1) if len(tokens) > 1 else tokens[0], sides)

    def best_rows(self, scores: BuiltTensor, count: int) -> BuiltTensor:
        """Indices (1, count) of the rows with the highest score of any class."""
        highest = self.unary("ReduceMax", scores, axes=[-1], keepdims=0)
        return self.top_k(highest, min(count, scores.shape[1]))[1]

    def logit(self, x: BuiltTensor) -> BuiltTensor:
        """The inverse of the sigmoid, in six nodes."""
        low, zero, one = self.constant(1e-5), self.constant(0.0), self.constant(1.0)
        x = self.add_node("Clip", [x, zero, one])
        share = self.add_node("Clip", [x, low])
        rest = self.add_node("Clip", [self.binary("Sub", one, x), low])
        return self.unary("Log", self.binary("Div", share, rest))

    def scores(self, x: BuiltTensor, name: str, classes: int = CLASSES) -> BuiltTensor:
        return self.linear(x, name, classes, gain=SCORE_GAIN, offset=SCORE_OFFSET)


def sine_positions(height: int, width: int, channels: int) -> NDArray[np.float32]:
    """(1, H · W, channels): sine and cosine of x, then of y, at falling frequencies."""
    rates = 10000.0 ** -(np.arange(channels // 4) / (channels // 4))
    y, x = np.mgrid[:height, :width].reshape(2, -1, 1)
    parts = [np.sin(x * rates), np.cos(x * rates), np.sin(y * rates), np.cos(y * rates)]
    return np.concatenate(parts, 1)[None].astype(np.float32)


def anchors(sides: Sequence[Size]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Logits (1, n, 4) of a square box at every position, and 1 where it is used, else 0."""
    parts = []
    for level, (height, width) in enumerate(sides):
        y, x = np.mgrid[:height, :width] + 0.5
        side = np.full_like(x, 0.05 * 2**level)
        parts.append(np.stack([x / width, y / height, side, side], -1).reshape(-1, 4))
    boxes = np.concatenate(parts)[None]
    used = ((boxes > EDGE) & (boxes < 1 - EDGE)).all(-1, keepdims=True)
    logits = np.where(used, np.log(boxes / (1 - boxes)), np.finfo(np.float32).max)
    return np.asarray(logits, np.float32), np.asarray(used, np.float32)
