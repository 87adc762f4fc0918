"""ConvTranspose said in Conv and DepthToSpace.

An output row t (before cropping) reads input rows i with i * stride + k * dilation = t. Rows with
the same t mod stride read with the same taps: each such phase is an ordinary convolution of the
input, and DepthToSpace lays the phases side by side.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from stillframe.reuse.frontend.context import POINT_CONV, ImportContext, OnnxNode, UnsupportedError
from stillframe.reuse.ir.graph import Array

SMALL_DEPTH = 32
"""Up to so many channels over all phases, one Conv with some zero taps beats several small ones."""
FEW_ZEROS = 1.4
"""... and so it does up to this ratio of its taps to the ones needed."""


@dataclass(frozen=True, slots=True)
class Axis:
    """Rows or columns: output position j (0 <= j < out) is t = j + crop.

    taps: per phase, (kernel index, how many input positions back it reads) of each of its taps.
    """

    size: int
    out: int
    stride: int
    crop: int
    taps: tuple[tuple[tuple[int, int], ...], ...]

    def length(self, phase: int) -> int:
        """How many input positions in a row a phase looks at."""
        return max((back for _, back in self.taps[phase]), default=0) + 1

    @property
    def longest(self) -> int:
        return max(map(self.length, range(self.stride)))

    @property
    def first(self) -> int:
        """The first block of `stride` positions that is computed; every phase can begin there."""
        return min(self.crop // self.stride, *(self.length(p) - 1 for p in range(self.stride)))

    @property
    def blocks(self) -> int:
        needed = (self.crop + self.out - 1) // self.stride + 1
        return max(needed, self.size) - self.first

    def pads(self, length: int) -> tuple[int, int]:
        return length - 1 - self.first, self.first + self.blocks - self.size


def axis(call: OnnxNode, index: int, size: int, kernel: int) -> Axis:
    """Geometry of rows (index 0) or columns (1) by the ONNX rules."""
    stride = (call.attrs.get("strides") or (1, 1))[index]
    dilation = (call.attrs.get("dilations") or (1, 1))[index]
    extra = (call.attrs.get("output_padding") or (0, 0))[index]
    pads = call.attrs.get("pads") or (0, 0, 0, 0)
    auto = call.attrs.get("auto_pad", "NOTSET")
    full = (size - 1) * stride + extra + (kernel - 1) * dilation + 1
    before, behind = pads[index], pads[index + 2]
    given = call.attrs.get("output_shape")
    if given or auto.startswith("SAME"):
        out = given[-2:][index] if given else size * stride
        total = max(full - out, 0)
        before = total // 2 if auto == "SAME_UPPER" else total - total // 2
        behind = total - before
    elif auto == "VALID":
        before = behind = 0
    if before < 0 or full - before - behind < 1:
        raise UnsupportedError(f"pads {list(pads)} of a picture of {size}")
    taps: list[list[tuple[int, int]]] = [[] for _ in range(stride)]
    for tap in range(kernel):
        taps[tap * dilation % stride].append((tap, tap * dilation // stride))
    return Axis(size, full - before - behind, stride, before, tuple(map(tuple, taps)))


def write(placing: ImportContext, call: OnnxNode, weights: Array, bias: Array | None) -> None:
    """weights (Cin, Cout / group, KH, KW) as in ONNX; writes the nodes up to call.output."""
    output = call.output
    group = call.attrs.get("group", 1)
    depth_in, each, height, width = weights.shape
    depth = each * group
    inside = placing.shape(call.inputs[0])
    rows, cols = axis(call, 0, inside[0], height), axis(call, 1, inside[1], width)
    if rows.stride != cols.stride:
        raise UnsupportedError(f"unequal strides {rows.stride} and {cols.stride}")
    grouped = weights.reshape(group, depth_in // group, each, height, width)
    kernel = grouped.transpose(3, 4, 1, 0, 2).reshape(height, width, depth_in // group, depth)
    shift = np.zeros(depth) if bias is None else bias
    block = rows.stride
    phases = [(i, j) for i in range(block) for j in range(block)]
    parts = [phase_kernel(kernel, rows, cols, *phase) for phase in phases]
    waste = rows.longest * cols.longest * block**2 / (height * width)
    steps: list[tuple[str, list[str], dict[str, Any]]] = []
    names = [output]
    if block > 1 and (depth_in == group or (group == 1 and waste > FEW_ZEROS)):
        together = group == 1 and depth * block**2 <= SMALL_DEPTH
    else:
        together = True
    mode = "CRD" if together and group > 1 else "DCR"
    if together:
        full = [pad_front(part, rows.longest, cols.longest) for part in parts]
        joined = np.stack(full, axis=-1 if mode == "CRD" else 3)
        joined = joined.reshape(*full[0].shape[:3], depth * block**2)
        repeat = np.repeat if mode == "CRD" else np.tile
        parts, shift = [joined], repeat(shift, block**2)
        names = [f"{output}~phases"]
    else:
        names = [f"{output}~phase{i}{j}" for i, j in phases]
    for name, part in zip(names, parts, strict=True):
        steps.append(one_conv(placing, call.inputs[0], name, part, shift, group, rows, cols))
    if len(parts) > 1:
        steps.append(("Concat", names, {"axis": 2}))
    if block > 1:
        steps.append(("DepthToSpace", [], {"block": block, "mode": mode}))
    crops = [each.crop - each.first * each.stride for each in (rows, cols)]
    if any(crops) or (rows.blocks * block, cols.blocks * block) != (rows.out, cols.out):
        size = (rows.out, cols.out, depth)
        steps.append(("Slice", [], {"start": (*crops, 0), "step": (1, 1, 1), "size": size}))
    previous = ""
    for index, (op, inputs, attrs) in enumerate(steps):
        name = names[index] if index < len(names) else f"{output}~{op}"
        name = output if index == len(steps) - 1 else name
        placing.emit(op, inputs or [previous], name, attrs)
        previous = name


def phase_kernel(kernel: Array, rows: Axis, cols: Axis, i: int, j: int) -> Array:
    """(KH', KW', Cin / group, Cout): the taps of one phase, farthest back first."""
    part = np.zeros((rows.length(i), cols.length(j), *kernel.shape[2:]), np.float32)
    for tap_row, back_row in rows.taps[i]:
        for tap_col, back_col in cols.taps[j]:
            at = (part.shape[0] - 1 - back_row, part.shape[1] - 1 - back_col)
            part[at] = kernel[tap_row, tap_col]
    return part


def pad_front(part: Array, height: int, width: int) -> Array:
    """Zero taps in front, so that all phases begin equally far back."""
    missing = ((height - part.shape[0], 0), (width - part.shape[1], 0), (0, 0), (0, 0))
    return np.pad(part, missing)


def one_conv(
    placing: ImportContext,
    source: str,
    output: str,
    kernel: Array,
    shift: Array,
    group: int,
    rows: Axis,
    cols: Axis,
) -> tuple[str, list[str], dict[str, Any]]:
    """The Conv whose output row q holds block rows.first + q."""
    top, bottom = rows.pads(kernel.shape[0])
    left, right = cols.pads(kernel.shape[1])
    names = [
        source,
        placing.hold(f"{output}~weights", kernel),
        placing.hold(f"{output}~bias", shift),
    ]
    attrs = {**POINT_CONV, "pad": (top, left, bottom, right), "group": group}
    return "Conv", names, attrs
