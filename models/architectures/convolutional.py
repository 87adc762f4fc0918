"""ResNet-50, VGG-16 and fast style transfer with fixed random weights.

ResNet-50 (He et al. 2016, with the stride in the 3×3) and VGG-16 (Simonyan and Zisserman 2015)
classify images; the style network repaints them (Johnson et al. 2016, with instance normalisation,
Ulyanov et al. 2017). Weights are drawn from a seed and scaled so that activations keep their
magnitude from layer to layer: the results mean nothing, the amount of work is the real one.

`width` multiplies every number of channels (tests use small ones). `size` is (H, W) of the input;
None leaves it free if the network allows that.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from stillframe.errors import ModelError

OPSET, IR_VERSION = 17, 8

RESNET50_STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))  # channels of the 3×3, blocks
VGG16_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels, convolutions
STYLE_RESIDUALS = 5

Size = tuple[int, int]


@dataclass(slots=True)
class ArchitectureBuilder:
    """A model under construction, from its input to its output, and its random weights."""

    seed: int
    proto: onnx.ModelProto = field(default_factory=onnx.ModelProto)
    channels: dict[str, int] = field(default_factory=lambda: {"image": 3})
    """Tensor name -> number of channels."""
    random: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """Add a constant, without copies: those of VGG-16 are half a gigabyte."""
        tensor = self.proto.graph.initializer.add()
        tensor.name = name
        tensor.dims.extend(values.shape)
        tensor.data_type = helper.np_dtype_to_tensor_dtype(values.dtype)
        tensor.raw_data = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
        return name

    def uniform(self, name: str, shape: Sequence[int], deviation: float) -> str:
        """Add a constant of uniform values around zero: drawn much faster than normal ones."""
        values = self.random.random(shape, np.float32)
        values -= np.float32(0.5)
        values *= np.float32(deviation * 12**0.5)
        return self.constant(name, values)

    def add(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.proto.graph.node.append(
            helper.make_node(op, list(inputs), [output], output, **attributes)
        )
        self.channels.setdefault(output, self.channels.get(inputs[0], 0))
        return output

    def conv(
        self,
        source: str,
        output: str,
        channels: int,
        size: int,
        *,
        stride: int = 1,
        pad: int | None = None,
        bias: bool = True,
    ) -> str:
        """A square convolution with He-scaled weights; pads with half the kernel by default."""
        in_channels = self.channels[source]
        deviation = (2.0 / (in_channels * size * size)) ** 0.5
        names = [
            source,
            self.uniform(f"{output}.weight", (channels, in_channels, size, size), deviation),
        ]
        if bias:
            names.append(self.uniform(f"{output}.bias", (channels,), 0.05))
        self.channels[output] = channels
        margin = size // 2 if pad is None else pad
        return self.add(
            "Conv",
            names,
            output,
            kernel_shape=[size, size],
            strides=[stride, stride],
            pads=[margin] * 4,
        )

    def batchnorm(self, source: str, output: str, gain: float = 1.0) -> str:
        """A batch norm near the identity times gain, as a trained one at inference."""
        count = self.channels[source]
        scale = self.random.uniform(0.8, 1.2, count).astype(np.float32) * np.float32(gain)
        names = [
            source,
            self.constant(f"{output}.scale", scale),
            self.uniform(f"{output}.bias", (count,), 0.05),
            self.uniform(f"{output}.mean", (count,), 0.05),
            self.constant(
                f"{output}.variance", self.random.uniform(0.8, 1.2, count).astype(np.float32)
            ),
        ]
        return self.add("BatchNormalization", names, output, epsilon=1e-5)

    def instancenorm(self, source: str, output: str) -> str:
        count = self.channels[source]
        scale = self.random.uniform(0.8, 1.2, count).astype(np.float32)
        names = [source, self.constant(f"{output}.scale", scale)]
        names.append(self.uniform(f"{output}.bias", (count,), 0.1))
        return self.add("InstanceNormalization", names, output, epsilon=1e-5)

    def relu(self, source: str) -> str:
        return self.add("Relu", [source], f"{source}.relu")

    def dense(self, source: str, output: str, inputs: int, outputs: int) -> str:
        weight = self.uniform(f"{output}.weight", (outputs, inputs), (2.0 / inputs) ** 0.5)
        bias = self.uniform(f"{output}.bias", (outputs,), 0.05)
        return self.add("Gemm", [source, weight, bias], output, transB=1)

    def model(self, size: Size | None, output: str, shape: Sequence[int | str]) -> onnx.ModelProto:
        """The finished model; size (H, W) of its input, None leaves it free."""
        free: Sequence[int | str] = ("height", "width")
        model, kind = self.proto, TensorProto.FLOAT
        sides = [1, 3, *(size or free)]
        model.graph.name = "architecture"
        model.graph.input.append(helper.make_tensor_value_info("image", kind, sides))
        model.graph.output.append(helper.make_tensor_value_info(output, kind, list(shape)))
        model.opset_import.append(helper.make_opsetid("", OPSET))
        model.ir_version = IR_VERSION
        model.producer_name = "stillframe"
        return model


def resnet50(
    size: Size | None = None, *, width: float = 1.0, classes: int = 1000, seed: int = 50
) -> onnx.ModelProto:
    """(1, 3, H, W) normalised RGB -> (1, classes) scores. 4.1 GMAC at 224×224."""
    b = ArchitectureBuilder(seed)
    x = b.conv("image", "stem", _wide(64, width), 7, stride=2, bias=False)
    x = b.relu(b.batchnorm(x, "stem.norm"))
    x = b.add("MaxPool", [x], "stem.pool", kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
    for stage, (count, blocks) in enumerate(RESNET50_STAGES, 1):
        inner, outer = _wide(count, width), _wide(count * 4, width)
        for block in range(1, blocks + 1):
            name = f"stage{stage}.block{block}"
            stride = 2 if stage > 1 and block == 1 else 1
            skip = x
            if block == 1:
                skip = b.conv(x, f"{name}.skip", outer, 1, stride=stride, bias=False)
                skip = b.batchnorm(skip, f"{name}.skip.norm", 0.7)
            x = b.conv(x, f"{name}.a", inner, 1, bias=False)
            x = b.relu(b.batchnorm(x, f"{name}.a.norm"))
            x = b.conv(x, f"{name}.b", inner, 3, stride=stride, bias=False)
            x = b.relu(b.batchnorm(x, f"{name}.b.norm"))
            x = b.conv(x, f"{name}.c", outer, 1, bias=False)
            x = b.batchnorm(x, f"{name}.c.norm", 0.4)  # small: a sum of many does not grow
            x = b.relu(b.add("Add", [x, skip], f"{name}.sum"))
    reads = b.channels[x]
    x = b.add("GlobalAveragePool", [x], "pool")
    x = b.add("Flatten", [x], "flat")
    return b.model(size, b.dense(x, "scores", reads, classes), (1, classes))


def vgg16(
    size: Size | None = None, *, width: float = 1.0, classes: int = 1000, seed: int = 16
) -> onnx.ModelProto:
    """(1, 3, H, W) normalised RGB -> (1, classes) scores. 15.5 GMAC and 138 M weights at 224×224.

    The first dense layer reads every position, so the size is fixed: 224×224 without one.
    """
    height, wide = size or (224, 224)
    if height % 32 or wide % 32 or min(height, wide) < 32:
        raise ModelError(f"vgg16: expected a size of multiples of 32, got {wide}x{height}")
    b = ArchitectureBuilder(seed)
    x = "image"
    for stage, (count, convolutions) in enumerate(VGG16_STAGES, 1):
        for index in range(1, convolutions + 1):
            x = b.relu(b.conv(x, f"conv{stage}_{index}", _wide(count, width), 3))
        x = b.add("MaxPool", [x], f"pool{stage}", kernel_shape=[2, 2], strides=[2, 2])
    reads, hidden = b.channels[x] * (height // 32) * (wide // 32), _wide(4096, width)
    x = b.add("Flatten", [x], "flat")
    x = b.relu(b.dense(x, "dense6", reads, hidden))
    x = b.relu(b.dense(x, "dense7", hidden, hidden))
    return b.model((height, wide), b.dense(x, "scores", hidden, classes), (1, classes))


def style(
    size: Size | None = None,
    *,
    width: float = 1.0,
    upsampling: Literal["nearest", "transposed"] = "nearest",
    seed: int = 9,
) -> onnx.ModelProto:
    """(1, 3, H, W) RGB 0..255 -> the same, repainted; sides are multiples of 4.

    Three convolutions down to a quarter, five residual blocks, two up, one 9×9 to an image; every
    convolution is padded by reflection. upsampling: each pixel doubled before a 3×3 convolution
    (Odena et al. 2016), or the fractionally strided convolution of the first version. 35.4 GMAC at
    640×360 with the former.
    """
    b = ArchitectureBuilder(seed)

    def conv(source: str, name: str, channels: int, kernel: int, stride: int = 1) -> str:
        pads = b.constant(f"{name}.pads", np.array([0, 0, kernel // 2, kernel // 2] * 2, np.int64))
        padded = b.add("Pad", [source, pads], f"{name}.pad", mode="reflect")
        return b.conv(padded, name, channels, kernel, stride=stride, pad=0)

    def up(source: str, name: str, channels: int) -> str:
        if upsampling == "nearest":
            factors = b.constant(f"{name}.factors", np.array([1, 1, 2, 2], np.float32))
            doubled = b.add(
                "Resize",
                [source, "", factors],
                f"{name}.double",
                mode="nearest",
                coordinate_transformation_mode="asymmetric",
                nearest_mode="floor",
            )
            return conv(doubled, name, channels, 3)
        reads = b.channels[source]
        shape, deviation = (reads, channels, 3, 3), (2.0 / (reads * 9 / 4)) ** 0.5
        weight = b.uniform(f"{name}.weight", shape, deviation)
        bias = b.uniform(f"{name}.bias", (channels,), 0.05)
        b.channels[name] = channels
        return b.add(
            "ConvTranspose",
            [source, weight, bias],
            name,
            kernel_shape=[3, 3],
            strides=[2, 2],
            pads=[1] * 4,
            output_padding=[1, 1],
        )

    def normed(source: str) -> str:
        return b.relu(b.instancenorm(source, f"{source}.norm"))

    counts = [_wide(count, width) for count in (32, 64, 128)]
    x = normed(conv("image", "down1", counts[0], 9))
    x = normed(conv(x, "down2", counts[1], 3, 2))
    x = normed(conv(x, "down3", counts[2], 3, 2))
    for block in range(1, STYLE_RESIDUALS + 1):
        inner = normed(conv(x, f"block{block}.a", counts[2], 3))
        inner = b.instancenorm(conv(inner, f"block{block}.b", counts[2], 3), f"block{block}.norm")
        x = b.add("Add", [inner, x], f"block{block}.sum")
    x = normed(up(x, "up1", counts[1]))
    x = normed(up(x, "up2", counts[0]))
    x = b.add("Tanh", [conv(x, "paint", 3, 9)], "paint.tanh")
    half = b.constant("half", np.array(127.5, np.float32))
    x = b.add("Add", [b.add("Mul", [x, half], "paint.span"), half], "styled")
    return b.model(size, x, (1, 3, *(size or ("out_height", "out_width"))))


def _wide(count: int, width: float) -> int:
    return max(1, round(count * width))
