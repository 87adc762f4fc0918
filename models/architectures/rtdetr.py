"""RT-DETR with a ResNet-18 (Zhao et al. 2024), with fixed random weights.

A ResNet-18-vd, one encoder layer on its coarsest map, fusion of three maps up and down again, 300
queries chosen among their positions, three decoder layers with deformable attention.
"""

import onnx

from stillframe.errors import ModelError
from stillframe.models.architectures.builder import LIVELY, BuiltTensor
from stillframe.models.architectures.detr import BRANCH, MOVE, DetrBuilder, Memory, Size, anchors

STAGES = (64, 128, 256, 512)
WIDTH, HIDDEN, HEADS = 256, 1024, 8
QUERIES, LAYERS, POINTS = 300, 3, (4, 4, 4)


class RtDetrBuilder(DetrBuilder):
    """The parts of RT-DETR."""

    def backbone(self, x: BuiltTensor) -> list[BuiltTensor]:
        """Maps at strides 8, 16 and 32."""
        for index, (channels, stride) in enumerate(((32, 2), (32, 1), (64, 1)), 1):
            x = self.activated(x, f"backbone.conv1_{index}", channels, 3, stride, "relu")
        x = self.pool("MaxPool", x, 3, 2, 1)
        maps = []
        for stage, channels in enumerate(STAGES):
            for block in range(2):
                name = f"backbone.res_layers.{stage}.blocks.{block}"
                stride = 2 if stage and not block else 1
                x = self.residual_block(x, name, channels, stride, projected=not block)
            maps.append(x)
        return maps[1:]

    def residual_block(
        self, x: BuiltTensor, name: str, channels: int, stride: int, *, projected: bool
    ) -> BuiltTensor:
        """Two 3×3 convolutions; a skip that changes size is an average pool and a 1×1."""
        y = self.activated(x, f"{name}.branch2a", channels, 3, stride, "relu")
        y = self.conv(y, f"{name}.branch2b", channels, 3, gain=BRANCH, offset=LIVELY / 2)
        if projected:
            x = self.pool("AveragePool", x, 2, 2) if stride == 2 else x
            x = self.conv(x, f"{name}.short", channels)
        return self.relu(self.binary("Add", y, x))

    def fusion(self, x: BuiltTensor, name: str) -> BuiltTensor:
        """Three 3×3 convolutions on half of the channels, beside a 1×1; then one 1×1 more."""
        half = WIDTH // 2
        y = self.activated(x, f"{name}.conv1", half)
        for index in range(3):
            y = self.activated(y, f"{name}.bottlenecks.{index}", half, 3)
        y = self.binary("Add", y, self.activated(x, f"{name}.conv2", half))
        return self.activated(y, f"{name}.conv3", WIDTH)

    def encoder(self, maps: list[BuiltTensor]) -> list[BuiltTensor]:
        fine, middle, coarse = (
            self.conv(m, f"encoder.input_proj.{index}", WIDTH) for index, m in enumerate(maps)
        )
        coarse = self.encoder_layer(coarse, "encoder.encoder.0", HIDDEN, HEADS)
        coarse = self.activated(coarse, "encoder.lateral_convs.0", WIDTH)
        y = self.fusion(self.concat([self.doubled(coarse), middle], 1), "encoder.fpn_blocks.0")
        middle = self.activated(y, "encoder.lateral_convs.1", WIDTH)
        fine = self.fusion(self.concat([self.doubled(middle), fine], 1), "encoder.fpn_blocks.1")
        y = self.activated(fine, "encoder.downsample_convs.0", WIDTH, 3, 2)
        middle = self.fusion(self.concat([y, middle], 1), "encoder.pan_blocks.0")
        y = self.activated(middle, "encoder.downsample_convs.1", WIDTH, 3, 2)
        coarse = self.fusion(self.concat([y, coarse], 1), "encoder.pan_blocks.1")
        return [fine, middle, coarse]

    def selected(self, memory: Memory) -> tuple[BuiltTensor, BuiltTensor]:
        """The best positions as queries, and the logits of their boxes."""
        logits, used = anchors(memory.sides)
        x = self.binary("Mul", self.constant(used), memory.tokens)
        x = self.linear(x, "decoder.enc_output.0", WIDTH)
        x = self.layer_norm(x, "decoder.enc_output.1", 1e-5)
        rows = self.best_rows(self.scores(x, "decoder.enc_score_head"), QUERIES)
        boxes = self.perceptron(x, "decoder.enc_bbox_head", (WIDTH, WIDTH, 4), MOVE)
        boxes = self.binary("Add", boxes, self.constant(logits))
        return self.gather_rows(x, rows), self.gather_rows(boxes, rows)

    def decoder_layer(
        self, x: BuiltTensor, place: BuiltTensor, boxes: BuiltTensor, memory: Memory, name: str
    ) -> BuiltTensor:
        placed = self.binary("Add", x, place)
        y = self.self_attention(placed, x, f"{name}.self_attn", HEADS)
        x = self.layer_norm(self.binary("Add", x, y), f"{name}.norm1", 1e-5)
        y = self.deformable_attention(
            self.binary("Add", x, place),
            boxes,
            memory,
            f"{name}.cross_attn",
            HEADS,
            POINTS,
            projected=True,
        )
        x = self.layer_norm(self.binary("Add", x, y), f"{name}.norm2", 1e-5)
        y = self.perceptron(x, f"{name}.ffn", (HIDDEN, WIDTH), BRANCH)
        return self.layer_norm(self.binary("Add", x, y), f"{name}.norm3", 1e-5)


def rtdetr_r18(size: Size | None = None, *, seed: int = 18) -> onnx.ModelProto:
    """pixel_values (1, 3, H, W) RGB 0..1 -> logits (1, 300, 80), pred_boxes (1, 300, 4).

    Boxes are centre, width and height, 0..1. 30 GMAC at 640×640.
    """
    height, width = size or (640, 640)
    if height % 32 or width % 32 or min(height, width) < 32:
        raise ModelError(f"expected a size of multiples of 32, got {width}x{height}")
    b = RtDetrBuilder(seed)
    maps = b.encoder(b.backbone(b.picture("pixel_values", (height, width))))
    maps = [b.conv(m, f"decoder.input_proj.{index}", WIDTH) for index, m in enumerate(maps)]
    memory = b.memory_of(maps)
    x, logits = b.selected(memory)
    boxes = b.sigmoid(logits)
    for index in range(LAYERS):
        place = b.perceptron(boxes, "decoder.query_pos_head", (2 * WIDTH, WIDTH))
        x = b.decoder_layer(x, place, boxes, memory, f"decoder.decoder.layers.{index}")
        moved = b.perceptron(x, f"decoder.dec_bbox_head.{index}", (WIDTH, WIDTH, 4), MOVE)
        last = index == LAYERS - 1
        moved = b.binary("Add", moved, b.logit(boxes))
        boxes = b.sigmoid(moved, "pred_boxes" if last else "")
    return b.model(b.scores(x, "logits"), boxes)
