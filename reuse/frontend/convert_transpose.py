"""ConvTranspose expressed as Conv and DepthToSpace (sub-pixel convolution).

Output row t (before cropping) reads the input rows i with i * stride + tap * dilation = t. All rows
with the same t mod stride use the same taps. Each such phase is an ordinary convolution of the
input, and DepthToSpace interleaves the phases.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from stillframe.reuse.frontend.context import (
    POINTWISE_CONV,
    ImportContext,
    OnnxNode,
    UnsupportedError,
)
from stillframe.reuse.ir.graph import Array

SMALL_DEPTH = 32
"""Up to this many channels over all phases, one Conv with some zero taps beats one per phase."""
FEW_ZEROS = 1.4
"""So it does, whatever the depth, up to this ratio of its taps to the taps needed."""


@dataclass(frozen=True, slots=True)
class AxisGeometry:
    """A transposed convolution along rows or columns.

    Positions before cropping are called t and come in blocks of `stride`, one position per phase.
    """

    size: int
    """Input positions."""
    out: int
    """Output positions; output j is t = j + crop."""
    stride: int
    crop: int
    """Positions t cropped at the beginning."""
    taps: tuple[tuple[tuple[int, int], ...], ...]
    """Per phase, its taps: (index in the kernel, input positions it reads back)."""

    def kernel_length(self, phase: int) -> int:
        """Taps of the ordinary convolution that a phase is."""
        return max((back for _, back in self.taps[phase]), default=0) + 1

    @property
    def longest_kernel(self) -> int:
        return max(map(self.kernel_length, range(self.stride)))

    @property
    def first_block(self) -> int:
        """The first block that is computed: none that is needed comes before it."""
        shortest = min(self.kernel_length(phase) for phase in range(self.stride))
        return min(self.crop // self.stride, shortest - 1)

    @property
    def blocks(self) -> int:
        """How many blocks are computed."""
        needed = (self.crop + self.out - 1) // self.stride + 1
        return max(needed, self.size) - self.first_block

    def pads(self, kernel_length: int) -> tuple[int, int]:
        """Padding (begin, end) of a phase's convolution that gives exactly `blocks` outputs."""
        return (
            kernel_length - 1 - self.first_block,
            self.first_block + self.blocks - self.size,
        )


def axis_geometry(node: OnnxNode, axis: int, size: int, kernel: int) -> AxisGeometry:
    """Geometry of rows (axis 0) or columns (1) by the rules of the ONNX specification."""
    stride = (node.attrs.get("strides") or (1, 1))[axis]
    dilation = (node.attrs.get("dilations") or (1, 1))[axis]
    output_padding = (node.attrs.get("output_padding") or (0, 0))[axis]
    pads = node.attrs.get("pads") or (0, 0, 0, 0)
    auto_pad = node.attrs.get("auto_pad", "NOTSET")
    uncropped = (size - 1) * stride + output_padding + (kernel - 1) * dilation + 1
    begin, end = pads[axis], pads[axis + 2]
    output_shape = node.attrs.get("output_shape")
    if output_shape or auto_pad.startswith("SAME"):
        out = output_shape[-2:][axis] if output_shape else size * stride
        total = max(uncropped - out, 0)
        begin = total // 2 if auto_pad == "SAME_UPPER" else total - total // 2
        end = total - begin
    elif auto_pad == "VALID":
        begin = end = 0
    if begin < 0 or uncropped - begin - end < 1:
        raise UnsupportedError(f"pads {list(pads)} for an input of {size} positions")
    taps: list[list[tuple[int, int]]] = [[] for _ in range(stride)]
    for tap in range(kernel):
        taps[tap * dilation % stride].append((tap, tap * dilation // stride))
    return AxisGeometry(size, uncropped - begin - end, stride, begin, tuple(map(tuple, taps)))


def emit_conv_transpose(
    context: ImportContext, node: OnnxNode, weights: Array, bias: Array | None
) -> None:
    """Write the graph nodes of one ConvTranspose: Conv per phase, Concat, DepthToSpace, Slice.

    weights: (Cin, Cout / group, KH, KW) as in ONNX.
    """
    output = node.output
    group = node.attrs.get("group", 1)
    depth_in, group_depth, height, width = weights.shape
    depth = group_depth * group
    in_shape = context.shape(node.inputs[0])
    rows = axis_geometry(node, 0, in_shape[0], height)
    cols = axis_geometry(node, 1, in_shape[1], width)
    if rows.stride != cols.stride:
        raise UnsupportedError(f"unequal strides {rows.stride} and {cols.stride}")
    by_group = weights.reshape(group, depth_in // group, group_depth, height, width)
    kernel = by_group.transpose(3, 4, 1, 0, 2).reshape(height, width, depth_in // group, depth)
    bias = np.zeros(depth) if bias is None else bias
    block = rows.stride
    phases = [(i, j) for i in range(block) for j in range(block)]
    kernels = [phase_kernel(kernel, rows, cols, *phase) for phase in phases]
    tap_ratio = rows.longest_kernel * cols.longest_kernel * block**2 / (height * width)
    steps: list[tuple[str, list[str], dict[str, Any]]] = []
    if block > 1 and (depth_in == group or (group == 1 and tap_ratio > FEW_ZEROS)):
        one_conv = group == 1 and depth * block**2 <= SMALL_DEPTH
    else:
        one_conv = True
    mode = "CRD" if one_conv and group > 1 else "DCR"
    if one_conv:
        padded = [pad_front(each, rows.longest_kernel, cols.longest_kernel) for each in kernels]
        joined = np.stack(padded, axis=-1 if mode == "CRD" else 3)
        joined = joined.reshape(*padded[0].shape[:3], depth * block**2)
        repeat = np.repeat if mode == "CRD" else np.tile
        kernels, bias = [joined], repeat(bias, block**2)
        names = [f"{output}~phases"]
    else:
        names = [f"{output}~phase{i}{j}" for i, j in phases]
    for name, each in zip(names, kernels, strict=True):
        steps.append(phase_conv(context, node.inputs[0], name, each, bias, group, rows, cols))
    if len(kernels) > 1:
        steps.append(("Concat", names, {"axis": 2}))
    if block > 1:
        steps.append(("DepthToSpace", [], {"block": block, "mode": mode}))
    crops = [each.crop - each.first_block * each.stride for each in (rows, cols)]
    if any(crops) or (rows.blocks * block, cols.blocks * block) != (rows.out, cols.out):
        size = (rows.out, cols.out, depth)
        steps.append(("Slice", [], {"start": (*crops, 0), "step": (1, 1, 1), "size": size}))
    previous = ""
    for index, (op, inputs, attrs) in enumerate(steps):
        name = names[index] if index < len(names) else f"{output}~{op}"
        name = output if index == len(steps) - 1 else name
        context.emit(op, inputs or [previous], name, attrs)
        previous = name


def phase_kernel(kernel: Array, rows: AxisGeometry, cols: AxisGeometry, i: int, j: int) -> Array:
    """(KH', KW', Cin / group, Cout): the taps of phase (i, j), the one farthest back first."""
    height, width = rows.kernel_length(i), cols.kernel_length(j)
    phase = np.zeros((height, width, *kernel.shape[2:]), np.float32)
    for tap_row, back_row in rows.taps[i]:
        for tap_col, back_col in cols.taps[j]:
            phase[height - 1 - back_row, width - 1 - back_col] = kernel[tap_row, tap_col]
    return phase


def pad_front(kernel: Array, height: int, width: int) -> Array:
    """Zero taps in front, so that the kernels of all phases have the same size."""
    missing = ((height - kernel.shape[0], 0), (width - kernel.shape[1], 0), (0, 0), (0, 0))
    return np.pad(kernel, missing)


def phase_conv(
    context: ImportContext,
    source: str,
    output: str,
    kernel: Array,
    bias: Array,
    group: int,
    rows: AxisGeometry,
    cols: AxisGeometry,
) -> tuple[str, list[str], dict[str, Any]]:
    """(op, inputs, attrs) of the Conv whose output row q is block rows.first_block + q."""
    top, bottom = rows.pads(kernel.shape[0])
    left, right = cols.pads(kernel.shape[1])
    names = [
        source,
        context.add_constant(f"{output}~weights", kernel),
        context.add_constant(f"{output}~bias", bias),
    ]
    attrs = {**POINTWISE_CONV, "pad": (top, left, bottom, right), "group": group}
    return "Conv", names, attrs
