"""RF-DETR nano (Robinson et al. 2025) with fixed random weights.

A DINOv2-S with patches of 16 pixels whose blocks attend inside four windows, all but three of
them; a projector to one map; 300 learnt queries placed at the best positions, two decoder layers
with deformable attention. Of the thirteen groups of queries that training has, an export keeps one.
"""

import math

import numpy as np
import onnx

from stillframe.errors import ModelError
from stillframe.models.architectures.builder import BuiltTensor
from stillframe.models.architectures.detr import BRANCH, MOVE, DetrBuilder, Memory, Size
from stillframe.models.architectures.vit import (
    BLOCKS,
    IMAGENET_DEVIATION,
    IMAGENET_MEAN,
    WIDTH,
    VitBuilder,
)

PATCH, WINDOWS = 16, 2
"""Pixels of a patch; windows along each side."""
JOINED = (3, 6, 9)
"""Blocks that attend across windows."""
TAPPED = (2, 5, 8, 11)
"""Blocks whose tokens the projector reads."""
CHANNELS, HIDDEN, QUERIES, LAYERS, CLASSES = 256, 2048, 300, 2, 91
SELF_HEADS, CROSS_HEADS, POINTS = 8, 16, (2,)


class RfDetrBuilder(VitBuilder, DetrBuilder):
    """The parts of RF-DETR."""

    def windowed(self, picture: BuiltTensor) -> BuiltTensor:
        """(4, 1 + n / 4, channels): the tokens of each window after one for the whole picture."""
        patches = self.conv(picture, "backbone.patch", WIDTH, PATCH, stride=PATCH, pad=0)
        rows, columns = patches.shape[2:]
        x = self.transpose(self.reshape(patches, 1, WIDTH, -1), 0, 2, 1)
        whole = self.parameter("backbone.cls", self.uniform((1, 1, WIDTH), 0.5))
        x = self.concat([whole, x], 1)
        places = self.parameter("backbone.positions", self.uniform(x.shape, 0.2))
        x = self.binary("Add", x, places)
        whole = self.slice(x, 1, 0, 1)
        x = self.slice(x, 1, 1, 1 + rows * columns)
        height, width = rows // WINDOWS, columns // WINDOWS
        x = self.reshape(x, 1, WINDOWS, height, WINDOWS, width, WIDTH)
        x = self.transpose(x, 0, 1, 3, 2, 4, 5)
        x = self.reshape(x, WINDOWS**2, height * width, WIDTH)
        whole = self.add_node("Tile", [whole, self.integers(WINDOWS**2, 1, 1)])
        return self.concat([whole, x], 1)

    def unwindowed(self, x: BuiltTensor, sides: Size) -> BuiltTensor:
        """The tokens of all windows -> a map (1, channels, H, W)."""
        height, width = sides[0] // WINDOWS, sides[1] // WINDOWS
        x = self.slice(x, 1, 1, x.shape[1])
        x = self.reshape(x, 1, WINDOWS, WINDOWS, height, width, WIDTH)
        x = self.reshape(self.transpose(x, 0, 1, 3, 2, 4, 5), 1, *sides, WIDTH)
        return self.transpose(x, 0, 3, 1, 2)

    def channel_norm(self, x: BuiltTensor, name: str) -> BuiltTensor:
        """A layer norm over the channels of a map."""
        y = self.layer_norm(self.transpose(x, 0, 2, 3, 1), name)
        return self.transpose(y, 0, 3, 1, 2)

    def normed(self, x: BuiltTensor, name: str, channels: int, kernel: int = 1) -> BuiltTensor:
        y = self.conv(x, f"{name}.conv", channels, kernel, bias=False)
        return self.silu(self.channel_norm(y, f"{name}.bn"))

    def projector(self, maps: list[BuiltTensor]) -> BuiltTensor:
        half = CHANNELS // 2
        x = self.normed(self.concat(maps, 1), "projector.cv1", CHANNELS)
        parts = self.split(x, [half, half], 1)
        for index in range(3):
            y = self.normed(parts[-1], f"projector.m.{index}.cv1", half, 3)
            parts.append(self.normed(y, f"projector.m.{index}.cv2", half, 3))
        x = self.normed(self.concat(parts, 1), "projector.cv2", CHANNELS)
        return self.channel_norm(x, "projector.norm")

    def moved(self, boxes: BuiltTensor, change: BuiltTensor, name: str = "") -> BuiltTensor:
        """Boxes whose centres move by shares of their sizes, which grow by a factor."""
        centre, size = self.slice(boxes, 2, 0, 2), self.slice(boxes, 2, 2, 4)
        step = self.binary("Mul", self.slice(change, 2, 0, 2), size)
        growth = self.unary("Exp", self.slice(change, 2, 2, 4))
        parts = [self.binary("Add", step, centre), self.binary("Mul", growth, size)]
        return self.concat(parts, 2, name)

    def chosen(self, memory: Memory) -> BuiltTensor:
        """The boxes of the best positions, moved by what each query has learnt."""
        ((height, width),) = memory.sides
        y, x = np.mgrid[:height, :width] + 0.5
        side = np.full_like(x, 0.05)
        places = np.stack([x / width, y / height, side, side], -1).reshape(1, -1, 4)
        tokens = self.linear(memory.tokens, "transformer.enc_output.0", CHANNELS)
        tokens = self.layer_norm(tokens, "transformer.enc_output_norm.0", 1e-5)
        rows = self.best_rows(self.scores(tokens, "transformer.enc_class_embed", CLASSES), QUERIES)
        widths = (CHANNELS, CHANNELS, 4)
        change = self.perceptron(tokens, "transformer.enc_bbox_embed", widths, MOVE)
        boxes = self.gather_rows(self.moved(self.constant(places), change), rows)
        learnt = self.uniform((1, boxes.shape[1], 4), MOVE)
        return self.moved(boxes, self.parameter("refpoint_embed", learnt))

    def sine_of(self, boxes: BuiltTensor) -> BuiltTensor:
        """(1, n, 4) -> (1, n, 512): sines and cosines of y, x, width and height."""
        count, depth = boxes.shape[1], CHANNELS // 2
        rates = 10000.0 ** -(2 * (np.arange(depth) // 2) / depth)
        parts = []
        for index in (1, 0, 2, 3):
            angle = self.binary("Mul", self.pick(boxes, index, 2), self.constant(2 * math.pi))
            angles = self.binary("Mul", self.unsqueeze(angle, -1), self.constant(rates))
            limits = (self.integers(start) for start in (0, depth, 2, 2))
            start, end, axis, step = limits
            even = self.add_node("Slice", [angles, start, end, axis, step])
            odd = self.add_node("Slice", [angles, self.integers(1), end, axis, step])
            pair = [self.unsqueeze(self.unary("Sin", even), 3)]
            pair.append(self.unsqueeze(self.unary("Cos", odd), 3))
            parts.append(self.reshape(self.concat(pair, 3), 1, count, depth))
        return self.concat(parts, 2)

    def decoder_layer(
        self, x: BuiltTensor, place: BuiltTensor, boxes: BuiltTensor, memory: Memory, name: str
    ) -> BuiltTensor:
        y = self.self_attention(self.binary("Add", x, place), x, f"{name}.self_attn", SELF_HEADS)
        x = self.layer_norm(self.binary("Add", x, y), f"{name}.norm1", 1e-5)
        y = self.deformable_attention(
            self.binary("Add", x, place),
            boxes,
            memory,
            f"{name}.cross_attn",
            CROSS_HEADS,
            POINTS,
            projected=True,
        )
        x = self.layer_norm(self.binary("Add", x, y), f"{name}.norm2", 1e-5)
        y = self.perceptron(x, f"{name}.ffn", (HIDDEN, CHANNELS), BRANCH)
        return self.layer_norm(self.binary("Add", x, y), f"{name}.norm3", 1e-5)


def rfdetr_nano(size: Size | None = None, *, seed: int = 7) -> onnx.ModelProto:
    """input (1, 3, H, W), normalised as ImageNet -> dets (1, 300, 4), labels (1, 300, 91).

    dets are centre, width and height, 0..1; labels are logits. 16 GMAC at 384×384.
    """
    height, width = size or (384, 384)
    if height % 32 or width % 32 or min(height, width) < 32:
        raise ModelError(f"expected a size of multiples of 32, got {width}x{height}")
    b = RfDetrBuilder(seed)
    x = b.windowed(b.picture("input", (height, width), IMAGENET_MEAN, IMAGENET_DEVIATION))
    sides = (height // PATCH, width // PATCH)
    maps = []
    for index in range(BLOCKS):
        x = b.block(x, f"backbone.{index}", packed=False, windows_joined=index in JOINED)
        if index in TAPPED:
            maps.append(b.unwindowed(b.layer_norm(x, f"backbone.layernorm.{index}"), sides))
    memory = b.memory_of([b.projector(maps)])
    boxes = b.chosen(memory)
    place = b.perceptron(b.sine_of(boxes), "transformer.ref_point_head", (CHANNELS, CHANNELS))
    x = b.parameter("query_feat", b.uniform((1, boxes.shape[1], CHANNELS), 1.0))
    for index in range(LAYERS):
        x = b.decoder_layer(x, place, boxes, memory, f"transformer.decoder.layers.{index}")
    x = b.layer_norm(x, "transformer.decoder.norm", 1e-5)
    change = b.perceptron(x, "bbox_embed", (CHANNELS, CHANNELS, 4), MOVE)
    return b.model(b.moved(boxes, change, "dets"), b.scores(x, "labels", CLASSES))
