"""DINOv2-S and Depth Anything V2-S with fixed random weights.

The vision transformer is ViT-S/14 (Oquab et al. 2023): twelve blocks of 384 channels and six heads,
layer scale, no registers. Depth Anything V2 (Yang et al. 2024) puts a dense prediction head
(Ranftl et al. 2021) on four of its blocks. The embedding of positions is written for the size of
the input, as exporters fold its interpolation.
"""

import numpy as np
import onnx

from stillframe.errors import ModelError
from stillframe.models.architectures.attention import likened
from stillframe.models.architectures.builder import LIVELY, BuiltTensor, NetworkBuilder

PATCH, WIDTH, HEADS, BLOCKS = 14, 384, 6, 12
TAPPED = (2, 5, 8, 11)
"""Indices of the blocks that the dense prediction head reads."""
HEAD_WIDTH = 64
HEAD_CHANNELS = (48, 96, 192, 384)
BRANCH = 0.5
"""Deviation of what attention and the dense layers add to the tokens."""
IMAGENET_MEAN, IMAGENET_DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Size = tuple[int, int]


class VitBuilder(NetworkBuilder):
    """The parts of a vision transformer: tokens are (windows, n, channels)."""

    def tokens(self, picture: BuiltTensor, name: str) -> BuiltTensor:
        """Patches of the picture, one token for the whole before them, and their positions."""
        patches = self.conv(picture, f"{name}.patch", WIDTH, PATCH, stride=PATCH, pad=0)
        rows = self.transpose(self.reshape(patches, 1, WIDTH, -1), 0, 2, 1)
        whole = self.parameter(f"{name}.cls", self.uniform((1, 1, WIDTH), 0.5))
        x = self.concat([whole, rows], 1)
        places = self.parameter(f"{name}.positions", self.uniform(x.shape, 0.2))
        return self.binary("Add", x, places)

    def block(
        self, x: BuiltTensor, name: str, *, packed: bool, windows_joined: bool = False
    ) -> BuiltTensor:
        """Attention and a feed-forward part. packed: query, key and value come from one MatMul.

        windows_joined: tokens attend to those of all windows, instead of their own.
        """
        normal = self.layer_norm(x, f"{name}.norm1")
        if windows_joined:
            normal = self.reshape(normal, 1, -1, WIDTH)
        attend = self.packed_attention if packed else self.separate_attention
        y = self.linear(attend(normal, f"{name}.attn"), f"{name}.attn.proj", WIDTH)
        if windows_joined:
            y = self.reshape(y, *x.shape)
        x = self.binary("Add", x, self.layer_scale(y, f"{name}.ls1"))
        y = self.linear(self.layer_norm(x, f"{name}.norm2"), f"{name}.mlp.fc1", 4 * WIDTH)
        y = self.linear(self.gelu(y), f"{name}.mlp.fc2", WIDTH)
        return self.binary("Add", x, self.layer_scale(y, f"{name}.ls2"))

    def layer_scale(self, x: BuiltTensor, name: str) -> BuiltTensor:
        return self.binary("Mul", x, self.factors(f"{name}.gamma", (WIDTH,), BRANCH))

    def packed_attention(self, x: BuiltTensor, name: str) -> BuiltTensor:
        """As the original writes it: five axes, taken apart by Gather; the query is scaled."""
        depth, count = WIDTH // HEADS, x.shape[1]
        weight = self.uniform((WIDTH, 3, WIDTH), WIDTH**-0.5)
        weight[:, 1] = likened(weight[:, 0], weight[:, 1], depth, count)
        fused = self.linear(x, f"{name}.qkv", 3 * WIDTH, weight=weight.reshape(WIDTH, -1))
        parts = self.transpose(self.reshape(fused, 1, count, 3, HEADS, depth), 2, 0, 3, 1, 4)
        q, k, v = (self.pick(parts, index, 0) for index in range(3))
        q = self.binary("Mul", q, self.constant(depth**-0.5))
        weights = self.softmax(self.matmul(q, self.swapped(k)), -1)
        return self.merged(self.matmul(weights, v))

    def separate_attention(self, x: BuiltTensor, name: str) -> BuiltTensor:
        """As hub exports write it: a MatMul each; query and key take the root of the scale."""
        depth, (windows, count, _) = WIDTH // HEADS, x.shape
        query = self.uniform((WIDTH, WIDTH), WIDTH**-0.5)
        key = likened(query, self.uniform((WIDTH, WIDTH), WIDTH**-0.5), depth, count)

        def heads(name: str, weight: np.ndarray | None, *order: int) -> BuiltTensor:
            y = self.linear(x, name, WIDTH, weight=weight)
            return self.transpose(self.reshape(y, windows, count, HEADS, depth), *order)

        root = self.constant(depth**-0.25)
        q = self.binary("Mul", heads(f"{name}.query", query, 0, 2, 1, 3), root)
        k = self.binary("Mul", heads(f"{name}.key", key, 0, 2, 3, 1), root)
        v = heads(f"{name}.value", None, 0, 2, 1, 3)
        return self.merged(self.matmul(self.softmax(self.matmul(q, k), -1), v))

    def merged(self, x: BuiltTensor) -> BuiltTensor:
        """(windows, heads, n, depth) -> (windows, n, channels)."""
        return self.reshape(self.transpose(x, 0, 2, 1, 3), x.shape[0], x.shape[2], WIDTH)

    # --- the dense prediction head --------------------------------------------------------------

    def residual_unit(self, x: BuiltTensor, name: str) -> BuiltTensor:
        y = self.conv(self.relu(x), f"{name}.conv1", HEAD_WIDTH, 3, offset=LIVELY)
        y = self.conv(self.relu(y), f"{name}.conv2", HEAD_WIDTH, 3, gain=BRANCH)
        return self.binary("Add", y, x)

    def fusion(
        self, x: BuiltTensor, skip: BuiltTensor | None, name: str, sides: tuple[int, ...]
    ) -> BuiltTensor:
        """Add a finer map, refine, and enlarge to the size of the next one."""
        if skip is not None:
            x = self.binary("Add", x, self.residual_unit(skip, f"{name}.resConfUnit1"))
        x = self.residual_unit(x, f"{name}.resConfUnit2")
        return self.conv(self.resized(x, sides, corners=True), f"{name}.out_conv", HEAD_WIDTH)


def depth_anything_s(size: Size | None = None, *, seed: int = 20) -> onnx.ModelProto:
    """pixel_values (1, 3, H, W), normalised as ImageNet -> predicted_depth (1, H, W).

    64 GMAC at 518×518, of which 17 in attention between tokens.
    """
    b, picture, (rows, columns) = _start(size or (518, 518), seed)
    x = b.tokens(picture, "embeddings")
    maps: list[BuiltTensor] = []
    for index in range(BLOCKS):
        x = b.block(x, f"blocks.{index}", packed=True)
        if index in TAPPED:
            maps.append(x)
    levels = []
    for level, (tokens, channels) in enumerate(zip(maps, HEAD_CHANNELS, strict=True)):
        normal = b.layer_norm(tokens, f"norm.{level}")
        patches = b.slice(normal, 1, 1, 1 + rows * columns)
        y = b.reshape(b.transpose(patches, 0, 2, 1), 1, WIDTH, rows, columns)
        y = b.conv(y, f"head.projects.{level}", channels)
        if level < 2:
            y = b.transposed_conv(y, f"head.resize_layers.{level}", channels, 4 >> level)
        elif level == 3:
            y = b.conv(y, "head.resize_layers.3", channels, 3, stride=2)
        levels.append(b.conv(y, f"head.scratch.layer{level + 1}_rn", HEAD_WIDTH, 3, bias=False))
    path: BuiltTensor | None = None
    for level in (3, 2, 1, 0):
        skip = levels[level]
        sides = levels[level - 1].shape[2:] if level else tuple(2 * s for s in skip.shape[2:])
        first, second = (skip, None) if path is None else (path, skip)
        path = b.fusion(first, second, f"head.scratch.refinenet{level + 1}", sides)
    assert path is not None
    y = b.conv(path, "head.scratch.output_conv1", HEAD_WIDTH // 2, 3)
    y = b.resized(y, picture.shape[2:], corners=True)
    y = b.relu(b.conv(y, "head.scratch.output_conv2.0", 32, 3, offset=LIVELY))
    y = b.relu(b.conv(y, "head.scratch.output_conv2.2", 1, offset=2.0))
    return b.model(b.squeeze(y, 1, "predicted_depth"))


def dinov2_s(size: Size | None = None, *, seed: int = 2) -> onnx.ModelProto:
    """pixel_values (1, 3, H, W), normalised as ImageNet -> tokens and the token of the whole.

    last_hidden_state (1, 1 + patches, 384), pooler_output (1, 384). 5.8 GMAC at 224×224.
    """
    b, picture, _ = _start(size or (224, 224), seed)
    x = b.tokens(picture, "embeddings")
    for index in range(BLOCKS):
        x = b.block(x, f"encoder.layer.{index}", packed=False)
    tokens = b.layer_norm(x, "last_hidden_state")
    whole = b.add_node("Gather", [tokens, b.constant(0, np.int64)], "pooler_output", axis=1)
    return b.model(tokens, whole)


def _start(size: Size, seed: int) -> tuple[VitBuilder, BuiltTensor, Size]:
    height, width = size
    if height % PATCH or width % PATCH or min(size) < PATCH:
        raise ModelError(f"expected a size of multiples of {PATCH}, got {width}x{height}")
    b = VitBuilder(seed)
    picture = b.picture("pixel_values", size, IMAGENET_MEAN, IMAGENET_DEVIATION)
    return b, picture, (height // PATCH, width // PATCH)
