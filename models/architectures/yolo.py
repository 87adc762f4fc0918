"""YOLO11n, YOLO12n and YOLO26n with fixed random weights, as their exports write them.

Layers, channels and heads are those of the published configurations (Jocher and Qiu 2024; Tian,
Ye and Doermann 2025; Jocher and Qiu 2026) at scale n, with batch norms folded. Modules keep their
numbers: `model.10` is the one with index 10 there.
"""

from collections.abc import Callable
from functools import partial

import numpy as np
import onnx

from stillframe.errors import ModelError
from stillframe.models.architectures.attention import area_attention, position_attention
from stillframe.models.architectures.builder import LIVELY, BuiltTensor, NetworkBuilder
from stillframe.models.labels import COCO

STRIDES = (8, 16, 32)
DFL_BINS = 16
DETECTIONS = 300
"""Rows of an end-to-end head."""
CLASS_OFFSET, CLASS_GAIN = -5.0, 1.5
"""Of the logits of classes: few of them are above 0, as after training."""
NEARNESS = np.array([1, 1 / 3, 1 / 9, 1 / 27], np.float32)
"""Weights of pools of 1, 5, 9 and 13 positions: a position answers most to what is near it."""

Block = Callable[[BuiltTensor, str], BuiltTensor]
Size = tuple[int, int]


class YoloBuilder(NetworkBuilder):
    """The modules that the three networks share."""

    def conv_silu(
        self,
        x: BuiltTensor,
        name: str,
        channels: int,
        kernel: int = 1,
        stride: int = 1,
        groups: int = 1,
    ) -> BuiltTensor:
        y = self.conv(x, name, channels, kernel, stride=stride, groups=groups, offset=LIVELY)
        return self.silu(y)

    def bottleneck(self, x: BuiltTensor, name: str, share: float, skip: bool = True) -> BuiltTensor:
        """Two 3×3 convolutions around `share` of the channels."""
        y = self.conv_silu(x, f"{name}.cv1", int(x.channels * share), 3)
        y = self.conv_silu(y, f"{name}.cv2", x.channels, 3)
        return self.binary("Add", x, y) if skip else y

    def c3k(self, x: BuiltTensor, name: str, skip: bool = True) -> BuiltTensor:
        """Two bottlenecks beside a 1×1 convolution, each on half of the channels."""
        half = x.channels // 2
        y = self.conv_silu(x, f"{name}.cv1", half)
        for index in range(2):
            y = self.bottleneck(y, f"{name}.m.{index}", 1.0, skip)
        both = self.concat([y, self.conv_silu(x, f"{name}.cv2", half)], 1)
        return self.conv_silu(both, f"{name}.cv3", x.channels)

    def c3k2(
        self, x: BuiltTensor, name: str, channels: int, block: Block, share: float = 0.5
    ) -> BuiltTensor:
        """Half of the channels beside one block of the other half, and both through a 1×1."""
        half = int(channels * share)
        first, second = self.split(self.conv_silu(x, f"{name}.cv1", 2 * half), [half, half], 1)
        y = block(second, f"{name}.m.0")
        return self.conv_silu(self.concat([first, second, y], 1), f"{name}.cv2", channels)

    def sppf(self, x: BuiltTensor, name: str, *, residual: bool = False) -> BuiltTensor:
        """Three max pools in a row, all four maps through a 1×1 convolution."""
        y = self.conv(x, f"{name}.cv1", x.channels // 2)
        parts = [y if residual else self.silu(y)]
        for _ in range(3):
            parts.append(self.pool("MaxPool", parts[-1], 5, 1, 2))
        joined = self.concat(parts, 1)
        weight = self.uniform((x.channels, joined.channels, 1, 1), joined.channels**-0.5)
        weight *= np.repeat(NEARNESS, joined.channels // 4)[:, None, None]
        y = self.silu(self.conv(joined, f"{name}.cv2", x.channels, offset=LIVELY, weight=weight))
        return self.binary("Add", y, x) if residual else y

    def psa_block(self, x: BuiltTensor, name: str) -> BuiltTensor:
        """Attention between all positions and a 1×1 feed-forward part, each beside a skip."""
        heads = max(x.channels // 64, 1)
        attended = position_attention(self, x, f"{name}.attn", heads, key=x.channels // heads // 2)
        x = self.binary("Add", x, attended)
        y = self.conv_silu(x, f"{name}.ffn.0", 2 * x.channels)
        return self.binary("Add", x, self.conv(y, f"{name}.ffn.1", x.channels, gain=0.5))

    def c2psa(self, x: BuiltTensor, name: str) -> BuiltTensor:
        half = x.channels // 2
        first, second = self.split(self.conv_silu(x, f"{name}.cv1", 2 * half), [half, half], 1)
        second = self.psa_block(second, f"{name}.m.0")
        return self.conv_silu(self.concat([first, second], 1), f"{name}.cv2", x.channels)

    def area_block(self, x: BuiltTensor, name: str, areas: int) -> BuiltTensor:
        """Attention inside `areas` strips of the picture, and a 1×1 feed-forward part."""
        attended = area_attention(self, x, f"{name}.attn", x.channels // 32, areas)
        x = self.binary("Add", x, attended)
        y = self.conv_silu(x, f"{name}.mlp.0", 2 * x.channels)
        return self.binary("Add", x, self.conv(y, f"{name}.mlp.1", x.channels, gain=0.5))

    def a2c2f(
        self, x: BuiltTensor, name: str, channels: int, repeats: int, areas: int = 0
    ) -> BuiltTensor:
        """A chain of pairs of area blocks (C3k where areas is 0), all its maps through a 1×1."""
        parts = [self.conv_silu(x, f"{name}.cv1", channels // 2)]
        for index in range(repeats):
            y = parts[-1]
            if areas:
                for part in range(2):
                    y = self.area_block(y, f"{name}.m.{index}.{part}", areas)
            else:
                y = self.c3k(y, f"{name}.m.{index}")
            parts.append(y)
        return self.conv_silu(self.concat(parts, 1), f"{name}.cv2", channels)

    # --- the head -------------------------------------------------------------------------------

    def branches(
        self, x: BuiltTensor, name: str, level: int, bins: int, width: int, classes: int
    ) -> BuiltTensor:
        """One level: at each position 4 · bins numbers of the box, and the logits of classes."""
        reads = max(16, width // 4, bins * 4)
        box = self.conv_silu(x, f"{name}.cv2.{level}.0", reads, 3)
        box = self.conv_silu(box, f"{name}.cv2.{level}.1", reads, 3)
        box = self.conv(box, f"{name}.cv2.{level}.2", 4 * bins, offset=1.0)
        hidden, y = max(width, min(classes, 100)), x
        for part in range(2):
            y = self.conv_silu(y, f"{name}.cv3.{level}.{part}.0", y.channels, 3, groups=y.channels)
            y = self.conv_silu(y, f"{name}.cv3.{level}.{part}.1", hidden)
        scores = self.conv(
            y, f"{name}.cv3.{level}.2", classes, gain=CLASS_GAIN, offset=CLASS_OFFSET
        )
        return self.concat([box, scores], 1)

    def detect(
        self, levels: list[BuiltTensor], name: str, classes: int, *, bins: int, listed: bool
    ) -> BuiltTensor:
        """output0: (1, 4 + classes, positions), or the best 300 as (1, 300, 6) where listed."""
        width = levels[0].channels
        maps = [
            self.branches(x, name, level, bins, width, classes) for level, x in enumerate(levels)
        ]
        rows = self.concat([self.reshape(m, 1, m.channels, -1) for m in maps], 2)
        box, scores = self.split(rows, [4 * bins, classes], 1)
        positions = rows.shape[2]
        if bins > 1:
            box = self.transpose(self.reshape(box, 1, 4, bins, positions), 0, 2, 1, 3)
            weights = self.parameter(
                f"{name}.dfl.conv.weight", np.arange(bins, dtype=np.float32).reshape(1, bins, 1, 1)
            )
            bins_of = self.softmax(box, 1)
            box = self.add_node("Conv", [bins_of, weights], f"{name}.dfl", kernel_shape=[1, 1])
            box = self.reshape(box, 1, 4, positions)
        centres, strides = cells([m.shape[2:] for m in maps])
        anchors = self.constant(centres.T[None])
        low = self.binary("Sub", anchors, self.slice(box, 1, 0, 2))
        high = self.binary("Add", anchors, self.slice(box, 1, 2, 4))
        if listed:
            box = self.concat([low, high], 1)
        else:
            centre = self.binary("Div", self.binary("Add", low, high), self.constant(2.0))
            box = self.concat([centre, self.binary("Sub", high, low)], 1)
        box = self.binary("Mul", box, self.constant(strides[None]))
        scores = self.sigmoid(scores)
        if not listed:
            return self.concat([box, scores], 1, "output0")
        return self.best(self.transpose(self.concat([box, scores], 1), 0, 2, 1), classes)

    def best(self, rows: BuiltTensor, classes: int) -> BuiltTensor:
        """(1, n, 4 + classes) -> (1, 300, 6): corners, score, class, by falling score."""
        count = min(DETECTIONS, rows.shape[1])
        boxes, scores = self.split(rows, [4, classes], 2)
        highest = self.unary("ReduceMax", scores, axes=[-1], keepdims=0)
        _, index = self.top_k(highest, count)
        boxes, scores = self.gather_rows(boxes, index), self.gather_rows(scores, index)
        flat = self.reshape(scores, 1, -1)
        values, cells_of = self.top_k(flat, count)
        row = self.binary("Div", cells_of, self.integers(classes))
        kind = self.binary("Mod", cells_of, self.integers(classes))
        number = self.cast(kind, onnx.TensorProto.FLOAT)
        parts = [
            self.gather_rows(boxes, row),
            self.unsqueeze(values, -1),
            self.unsqueeze(number, -1),
        ]
        return self.concat(parts, 2, "output0")


def cells(maps: list[tuple[int, ...]]) -> tuple[np.ndarray, np.ndarray]:
    """Centres (n, 2) of all positions, x and y in cells of their map, and (1, n) strides."""
    centres, strides = [], []
    for (height, width), stride in zip(maps, STRIDES, strict=True):
        y, x = np.mgrid[:height, :width] + 0.5
        centres.append(np.stack([x, y], -1).reshape(-1, 2))
        strides.append(np.full(height * width, stride))
    return np.concatenate(centres).astype(np.float32), np.concatenate(strides)[None]


def yolo11n(size: Size | None = None, *, classes: int = 80, seed: int = 11) -> onnx.ModelProto:
    """images (1, 3, H, W) RGB 0..1 -> output0 (1, 84, positions). 3.2 GMAC at 640×640."""
    b, x = _start(size, seed)
    plain, deep = partial(b.bottleneck, share=0.5), b.c3k
    x = b.conv_silu(x, "model.0", 16, 3, 2)
    x = b.conv_silu(x, "model.1", 32, 3, 2)
    x = b.c3k2(x, "model.2", 64, plain, 0.25)
    x = b.conv_silu(x, "model.3", 64, 3, 2)
    p3 = b.c3k2(x, "model.4", 128, plain, 0.25)
    x = b.conv_silu(p3, "model.5", 128, 3, 2)
    p4 = b.c3k2(x, "model.6", 128, deep)
    x = b.conv_silu(p4, "model.7", 256, 3, 2)
    x = b.c3k2(x, "model.8", 256, deep)
    x = b.sppf(x, "model.9")
    p5 = b.c2psa(x, "model.10")
    up4 = b.c3k2(b.concat([b.doubled(p5), p4], 1), "model.13", 128, plain)
    out3 = b.c3k2(b.concat([b.doubled(up4), p3], 1), "model.16", 64, plain)
    x = b.concat([b.conv_silu(out3, "model.17", 64, 3, 2), up4], 1)
    out4 = b.c3k2(x, "model.19", 128, plain)
    x = b.concat([b.conv_silu(out4, "model.20", 128, 3, 2), p5], 1)
    out5 = b.c3k2(x, "model.22", 256, deep)
    out = b.detect([out3, out4, out5], "model.23", classes, bins=DFL_BINS, listed=False)
    return b.model(out, metadata=_metadata("YOLO11n", size, classes))


def yolo12n(size: Size | None = None, *, classes: int = 80, seed: int = 12) -> onnx.ModelProto:
    """images (1, 3, H, W) RGB 0..1 -> output0 (1, 84, positions). 3.2 GMAC at 640×640."""
    b, x = _start(size, seed)
    plain, deep = partial(b.bottleneck, share=0.5), b.c3k
    x = b.conv_silu(x, "model.0", 16, 3, 2)
    x = b.conv_silu(x, "model.1", 32, 3, 2)
    x = b.c3k2(x, "model.2", 64, plain, 0.25)
    x = b.conv_silu(x, "model.3", 64, 3, 2)
    p3 = b.c3k2(x, "model.4", 128, plain, 0.25)
    x = b.conv_silu(p3, "model.5", 128, 3, 2)
    p4 = b.a2c2f(x, "model.6", 128, 2, areas=4)
    x = b.conv_silu(p4, "model.7", 256, 3, 2)
    p5 = b.a2c2f(x, "model.8", 256, 2, areas=1)
    up4 = b.a2c2f(b.concat([b.doubled(p5), p4], 1), "model.11", 128, 1)
    out3 = b.a2c2f(b.concat([b.doubled(up4), p3], 1), "model.14", 64, 1)
    x = b.concat([b.conv_silu(out3, "model.15", 64, 3, 2), up4], 1)
    out4 = b.a2c2f(x, "model.17", 128, 1)
    x = b.concat([b.conv_silu(out4, "model.18", 128, 3, 2), p5], 1)
    out5 = b.c3k2(x, "model.20", 256, deep)
    out = b.detect([out3, out4, out5], "model.21", classes, bins=DFL_BINS, listed=False)
    return b.model(out, metadata=_metadata("YOLO12n", size, classes))


def yolo26n(size: Size | None = None, *, classes: int = 80, seed: int = 26) -> onnx.ModelProto:
    """images (1, 3, H, W) RGB 0..1 -> output0 (1, 300, 6). 2.7 GMAC at 640×640."""
    b, x = _start(size, seed)
    plain, deep = partial(b.bottleneck, share=0.5), b.c3k

    def attending(x: BuiltTensor, name: str) -> BuiltTensor:
        return b.psa_block(b.bottleneck(x, f"{name}.0", 0.5), f"{name}.1")

    x = b.conv_silu(x, "model.0", 16, 3, 2)
    x = b.conv_silu(x, "model.1", 32, 3, 2)
    x = b.c3k2(x, "model.2", 64, plain, 0.25)
    x = b.conv_silu(x, "model.3", 64, 3, 2)
    p3 = b.c3k2(x, "model.4", 128, plain, 0.25)
    x = b.conv_silu(p3, "model.5", 128, 3, 2)
    p4 = b.c3k2(x, "model.6", 128, deep)
    x = b.conv_silu(p4, "model.7", 256, 3, 2)
    x = b.c3k2(x, "model.8", 256, deep)
    x = b.sppf(x, "model.9", residual=True)
    p5 = b.c2psa(x, "model.10")
    up4 = b.c3k2(b.concat([b.doubled(p5), p4], 1), "model.13", 128, deep)
    out3 = b.c3k2(b.concat([b.doubled(up4), p3], 1), "model.16", 64, deep)
    x = b.concat([b.conv_silu(out3, "model.17", 64, 3, 2), up4], 1)
    out4 = b.c3k2(x, "model.19", 128, deep)
    x = b.concat([b.conv_silu(out4, "model.20", 128, 3, 2), p5], 1)
    out5 = b.c3k2(x, "model.22", 256, attending)
    out = b.detect([out3, out4, out5], "model.23", classes, bins=1, listed=True)
    return b.model(out, metadata=_metadata("YOLO26n", size, classes, listed=True))


def _start(size: Size | None, seed: int) -> tuple[YoloBuilder, BuiltTensor]:
    height, width = size or (640, 640)
    if height % 32 or width % 32 or min(height, width) < 32:
        raise ModelError(f"expected a size of multiples of 32, got {width}x{height}")
    b = YoloBuilder(seed)
    return b, b.picture("images", (height, width))


def _metadata(
    name: str, size: Size | None, classes: int, *, listed: bool = False
) -> dict[str, str]:
    """The keys and spellings that the family's exporter writes."""
    labels = dict(enumerate(COCO if classes == len(COCO) else map(str, range(classes))))
    return {
        "description": f"{name} layers with random weights",
        "author": "stillframe",
        "license": "Apache-2.0",
        "stride": str(STRIDES[-1]),
        "task": "detect",
        "batch": "1",
        "imgsz": str(list(size or (640, 640))),
        "names": str(labels),
        "args": "{'batch': 1, 'half': False, 'dynamic': False, 'simplify': True, 'nms': False}",
        "channels": "3",
        "end2end": str(listed),
    }
