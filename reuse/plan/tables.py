"""The tables of a plan while they grow: memory, tensors, masks and instructions."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from stillframe.reuse.ir.graph import Graph
from stillframe.reuse.ir.windows import Window, everything
from stillframe.reuse.kernels import abi
from stillframe.reuse.kernels.pages import aligned, zeroed
from stillframe.reuse.kernels.zero_pad import clear_zero_pad
from stillframe.reuse.memory.buffers import BufferView
from stillframe.reuse.memory.planner import MemoryPlan
from stillframe.reuse.plan.instruction import Lowered, MaskRows, MaskSource, PlannedLayer, Reads

Integers = NDArray[np.int64]

SLACK = 1024  # bytes after the arena, which vector loads of the last position may reach


class TableBuilder:
    """The tables while they grow. Lowering rules call `add`, `constant`, `tensor`."""

    def __init__(
        self,
        graph: Graph,
        memory: MemoryPlan,
        workers: int,
        tiles: Mapping[str, int],
        exact: bool = True,
    ) -> None:
        self.graph = graph
        self.storage = memory.storage
        self.regions = memory.regions
        self.tiles = tiles  # output of a convolution -> row of conv.TILES
        self.workers = workers
        self.exact = exact  # a cut-off asks for equal bits
        self.attention_bytes = 64  # scratch of a worker for the largest attention
        self.tiles_bytes = 64  # and for the largest batch of Winograd's tiles
        self.buffers: list[Any] = [np.zeros(0, np.uint8)]
        self.arena = zeroed(memory.size + SLACK)
        self._arena_start = self.arena.ctypes.data
        self._offsets = memory.offsets
        self.rows: list[list[int]] = []
        self.index: dict[str, int] = {}
        self._names: dict[int, str] = {}  # the same, of region tensors, the other way round
        self.shapes: dict[str, tuple[int, ...]] = dict(graph.shapes)
        self.views: dict[str, BufferView] = dict(memory.storage.views)
        self.instructions: list[list[int]] = []
        self.floats: list[list[float]] = []
        self.layers: list[PlannedLayer] = []
        self.reads: list[Reads] = []  # of each instruction
        self.targets: list[str] = []  # tensor that each instruction writes; "" for an export
        self._reads_at: dict[int, Reads] = {}  # by the address of its mask sources
        self.weights_bytes = 0
        self._mask_bytes = 0
        self._mask_rows: list[tuple[int, int, int]] = []  # tensor row, mask offset, flags offset
        self._aliases: list[tuple[int, int, tuple[int, int], tuple[int, int]]] = []
        self.largest_spans = 1
        self.longest_line = 64
        self.widest_result = 64

    # --- memory ---------------------------------------------------------------------------------
    def constant(self, values: NDArray[Any]) -> int:
        """Copy the values for the life of the plan; -> address of the copy."""
        copy = aligned(np.ascontiguousarray(values))
        self.buffers.append(copy)
        self.weights_bytes += copy.nbytes
        return int(copy.ctypes.data)

    def state(self, count: int) -> int:
        """Floats for the life of the plan, which kernels write; -> their address."""
        values = zeroed(count * 4 + SLACK)
        self.buffers.append(values)
        self.weights_bytes += values.nbytes
        return int(values.ctypes.data)

    def geometry(self, name: str) -> tuple[int, int, int]:
        """(address of element (0, 0, 0), row stride, pixel stride) in bytes."""
        view = self.views.get(name)
        if view is not None:
            address, row, pixel = self.geometry(view.parent)
            y, x, c = view.start
            return address + y * row + x * pixel + c * 4, row * view.step[0], pixel * view.step[1]
        _, width, channels = self.shapes[name]
        top, left, _, right = self.storage.zero_pad(name)
        pixel = channels * 4
        row = (left + width + right) * pixel
        return self._arena_start + self._offsets[name] + top * row + left * pixel, row, pixel

    # --- tensors --------------------------------------------------------------------------------
    def _row(self, shape: Sequence[int], address: int, row: int, pixel: int) -> int:
        self.rows.append([0] * abi.TENSOR_COLUMNS)
        entry = self.rows[-1]
        entry[abi.DATA], entry[abi.ROW], entry[abi.PIXEL] = address, row, pixel
        entry[abi.HEIGHT], entry[abi.WIDTH], entry[abi.CHANNELS] = shape
        return len(self.rows) - 1

    def _own_mask(self, tensor: int, height: int, width: int) -> None:
        self._mask_rows.append((tensor, self._mask_bytes, self._mask_bytes + height * width))
        self._mask_bytes += height * width + height
        self.largest_spans = max(self.largest_spans, height * (width // 2 + 1))
        self.longest_line = max(self.longest_line, width)

    def tensor(self, name: str) -> int:
        """The table row of a region tensor or constant; added at the first call."""
        if name in self.index:
            return self.index[name]
        if name in self.graph.constants:
            return self.constant_tensor(name)
        shape = self.shapes[name]
        view = self.views.get(name)
        parent = -1
        if view is not None and not view.own_mask:
            parent = self.tensor(view.parent)
        tensor = self._row(shape, *self.geometry(name))
        self.index[name] = tensor
        self._names[tensor] = name
        if parent >= 0 and view is not None:
            self._aliases.append((tensor, parent, (view.start[0], view.start[1]), view.step))
        else:
            self._own_mask(tensor, shape[0], shape[1])
        return tensor

    def part(
        self, name: str, parent: str, start: tuple[int, int, int], shape: tuple[int, ...]
    ) -> int:
        """A row for a part of `parent` that a copy fills, with a mask of its own."""
        self.views[name] = BufferView(parent, start, (1, 1), True)
        self.shapes[name] = shape
        return self.tensor(name)

    def channels_of(self, name: str, start: int, count: int) -> int:
        """A row for some channels of a tensor, sharing its mask."""
        tensor = self.tensor(name)
        address, row, pixel = self.geometry(name)
        height, width, _ = self.shapes[name]
        alias = self._row((height, width, count), address + start * 4, row, pixel)
        self._aliases.append((alias, tensor, (0, 0), (1, 1)))
        return alias

    def port(self, height: int, width: int) -> int:
        """A row with a mask and no data: the target of an EXPORT."""
        tensor = self._row((height, width, 0), 0, 0, 0)
        self._own_mask(tensor, height, width)
        return tensor

    def marks(self, name: str, height: int, width: int) -> int:
        """As `port`, under a name."""
        self.shapes[name] = (height, width, 0)
        self.index[name] = self.port(height, width)
        self._names[self.index[name]] = name
        return self.index[name]

    def constant_tensor(self, name: str) -> int:
        values = np.asarray(self.graph.constants[name], np.float32)
        height, width, channels = values.shape
        tensor = self._row(values.shape, self.constant(values), width * channels * 4, channels * 4)
        self.index[name] = tensor
        self._own_mask(tensor, height, width)
        return tensor

    def broadcast(self, name: str, shape: Sequence[int]) -> int:
        """A row to read a tensor by where it is stretched over `shape`: strides of 0."""
        tensor = self.tensor(name)
        own = self.shapes[name]
        stretched = [own[axis] == 1 and shape[axis] != 1 for axis in (0, 1)]
        if not any(stretched):
            return tensor
        _, row, pixel = entry = tuple(self.rows[tensor][: abi.PIXEL + 1])
        return self._row(
            (shape[0], shape[1], own[2]),
            entry[0],
            0 if stretched[0] else row,
            0 if stretched[1] else pixel,
        )

    # --- masks ----------------------------------------------------------------------------------
    def source(
        self,
        name: str,
        window: Window | None,
        out: Sequence[int],
        regular: tuple[int, int, int] | None = None,
    ) -> MaskSource:
        """What an output of shape `out` reads of `name`; regular: its columns as (taps, stride,
        pad)."""
        height, width, _ = self.shapes[name]
        if window is None:
            window = everything(tuple(out), (height, width))
        taps, stride, pad = regular or window.cols.as_strided(width) or (0, 1, 0)
        self.longest_line = max(
            self.longest_line, (out[1] - 1) * stride + taps, width + pad, out[1]
        )
        columns_at = [0, 0]
        if taps == 0:
            risen = window.cols.as_monotonic()
            taps = abi.ANY if risen is None else abi.RISING
            ends = window.cols if risen is None else risen
            columns_at = [self.constant(np.asarray(half, np.int32)) for half in ends]
        rows_at = [self.constant(np.asarray(half, np.int32)) for half in window.rows]
        entry = (self.tensor(name), *rows_at, taps, stride, pad, *columns_at)
        return MaskSource(name, window, entry)

    def sources(self, entries: Sequence[MaskSource]) -> tuple[int, int]:
        """(address, count) of mask sources in the tables."""
        address = self.constant(np.array([each.columns for each in entries], np.int64))
        self._reads_at[address] = tuple((each.name, each.window) for each in entries)
        return address, len(entries)

    def mask_rows(self, name: str) -> MaskRows:
        """Whose mask a tensor shares."""
        view = self.views.get(name)
        if view is None or view.own_mask:
            return MaskRows(name)
        above = self.mask_rows(view.parent)
        return MaskRows(
            above.owner, above.start + view.start[0] * above.step, view.step[0] * above.step
        )

    # --- instructions ---------------------------------------------------------------------------
    def add(self, lowered: Lowered, layer: PlannedLayer) -> int:
        entry = [0] * abi.INSTRUCTION_COLUMNS
        for column, value in lowered.columns.items():
            entry[column] = int(value)
        self.instructions.append(entry)
        floats = [0.0] * abi.FLOAT_COLUMNS
        for column, number in lowered.floats.items():
            floats[column] = number
        self.floats.append(floats)
        self.layers.append(layer)
        self.targets.append(self._names.get(entry[abi.TARGET], ""))
        self.reads.append(self._reads_at[entry[abi.SOURCES]] if entry[abi.SOURCE_COUNT] else ())
        self.widest_result = max(self.widest_result, lowered.result_floats)
        return len(self.instructions) - 1

    def clear_zero_pad(self, instruction: int, root: str) -> None:
        """Let an instruction write the zeros around its target first."""
        top, left, bottom, right = self.storage.zero_pad(root)
        if not (top or left or bottom or right):
            return
        start, row, pixel = self.geometry(root)
        zeros = [0] * abi.ZERO_PAD_COLUMNS
        zeros[abi.ZERO_PAD_START] = start - top * row - left * pixel
        zeros[abi.ZERO_PAD_ROW], zeros[abi.ZERO_PAD_ROWS] = row, top + self.shapes[root][0] + bottom
        zeros[abi.ZERO_PAD_TOP], zeros[abi.ZERO_PAD_BOTTOM] = top, bottom
        zeros[abi.ZERO_PAD_LEFT], zeros[abi.ZERO_PAD_RIGHT] = left * pixel, right * pixel
        entry = self.instructions[instruction]
        assert entry[abi.PREPARE] == 0, "a reduction has no zero padding"
        entry[abi.PREPARE] = clear_zero_pad.address
        entry[abi.ZERO_PAD] = self.constant(np.array(zeros, np.int64))

    def finish_tensors(self) -> tuple[Integers, Integers]:
        """Give every row its mask and counts; -> (tensors, live)."""
        masks = np.zeros(self._mask_bytes + 64, np.uint8)
        self.buffers[0] = masks
        base = masks.ctypes.data
        rows = np.array(self.rows, np.int64).reshape(-1, abi.TENSOR_COLUMNS)
        live = np.zeros((len(rows), self.workers), np.int64)
        rows[:, abi.LIVE] = live.ctypes.data + np.arange(len(rows)) * live.strides[0]
        for tensor, mask, flags in self._mask_rows:
            rows[tensor, abi.MASK] = base + mask
            rows[tensor, abi.MASK_ROW] = rows[tensor, abi.WIDTH]
            rows[tensor, abi.MASK_PIXEL] = 1
            rows[tensor, abi.ROW_FLAGS] = base + flags
            rows[tensor, abi.ROW_FLAGS_STEP] = 1
        for tensor, parent, (y, x), (step_y, step_x) in self._aliases:
            above = rows[parent]
            rows[tensor, abi.MASK] = (
                above[abi.MASK] + y * above[abi.MASK_ROW] + x * above[abi.MASK_PIXEL]
            )
            rows[tensor, abi.MASK_ROW] = above[abi.MASK_ROW] * step_y
            rows[tensor, abi.MASK_PIXEL] = above[abi.MASK_PIXEL] * step_x
            rows[tensor, abi.ROW_FLAGS] = above[abi.ROW_FLAGS] + y * above[abi.ROW_FLAGS_STEP]
            rows[tensor, abi.ROW_FLAGS_STEP] = above[abi.ROW_FLAGS_STEP] * step_y
            rows[tensor, abi.LIVE] = above[abi.LIVE]
        return rows, live
