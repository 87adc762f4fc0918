"""Robust Video Matting on MobileNetV3 (Lin et al. 2022), with fixed random weights.

A dilated MobileNetV3-Large, a gated pooling branch, a decoder whose four recurrent cells hand
their states to the next frame, and the guided filter that carries the result to full size.
"""

import numpy as np
import onnx

from stillframe.errors import ModelError
from stillframe.models.architectures.builder import LIVELY, BuiltTensor
from stillframe.models.architectures.mobilenet import MobileNetBuilder, Size, large

IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
STATES = {1: (16, 2), 2: (20, 4), 3: (40, 8), 4: (64, 16)}
"""Number of a state -> channels, stride."""
TAPS = {0: 1, 2: 2, 5: 3}
"""Index of a block -> the level of the map after it."""


class MattingBuilder(MobileNetBuilder):
    """The parts of the matting network."""

    def normalised(self, x: BuiltTensor) -> BuiltTensor:
        mean = self.constant(np.array(IMAGENET_MEAN).reshape(1, 3, 1, 1))
        spread = self.constant(np.array(IMAGENET_DEVIATION).reshape(1, 3, 1, 1))
        return self.binary("Div", self.binary("Sub", x, mean), spread)

    def backbone(self, x: BuiltTensor) -> dict[int, BuiltTensor]:
        """Level -> map: strides 2, 4, 8 and 16."""
        maps = {}
        x = self.lively(x, "backbone.features.0", 16, 3, swish=True, stride=2)
        for index, block in enumerate(large(160, dilation=2)):
            x = self.inverted(x, f"backbone.features.{index + 1}", block)
            if index in TAPS:
                maps[TAPS[index]] = x
        maps[4] = self.lively(x, "backbone.features.16", 960, swish=True)
        return maps

    def pooled_gate(self, x: BuiltTensor) -> BuiltTensor:
        """128 channels, each times a sigmoid of what the whole picture holds (LR-ASPP)."""
        y = self.relu(self.conv(x, "aspp.aspp1", 128, offset=LIVELY))
        gate = self.conv(self.global_pool(x), "aspp.aspp2", 128, bias=False)
        return self.binary("Mul", y, self.sigmoid(gate))

    def recurrent(
        self, x: BuiltTensor, state: BuiltTensor, name: str, level: int
    ) -> tuple[BuiltTensor, BuiltTensor]:
        """Half of the channels go through a recurrent cell. Returns the map and the new state."""
        half = x.channels // 2
        first, second = self.split(x, [half, half], 1)
        both = self.concat([second, state], 1)
        gates = self.sigmoid(self.conv(both, f"{name}.gru.ih", 2 * half, 3))
        reset, update = self.split(gates, [half, half], 1)
        both = self.concat([second, self.binary("Mul", reset, state)], 1)
        new = self.unary("Tanh", self.conv(both, f"{name}.gru.hh", half, 3))
        rest = self.binary("Sub", self.constant(1.0), update)
        state = self.binary(
            "Add",
            self.binary("Mul", rest, state),
            self.binary("Mul", update, new),
            f"r{level}o",
        )
        return self.concat([first, state], 1), state

    def upsampled(
        self, x: BuiltTensor, beside: list[BuiltTensor], name: str, channels: int
    ) -> BuiltTensor:
        sides = beside[0].shape[2:]
        y = self.concat([self.resized(x, sides), *beside], 1)
        return self.relu(self.conv(y, f"{name}.conv", channels, 3, offset=LIVELY))

    def box_filter(self, x: BuiltTensor) -> BuiltTensor:
        """The mean of 3×3 positions, as a depthwise convolution."""
        ninth = np.full((4, 1, 3, 3), 1 / 9)
        return self.add_node(
            "Conv", [x, self.constant(ninth)], kernel_shape=[3, 3], pads=[1] * 4, group=4
        )

    def guided(
        self, source: BuiltTensor, small: BuiltTensor, values: BuiltTensor, hidden: BuiltTensor
    ) -> BuiltTensor:
        """Four values at the small size -> the same at the source's, along its edges."""

        def with_mean(x: BuiltTensor) -> BuiltTensor:
            return self.concat([x, self.unary("ReduceMean", x, axes=[1], keepdims=1)], 1)

        fine, base = with_mean(source), with_mean(small)
        mean_x, mean_y = self.box_filter(base), self.box_filter(values)
        covariance = self.box_filter(self.binary("Mul", base, values))
        covariance = self.binary("Sub", covariance, self.binary("Mul", mean_x, mean_y))
        variance = self.box_filter(self.binary("Mul", base, base))
        variance = self.binary("Sub", variance, self.binary("Mul", mean_x, mean_x))
        y = self.concat([covariance, variance, hidden], 1)
        for index in range(2):
            y = self.relu(self.conv(y, f"refiner.conv.{index}", 16, offset=LIVELY))
        slope = self.conv(y, "refiner.conv.2", 4, gain=0.3)
        level = self.binary("Sub", mean_y, self.binary("Mul", slope, mean_x))
        slope, level = (self.resized(part, source.shape[2:]) for part in (slope, level))
        return self.binary("Add", self.binary("Mul", slope, fine), level)


def rvm(size: Size | None = None, *, ratio: float = 0.5, seed: int = 6) -> onnx.ModelProto:
    """src (1, 3, H, W) RGB 0..1 and states r1i … r4i -> fgr, pha and the states r1o … r4o.

    ratio: size of the network's own picture, which exports call downsample_ratio; fixed here.
    """
    height, width = size or (576, 1024)
    small = round(height * ratio), round(width * ratio)
    if small[0] % 16 or small[1] % 16 or min(small) < 16:
        raise ModelError(
            f"expected a size of multiples of {round(16 / ratio)}, got {width}x{height}"
        )
    b = MattingBuilder(seed)
    source = b.picture("src", (height, width))
    states = {
        level: b.input(
            f"r{level}i",
            np.zeros((1, channels, small[0] // stride, small[1] // stride), np.float32),
        )
        for level, (channels, stride) in STATES.items()
    }
    picture = b.resized(source, small)
    maps = b.backbone(b.normalised(picture))
    x = b.pooled_gate(maps[4])
    halves = {0: picture}
    for level in (1, 2, 3):
        halves[level] = b.pool("AveragePool", halves[level - 1], 2, 2)
    new: dict[int, BuiltTensor] = {}
    x, new[4] = b.recurrent(x, states[4], "decoder.decode4", 4)
    for level, channels in ((3, 80), (2, 40), (1, 32)):
        name = f"decoder.decode{level}"
        x = b.upsampled(x, [maps[level], halves[level]], name, channels)
        x, new[level] = b.recurrent(x, states[level], name, level)
    x = b.upsampled(x, [picture], "decoder.decode0.0", 16)
    hidden = b.relu(b.conv(x, "decoder.decode0.1", 16, 3, offset=LIVELY))
    values = b.conv(hidden, "project_mat", 4, gain=0.3, offset=0.3)
    residual, alpha = b.split(b.guided(source, picture, values, hidden), [3, 1], 1)
    low, high = b.constant(0.0), b.constant(1.0)
    front = b.add_node("Clip", [b.binary("Add", residual, source), low, high], "fgr")
    alpha = b.add_node("Clip", [alpha, low, high], "pha")
    return b.model(front, alpha, *(new[level] for level in STATES))
