"""Well-known networks with fixed random weights, for measuring work and memory without a download.

ResNet-50 and VGG-16 classify pictures (He et al. 2016 with the stride in the 3×3, Simonyan and
Zisserman 2015); the style network redraws them (Johnson et al. 2016 with instance normalisation,
Ulyanov et al. 2017). Weights are drawn from a seed, scaled so that activations keep their size from
layer to layer: what they compute means nothing, how much they compute is the real thing.

Sizes are parameters: `width` multiplies every number of channels (tests use small ones), `size` is
(H, W) of the input; None leaves it free where the network allows that.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper

from stillframe.cache_dir import cache_folder
from stillframe.errors import ModelError
from stillframe.models.weights.sealed import write_atomically

OPSET, IR_VERSION = 17, 8
VERSION = 1  # part of the file names in the cache: raise it when the weights or layers change

RESNET50_STAGES = ((64, 3), (128, 4), (256, 6), (512, 3))  # channels of the 3×3, blocks
VGG16_STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))  # channels, convolutions
STYLE_RESIDUALS = 5

Size = tuple[int, int]


@dataclass(slots=True)
class ArchitectureBuilder:
    """A graph being written from its input to its output, and the source of its weights."""

    seed: int
    made: onnx.ModelProto = field(default_factory=onnx.ModelProto)
    channels: dict[str, int] = field(default_factory=lambda: {"image": 3})
    random: np.random.Generator = field(init=False)

    def __post_init__(self) -> None:
        self.random = np.random.default_rng(self.seed)

    def constant(self, name: str, values: NDArray[Any]) -> str:
        """Written straight into the model: VGG-16's weights are half a gigabyte, copies hurt."""
        tensor = self.made.graph.initializer.add()
        tensor.name = name
        tensor.dims.extend(values.shape)
        tensor.data_type = helper.np_dtype_to_tensor_dtype(values.dtype)
        tensor.raw_data = values.astype(values.dtype.newbyteorder("<"), copy=False).tobytes()
        return name

    def spread(self, name: str, shape: Sequence[int], deviation: float) -> str:
        """Evenly spread values around zero: drawn much faster than normal ones, as good here."""
        values = self.random.random(shape, np.float32)
        values -= np.float32(0.5)
        values *= np.float32(deviation * 12**0.5)
        return self.constant(name, values)

    def add(self, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        self.made.graph.node.append(
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
        """A square convolution, He-scaled for the rectifier before it; padded with zeros."""
        reads = self.channels[source]
        deviation = (2.0 / (reads * size * size)) ** 0.5
        names = [source, self.spread(f"{output}.weight", (channels, reads, size, size), deviation)]
        if bias:
            names.append(self.spread(f"{output}.bias", (channels,), 0.05))
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
        """As a trained one in inference: four vectors, here near the identity times gain."""
        count = self.channels[source]
        scale = self.random.uniform(0.8, 1.2, count).astype(np.float32) * np.float32(gain)
        names = [
            source,
            self.constant(f"{output}.scale", scale),
            self.spread(f"{output}.bias", (count,), 0.05),
            self.spread(f"{output}.mean", (count,), 0.05),
            self.constant(
                f"{output}.variance", self.random.uniform(0.8, 1.2, count).astype(np.float32)
            ),
        ]
        return self.add("BatchNormalization", names, output, epsilon=1e-5)

    def instancenorm(self, source: str, output: str) -> str:
        count = self.channels[source]
        scale = self.random.uniform(0.8, 1.2, count).astype(np.float32)
        names = [source, self.constant(f"{output}.scale", scale)]
        names.append(self.spread(f"{output}.bias", (count,), 0.1))
        return self.add("InstanceNormalization", names, output, epsilon=1e-5)

    def relu(self, source: str) -> str:
        return self.add("Relu", [source], f"{source}.relu")

    def dense(self, source: str, output: str, reads: int, makes: int) -> str:
        weight = self.spread(f"{output}.weight", (makes, reads), (2.0 / reads) ** 0.5)
        bias = self.spread(f"{output}.bias", (makes,), 0.05)
        return self.add("Gemm", [source, weight, bias], output, transB=1)

    def model(self, size: Size | None, output: str, shape: Sequence[int | str]) -> onnx.ModelProto:
        free: Sequence[int | str] = ("height", "width")
        model, kind = self.made, TensorProto.FLOAT
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
        for place in range(1, convolutions + 1):
            x = b.relu(b.conv(x, f"conv{stage}_{place}", _wide(count, width), 3))
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
    """(1, 3, H, W) RGB 0..255 -> the same, redrawn; sides are multiples of 4.

    Three convolutions down to a quarter, five residual blocks, two up, one 9×9 to a picture; every
    convolution is padded by reflection. upsampling: each pixel doubled before a 3×3 convolution
    (Odena et al. 2016), or the fractionally strided convolution of the first version. 35.4 GMAC at
    640×360 with the former.
    """
    b = ArchitectureBuilder(seed)

    def conv(source: str, name: str, channels: int, kernel: int, stride: int = 1) -> str:
        ring = b.constant(f"{name}.ring", np.array([0, 0, kernel // 2, kernel // 2] * 2, np.int64))
        padded = b.add("Pad", [source, ring], f"{name}.pad", mode="reflect")
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
        weight = b.spread(f"{name}.weight", shape, deviation)
        bias = b.spread(f"{name}.bias", (channels,), 0.05)
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


ARCHITECTURES: dict[str, Callable[..., onnx.ModelProto]] = {
    "resnet50": resnet50,
    "vgg16": vgg16,
    "style": style,
}


def path(name: str, size: Size | None = None, **options: Any) -> Path:
    """The network's ONNX file in the cache, written if need be."""
    build = ARCHITECTURES.get(name)
    if build is None:
        raise ModelError(f"unknown architecture {name!r}: one of {', '.join(ARCHITECTURES)}")
    parts = [f"v{VERSION}", *(str(side) for side in size or ())]
    parts += [f"{key}-{value}" for key, value in sorted(options.items())]
    file = cache_folder() / "architectures" / f"{name}.{'.'.join(parts)}.onnx"
    if not file.exists():
        write_atomically(file, build(size, **options).SerializeToString())
    return file
