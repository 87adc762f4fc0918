"""MobileNetV3-Large (Howard et al. 2019) as a backbone, and SSDLite on it, with random weights.

The detector is the one of 320×320 with a halved tail (Sandler et al. 2018; torchvision's layers):
six maps, six boxes at each of their positions.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from numpy.typing import NDArray

from stillframe.errors import ModelError
from stillframe.models.architectures.builder import LIVELY, BuiltTensor, NetworkBuilder

SSD_CLASSES, SSD_BOXES = 91, 6
SSD_EXTRA = (512, 256, 256, 128)
GATE_OFFSET = 1.5
"""Mean before a gate's sigmoid: most of them are open."""

Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Inverted:
    """An inverted residual block."""

    kernel: int
    expanded: int
    channels: int
    gated: bool
    swish: bool
    stride: int = 1
    dilation: int = 1


def large(tail: int, dilation: int = 1) -> tuple[Inverted, ...]:
    """The blocks of MobileNetV3-Large. tail: channels of the last three; dilation: theirs."""
    last_stride = 1 if dilation > 1 else 2
    return (
        Inverted(3, 16, 16, gated=False, swish=False),
        Inverted(3, 64, 24, gated=False, swish=False, stride=2),
        Inverted(3, 72, 24, gated=False, swish=False),
        Inverted(5, 72, 40, gated=True, swish=False, stride=2),
        Inverted(5, 120, 40, gated=True, swish=False),
        Inverted(5, 120, 40, gated=True, swish=False),
        Inverted(3, 240, 80, gated=False, swish=True, stride=2),
        Inverted(3, 200, 80, gated=False, swish=True),
        Inverted(3, 184, 80, gated=False, swish=True),
        Inverted(3, 184, 80, gated=False, swish=True),
        Inverted(3, 480, 112, gated=True, swish=True),
        Inverted(3, 672, 112, gated=True, swish=True),
        Inverted(5, 672, tail, gated=True, swish=True, stride=last_stride, dilation=dilation),
        Inverted(5, 6 * tail, tail, gated=True, swish=True, dilation=dilation),
        Inverted(5, 6 * tail, tail, gated=True, swish=True, dilation=dilation),
    )


class MobileNetBuilder(NetworkBuilder):
    """The blocks of MobileNetV3."""

    def lively(
        self,
        x: BuiltTensor,
        name: str,
        channels: int,
        kernel: int = 1,
        *,
        swish: bool,
        stride: int = 1,
        groups: int = 1,
        dilation: int = 1,
    ) -> BuiltTensor:
        """A convolution and its activation, hard swish or ReLU."""
        y = self.conv(
            x,
            name,
            channels,
            kernel,
            stride=stride,
            groups=groups,
            dilation=dilation,
            offset=LIVELY,
        )
        return self.unary("HardSwish", y) if swish else self.relu(y)

    def gate(self, x: BuiltTensor, name: str) -> BuiltTensor:
        """Squeeze and excitation."""
        squeezed = max(8, (x.channels // 4 + 4) // 8 * 8)
        if squeezed < 0.9 * (x.channels // 4):
            squeezed += 8
        y = self.conv(self.global_pool(x), f"{name}.fc1", squeezed, offset=LIVELY)
        y = self.conv(self.relu(y), f"{name}.fc2", x.channels, offset=GATE_OFFSET)
        return self.binary("Mul", self.hard_sigmoid(y), x)

    def expanded(self, x: BuiltTensor, name: str, block: Inverted) -> BuiltTensor:
        if block.expanded == x.channels:
            return x
        return self.lively(x, f"{name}.expand", block.expanded, swish=block.swish)

    def projected(self, x: BuiltTensor, y: BuiltTensor, name: str, block: Inverted) -> BuiltTensor:
        """What follows the expansion y of x."""
        y = self.lively(
            y,
            f"{name}.depthwise",
            block.expanded,
            block.kernel,
            swish=block.swish,
            stride=block.stride,
            groups=block.expanded,
            dilation=block.dilation,
        )
        y = self.gate(y, f"{name}.se") if block.gated else y
        y = self.conv(y, f"{name}.project", block.channels)
        same = block.stride == 1 and x.channels == block.channels
        return self.binary("Add", x, y) if same else y

    def inverted(self, x: BuiltTensor, name: str, block: Inverted) -> BuiltTensor:
        return self.projected(x, self.expanded(x, name, block), name, block)

    # --- the head of SSDLite --------------------------------------------------------------------

    def smaller(self, x: BuiltTensor, name: str, channels: int) -> BuiltTensor:
        """An extra map at half the size."""
        half = channels // 2
        y = self.lively(x, f"{name}.0", half, swish=False)
        y = self.lively(y, f"{name}.1", half, 3, swish=False, stride=2, groups=half)
        return self.lively(y, f"{name}.2", channels, swish=False)

    def predicted(self, maps: Sequence[BuiltTensor], name: str, depth: int) -> BuiltTensor:
        """(1, boxes, depth) from all maps, a depthwise and a 1×1 convolution on each."""
        parts = []
        for level, x in enumerate(maps):
            y = self.lively(x, f"{name}.{level}.0", x.channels, 3, swish=False, groups=x.channels)
            y = self.conv(y, f"{name}.{level}.1", SSD_BOXES * depth)
            y = self.reshape(y, 1, SSD_BOXES, depth, *x.shape[2:])
            parts.append(self.reshape(self.transpose(y, 0, 3, 4, 1, 2), 1, -1, depth))
        return self.concat(parts, 1)

    def corners(self, offsets: BuiltTensor, sides: Sequence[Size]) -> BuiltTensor:
        """Offsets from the default boxes -> relative corners (1, boxes, 4)."""
        places = default_boxes(sides)
        centres, shapes = self.constant(places[..., :2]), self.constant(places[..., 2:])
        moved = self.binary("Mul", self.slice(offsets, 2, 0, 2), self.constant(0.1))
        centre = self.binary("Add", self.binary("Mul", moved, shapes), centres)
        grown = self.binary("Mul", self.slice(offsets, 2, 2, 4), self.constant(0.2))
        size = self.binary("Mul", self.unary("Exp", grown), shapes)
        half = self.binary("Mul", size, self.constant(0.5))
        edges = [self.binary("Sub", centre, half), self.binary("Add", centre, half)]
        return self.concat(edges, 2, "boxes")


def default_boxes(sides: Sequence[Size]) -> NDArray[np.float32]:
    """Centre, width and height, 0..1, of six boxes at every position of every map."""
    scales = [*np.linspace(0.2, 0.95, len(sides)), 1.0]
    parts = []
    for level, (height, width) in enumerate(sides):
        scale, between = scales[level], (scales[level] * scales[level + 1]) ** 0.5
        shapes = [(scale, scale), (between, between)]
        for ratio in (2, 3):
            root = ratio**0.5
            shapes += [(scale * root, scale / root), (scale / root, scale * root)]
        y, x = np.mgrid[:height, :width] + 0.5
        centres = np.stack([x / width, y / height], -1).reshape(-1, 1, 2)
        centres = np.broadcast_to(centres, (height * width, SSD_BOXES, 2))
        parts.append(np.concatenate([centres, np.broadcast_to(shapes, centres.shape)], 2))
    return np.concatenate([part.reshape(-1, 4) for part in parts])[None].astype(np.float32)


def ssdlite(size: Size | None = None, *, seed: int = 3) -> onnx.ModelProto:
    """input (1, 3, H, W), RGB -1..1 -> boxes (1, n, 4), relative corners, scores (1, n, 91).

    0.58 GMAC at 320×320, where n is 3234.
    """
    height, width = size or (320, 320)
    if height % 32 or width % 32 or min(height, width) < 64:
        raise ModelError(f"expected a size of multiples of 32, from 64, got {width}x{height}")
    b = MobileNetBuilder(seed)
    x = b.picture("input", (height, width), (0.5,) * 3, (0.5,) * 3)
    x = b.lively(x, "backbone.0", 16, 3, swish=True, stride=2)
    maps: list[BuiltTensor] = []
    for index, block in enumerate(large(80), 1):
        name = f"backbone.{index}"
        y = b.expanded(x, name, block)
        if index == 13:
            maps.append(y)
        x = b.projected(x, y, name, block)
    maps.append(b.lively(x, "backbone.16", 480, swish=True))
    for index, channels in enumerate(SSD_EXTRA):
        maps.append(b.smaller(maps[-1], f"backbone.extra.{index}", channels))
    scores = b.predicted(maps, "head.classification", SSD_CLASSES)
    offsets = b.predicted(maps, "head.regression", 4)
    boxes = b.corners(offsets, [(m.shape[2], m.shape[3]) for m in maps])
    return b.model(boxes, b.unary("Softmax", scores, "scores", axis=2))
