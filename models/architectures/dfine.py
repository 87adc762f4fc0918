"""D-FINE-N (Peng et al. 2025) with fixed random weights.

An HGNetV2-B0 with learnt scales behind its activations, one encoder layer on the coarser of two
maps, fusion by split and shortened blocks, 300 queries, three decoder layers whose boxes are
distributions over distances. Branches that only training reads are left out, as the export does.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from stillframe.errors import ModelError
from stillframe.models.architectures.builder import LIVELY, BuiltTensor
from stillframe.models.architectures.detr import (
    BRANCH,
    CLASSES,
    MOVE,
    DetrBuilder,
    Memory,
    Size,
    anchors,
)

BINS, BOX_REACH = 33, 0.5
"""Bins of a distance, and what spaces them."""
BEST_BINS = 4
"""Highest bins that the quality of a box is estimated from."""


@dataclass(frozen=True, slots=True)
class HgStage:
    """One stage of the backbone."""

    middle: int
    channels: int
    blocks: int
    kernel: int
    light: bool
    """Whether its convolutions are a 1×1 and a depthwise one."""
    layers: int = 3


B0 = (
    HgStage(16, 64, 1, 3, light=False),
    HgStage(32, 256, 1, 3, light=False),
    HgStage(64, 512, 2, 5, light=True),
    HgStage(128, 1024, 1, 5, light=True),
)


class HgBuilder(DetrBuilder):
    """The backbone HGNetV2 as D-FINE and DEIM use it."""

    def scaled(self, x: BuiltTensor, name: str) -> BuiltTensor:
        """A learnt factor and offset for all channels."""
        x = self.binary("Mul", self.factors(f"{name}.scale", (1,)), x)
        return self.binary("Add", x, self.parameter(f"{name}.bias", self.uniform((1,), 0.05)))

    def lab(
        self,
        x: BuiltTensor,
        name: str,
        channels: int,
        kernel: int,
        stride: int = 1,
        groups: int = 1,
    ) -> BuiltTensor:
        """Convolution, ReLU and the learnt scale."""
        y = self.conv(x, name, channels, kernel, stride=stride, groups=groups, offset=LIVELY)
        return self.scaled(self.relu(y), f"{name}.lab")

    def stem(self, x: BuiltTensor, middle: int, channels: int) -> BuiltTensor:
        """A quarter of the size, with a pooled and a convolved half."""

        def padded(y: BuiltTensor) -> BuiltTensor:
            return self.add_node("Pad", [y, self.integers(0, 0, 0, 0, 0, 0, 1, 1)])

        def corner(y: BuiltTensor, name: str, count: int) -> BuiltTensor:
            y = self.conv(y, name, count, 2, pad=0, offset=LIVELY)
            return self.scaled(self.relu(y), f"{name}.lab")

        x = padded(self.lab(x, "backbone.stem.stem1", middle, 3, 2))
        y = corner(x, "backbone.stem.stem2a", middle // 2)
        y = corner(padded(y), "backbone.stem.stem2b", middle)
        both = self.concat([self.pool("MaxPool", x, 2, 1), y], 1)
        x = self.lab(both, "backbone.stem.stem3", middle, 3, 2)
        return self.lab(x, "backbone.stem.stem4", channels, 1)

    def stage(self, x: BuiltTensor, name: str, stage: HgStage, *, halve: bool) -> BuiltTensor:
        if halve:
            x = self.conv(x, f"{name}.downsample", x.channels, 3, stride=2, groups=x.channels)
        for index in range(stage.blocks):
            y = self.hg_block(x, f"{name}.blocks.{index}", stage)
            x = self.binary("Add", y, x) if index else y
        return x

    def hg_block(self, x: BuiltTensor, name: str, stage: HgStage) -> BuiltTensor:
        """A chain of convolutions; all its maps are squeezed and excited by 1×1 ones."""
        parts = [x]
        for index in range(stage.layers):
            y, layer = parts[-1], f"{name}.layers.{index}"
            if stage.light:
                y = self.conv(y, f"{layer}.conv1", stage.middle)
                y = self.lab(y, f"{layer}.conv2", stage.middle, stage.kernel, 1, stage.middle)
            else:
                y = self.lab(y, layer, stage.middle, stage.kernel)
            parts.append(y)
        y = self.lab(self.concat(parts, 1), f"{name}.aggregation.0", stage.channels // 2, 1)
        return self.lab(y, f"{name}.aggregation.1", stage.channels, 1)

    def hgnet(
        self, x: BuiltTensor, stages: Sequence[HgStage], stem: tuple[int, int]
    ) -> list[BuiltTensor]:
        """The maps of all stages: strides 4, 8, …"""
        maps = []
        x = self.stem(x, *stem)
        for index, stage in enumerate(stages):
            x = self.stage(x, f"backbone.stages.{index}", stage, halve=index > 0)
            maps.append(x)
        return maps

    # --- fusion ---------------------------------------------------------------------------------

    def elan(
        self, x: BuiltTensor, name: str, channels: int, narrow: int, depth: int
    ) -> BuiltTensor:
        """Split after a 1×1, two chains of narrow convolutions, all joined by a 1×1."""
        whole = self.activated(x, f"{name}.cv1", 2 * channels)
        parts = self.split(whole, [channels, channels], 1)
        for index in (2, 3):
            y = self.narrow_block(parts[-1], f"{name}.cv{index}.0", narrow, depth)
            parts.append(self.activated(y, f"{name}.cv{index}.1", narrow, 3))
        return self.activated(self.concat(parts, 1), f"{name}.cv4", channels)

    def narrow_block(self, x: BuiltTensor, name: str, channels: int, depth: int) -> BuiltTensor:
        """A chain of 3×3 convolutions beside a 1×1, summed."""
        y = self.activated(x, f"{name}.conv1", channels)
        for index in range(depth):
            y = self.activated(y, f"{name}.bottlenecks.{index}", channels, 3)
        return self.binary("Add", y, self.activated(x, f"{name}.conv2", channels))


@dataclass(frozen=True, slots=True)
class DecoderSizes:
    """The sizes of a decoder."""

    width: int
    hidden: int
    queries: int
    points: tuple[int, ...]
    heads: int = 8
    layers: int = 3


NANO = DecoderSizes(128, 512, 300, (6, 6))


class DFineBuilder(HgBuilder):
    """The decoder of D-FINE: boxes refined as distributions."""

    box_scale = 8.0
    """Distances are in shares of the box's size over this."""

    def sizes_input(self, name: str, sides: Size) -> BuiltTensor:
        """Width and height of the picture that boxes are placed on, (1, 2) int64."""
        return self.input(name, np.array([sides], np.int64))

    def gate(self, x: BuiltTensor, y: BuiltTensor, name: str) -> BuiltTensor:
        """Both, each times a gate of its own, normalised."""
        width = x.shape[-1]
        gates = self.sigmoid(self.linear(self.concat([x, y], 2), f"{name}.gate", 2 * width))
        first, second = self.split(gates, [width, width], 2)
        total = self.binary("Add", self.binary("Mul", first, x), self.binary("Mul", second, y))
        return self.layer_norm(total, f"{name}.norm", 1e-5)

    def decoder_layer(
        self,
        x: BuiltTensor,
        place: BuiltTensor,
        boxes: BuiltTensor,
        memory: Memory,
        name: str,
        sizes: DecoderSizes,
    ) -> BuiltTensor:
        y = self.self_attention(self.binary("Add", x, place), x, f"{name}.self_attn", sizes.heads)
        x = self.layer_norm(self.binary("Add", x, y), f"{name}.norm1", 1e-5)
        y = self.deformable_attention(
            self.binary("Add", x, place),
            boxes,
            memory,
            f"{name}.cross_attn",
            sizes.heads,
            sizes.points,
            projected=False,
        )
        x = self.gate(x, y, f"{name}.gateway")
        y = self.perceptron(x, f"{name}.ffn", (sizes.hidden, sizes.width), BRANCH)
        return self.layer_norm(self.binary("Add", x, y), f"{name}.norm3", 1e-5)

    def selected(self, memory: Memory, sizes: DecoderSizes) -> tuple[BuiltTensor, BuiltTensor]:
        """The best positions as queries, and their boxes."""
        width = sizes.width
        logits, used = anchors(memory.sides)
        x = self.binary("Mul", self.constant(used), memory.tokens)
        x = self.linear(x, "decoder.enc_output.proj", width)
        x = self.layer_norm(x, "decoder.enc_output.norm", 1e-5)
        rows = self.best_rows(self.scores(x, "decoder.enc_score_head"), sizes.queries)
        x, places = self.gather_rows(x, rows), self.gather_rows(self.constant(logits), rows)
        boxes = self.perceptron(x, "decoder.enc_bbox_head", (width, width, 4), MOVE)
        return x, self.sigmoid(self.binary("Add", boxes, places))

    def integral(self, corners: BuiltTensor) -> BuiltTensor:
        """(1, n, 4 · 33) logits of bins -> (1, n, 4) mean distances."""
        count = corners.shape[1]
        shares = self.softmax(self.reshape(corners, -1, BINS), 1)
        column = self.constant(bin_distances(self.box_scale)[:, None])
        return self.reshape(self.matmul(shares, column), 1, count, 4)

    def box_of(self, start: BuiltTensor, distances: BuiltTensor) -> BuiltTensor:
        """Distances from the centre of the start box, in shares of its size -> a box."""
        count = start.shape[1]
        sides = [self.pick(start, index, 2) for index in range(4)]
        half, scale = self.constant(0.5 * self.box_scale), self.constant(self.box_scale)
        edges = []
        for index in range(4):
            reach = self.binary("Add", half, self.pick(distances, index, 2))
            reach = self.binary("Mul", reach, self.binary("Div", sides[2 + index % 2], scale))
            edges.append(self.binary("Sub" if index < 2 else "Add", sides[index % 2], reach))
        two = self.constant(2.0)
        centre = [
            self.binary("Div", self.binary("Add", edges[i], edges[i + 2]), two) for i in (0, 1)
        ]
        size = [self.binary("Sub", edges[i + 2], edges[i]) for i in (0, 1)]
        return self.concat([self.reshape(part, 1, count, 1) for part in (*centre, *size)], 2)

    def quality(self, corners: BuiltTensor, name: str) -> BuiltTensor:
        """How sharp the distributions are, as a number added to the logits of the classes."""
        count = corners.shape[1]
        shares = self.softmax(self.reshape(corners, 1, count, 4, BINS), 3)
        best = self.top_k(shares, BEST_BINS)[0]
        mean = self.unary("ReduceMean", best, axes=[-1], keepdims=1)
        rows = self.reshape(self.concat([best, mean], 3), 1, count, -1)
        return self.perceptron(rows, f"{name}.reg_conf", (64, 1), BRANCH)

    def decoded(self, memory: Memory, sizes: DecoderSizes) -> tuple[BuiltTensor, BuiltTensor]:
        """Logits of the classes and boxes of the last layer."""
        width = sizes.width
        x, boxes = self.selected(memory, sizes)
        start = boxes
        before: BuiltTensor | None = None
        corners: BuiltTensor | None = None
        for index in range(sizes.layers):
            name = f"decoder.decoder.layers.{index}"
            place = self.perceptron(boxes, "decoder.query_pos_head", (2 * width, width))
            place = self.add_node("Clip", [place, self.constant(-10.0), self.constant(10.0)])
            x = self.decoder_layer(x, place, boxes, memory, name, sizes)
            if before is None:
                moved = self.perceptron(x, "decoder.pre_bbox_head", (width, width, 4), MOVE)
                start = self.sigmoid(self.binary("Add", moved, self.logit(boxes)))
            head = x if before is None else self.binary("Add", x, before)
            bins = (width, width, 4 * BINS)
            refined = self.perceptron(head, f"decoder.dec_bbox_head.{index}", bins)
            corners = refined if corners is None else self.binary("Add", refined, corners)
            boxes, before = self.box_of(start, self.integral(corners)), x
        assert corners is not None
        scores = self.scores(x, "decoder.dec_score_head")
        return self.binary("Add", scores, self.quality(corners, "decoder.lqe")), boxes

    def listed(
        self, scores: BuiltTensor, boxes: BuiltTensor, target: BuiltTensor, count: int
    ) -> list[BuiltTensor]:
        """labels, boxes (corners in pixels of the target) and scores, by falling score."""
        flat = self.reshape(self.sigmoid(scores), 1, -1)
        best, cells = self.top_k(flat, min(count, flat.shape[1]))
        classes = self.integers(CLASSES)
        labels = self.add_node("Mod", [cells, classes], "labels")
        rows = self.binary("Div", cells, classes)
        sides = [self.pick(boxes, index, 2) for index in range(4)]
        half = self.constant(0.5)
        reach = [self.binary("Mul", side, half) for side in sides[2:]]
        edges = [self.binary("Sub", sides[i], reach[i]) for i in (0, 1)]
        edges += [self.binary("Add", sides[i], reach[i]) for i in (0, 1)]
        corners = self.concat([self.unsqueeze(edge, -1) for edge in edges], 2)
        scale = self.cast(target, onnx.TensorProto.FLOAT)
        scale = self.unsqueeze(self.add_node("Tile", [scale, self.integers(1, 2)]), 1)
        placed = self.gather_rows(self.binary("Mul", corners, scale), rows)
        final = self.unary("Identity", placed, "boxes"), self.unary("Identity", best, "scores")
        return [labels, *final]


def bin_distances(scale: float) -> np.ndarray:
    """What each bin stands for: fine around 0, coarse towards both ends."""
    reach, half = BOX_REACH * scale, (BINS - 1) // 2
    step = (reach + 1) ** (1 / (half - 1))
    right = step ** np.arange(1, half) - 1
    return np.concatenate([[-2 * reach], -right[::-1], [0], right, [2 * reach]])


def dfine_n(size: Size | None = None, *, seed: int = 4) -> onnx.ModelProto:
    """images (1, 3, H, W) RGB 0..1 and orig_target_sizes (1, 2) -> labels, boxes, scores.

    Boxes are corners in pixels of the second input, width and height. 3.5 GMAC at 640×640.
    """
    height, width = size or (640, 640)
    if height % 32 or width % 32 or min(height, width) < 32:
        raise ModelError(f"expected a size of multiples of 32, got {width}x{height}")
    b = DFineBuilder(seed)
    picture = b.picture("images", (height, width))
    target = b.sizes_input("orig_target_sizes", (width, height))
    maps = b.hgnet(picture, B0, (16, 16))[2:]
    channels = NANO.width
    narrow, depth = round(0.34 * channels // 2), 2
    middle, coarse = (
        b.conv(m, f"encoder.input_proj.{index}", channels) for index, m in enumerate(maps)
    )
    coarse = b.encoder_layer(coarse, "encoder.encoder.0", NANO.hidden)
    coarse = b.conv(coarse, "encoder.lateral_convs.0", channels)
    joined = b.concat([b.doubled(coarse), middle], 1)
    middle = b.elan(joined, "encoder.fpn_blocks.0", channels, narrow, depth)
    y = b.conv(middle, "encoder.downsample_convs.0.cv1", channels)
    y = b.conv(y, "encoder.downsample_convs.0.cv2", channels, 3, stride=2, groups=channels)
    coarse = b.elan(b.concat([y, coarse], 1), "encoder.pan_blocks.0", channels, narrow, depth)
    scores, boxes = b.decoded(b.memory_of([middle, coarse]), NANO)
    return b.model(*b.listed(scores, boxes, target, NANO.queries))
