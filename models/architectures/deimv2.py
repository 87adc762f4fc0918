"""DEIMv2-pico (Huang et al. 2025) with fixed random weights, as near as its papers tell.

Three stages of an HGNetV2-B0, an encoder without attention that adds a pooled mean to its coarse
map, and D-FINE's decoder with root mean square norms and gated feed-forward parts.
"""

import onnx

from stillframe.errors import ModelError
from stillframe.models.architectures.builder import BuiltTensor
from stillframe.models.architectures.detr import BRANCH, MOVE, Memory, Size, anchors
from stillframe.models.architectures.dfine import B0, BINS, DecoderSizes, DFineBuilder

PICO = DecoderSizes(112, 320, 200, (4, 2))


class DeimBuilder(DFineBuilder):
    """The parts of DEIMv2 that differ from D-FINE's."""

    box_scale = 4.0

    def rms_norm(self, x: BuiltTensor, name: str) -> BuiltTensor:
        """In seven nodes, as exporters write it."""
        square = self.binary("Pow", x, self.constant(2.0))
        mean = self.unary("ReduceMean", square, axes=[-1], keepdims=1)
        spread = self.unary("Sqrt", self.binary("Add", mean, self.constant(1e-6)))
        scaled = self.binary("Mul", x, self.binary("Div", self.constant(1.0), spread))
        return self.binary("Mul", scaled, self.factors(f"{name}.scale", (x.shape[-1],)), name)

    def gated_perceptron(self, x: BuiltTensor, name: str, hidden: int) -> BuiltTensor:
        """SiLU of one half times the other (SwiGLU)."""
        half = hidden // 2
        both = self.linear(x, f"{name}.w12", 2 * half)
        first, second = self.split(both, [half, half], 2)
        product = self.binary("Mul", self.silu(first), second)
        return self.linear(product, f"{name}.w3", x.shape[-1], gain=BRANCH)

    def halved(self, x: BuiltTensor, name: str) -> BuiltTensor:
        return self.activated(self.pool("AveragePool", x, 3, 2, 1), name, x.channels)

    def encoder(self, x: BuiltTensor, width: int) -> list[BuiltTensor]:
        """Two maps out of one."""
        narrow = round(0.34 * width // 2)
        fine = self.conv(x, "encoder.input_proj.0", width)
        coarse = self.halved(fine, "encoder.down_sample1")
        summed = self.binary("Add", coarse, self.global_pool(coarse))
        coarse = self.activated(summed, "encoder.bi_fusion.cv", width)
        joined = self.binary("Add", fine, self.doubled(coarse))
        fine = self.elan(joined, "encoder.fpn_block", width, narrow, 2)
        joined = self.binary("Add", coarse, self.halved(fine, "encoder.down_sample2"))
        return [fine, self.elan(joined, "encoder.pan_block", width, narrow, 2)]

    def selected(self, memory: Memory, sizes: DecoderSizes) -> tuple[BuiltTensor, BuiltTensor]:
        """The best positions as queries, and their boxes."""
        logits, used = anchors(memory.sides)
        x = self.binary("Mul", self.constant(used), memory.tokens)
        rows = self.best_rows(self.scores(x, "decoder.enc_score_head"), sizes.queries)
        x, places = self.gather_rows(x, rows), self.gather_rows(self.constant(logits), rows)
        widths = (sizes.width, sizes.width, 4)
        boxes = self.perceptron(x, "decoder.enc_bbox_head", widths, MOVE)
        return x, self.sigmoid(self.binary("Add", boxes, places))

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
        x = self.rms_norm(self.binary("Add", x, y), f"{name}.norm1")
        y = self.deformable_attention(
            self.binary("Add", x, place),
            boxes,
            memory,
            f"{name}.cross_attn",
            sizes.heads,
            sizes.points,
            projected=False,
        )
        x = self.rms_norm(self.binary("Add", x, y), f"{name}.norm2")
        y = self.gated_perceptron(x, f"{name}.swish_ffn", sizes.hidden)
        return self.rms_norm(self.binary("Add", x, y), f"{name}.norm3")

    def decoded(self, memory: Memory, sizes: DecoderSizes) -> tuple[BuiltTensor, BuiltTensor]:
        """Logits of the classes and boxes of the last layer; one head for all boxes."""
        width = sizes.width
        x, boxes = self.selected(memory, sizes)
        place = self.perceptron(boxes, "decoder.query_pos_head", (width, width, width))
        place = self.add_node("Clip", [place, self.constant(-10.0), self.constant(10.0)])
        start, before, corners = boxes, x, boxes
        for index in range(sizes.layers):
            name = f"decoder.decoder.layers.{index}"
            x = self.decoder_layer(x, place, boxes, memory, name, sizes)
            head = x
            if index:
                head = self.binary("Add", x, before)
            else:
                moved = self.perceptron(x, "decoder.pre_bbox_head", (width, width, 4), MOVE)
                start = self.sigmoid(self.binary("Add", moved, self.logit(boxes)))
            refined = self.perceptron(head, "decoder.dec_bbox_head", (width, width, 4 * BINS))
            corners = self.binary("Add", refined, corners) if index else refined
            boxes, before = self.box_of(start, self.integral(corners)), x
        scores = self.scores(x, "decoder.dec_score_head")
        return self.binary("Add", scores, self.quality(corners, "decoder.lqe")), boxes


def deimv2_pico(size: Size | None = None, *, seed: int = 5) -> onnx.ModelProto:
    """images (1, 3, H, W) RGB 0..1 and orig_target_sizes (1, 2) -> labels, boxes, scores.

    As D-FINE's, with 200 rows. 2.6 GMAC at 640×640.
    """
    height, width = size or (640, 640)
    if height % 32 or width % 32 or min(height, width) < 32:
        raise ModelError(f"expected a size of multiples of 32, got {width}x{height}")
    b = DeimBuilder(seed)
    picture = b.picture("images", (height, width))
    target = b.sizes_input("orig_target_sizes", (width, height))
    x = b.hgnet(picture, B0[:3], (16, 16))[-1]
    memory = b.memory_of(b.encoder(x, PICO.width))
    scores, boxes = b.decoded(memory, PICO)
    return b.model(*b.listed(scores, boxes, target, PICO.queries))
