"""Where a network computed again: counted per resolution, and drawn as one picture.

The marks that a step leaves say what changed; what was computed is more, for a result near the
stored one is not marked. It follows from the marks of a node's inputs by the node's windows.
"""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from stillframe.reuse.ir.graph import ISLAND, Node
from stillframe.reuse.ir.ops import OPS
from stillframe.reuse.ir.windows import Window
from stillframe.reuse.plan.plan import Plan

Shares = NDArray[np.float32]
Image = NDArray[np.uint8]
Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class HeatLevel:
    """The layers of one resolution. shares (H, W): of the frames, in which the position was
    computed, mean over the layers weighted by multiply-adds. work: their part of all of those."""

    shares: Shares
    layers: int
    work: float


@dataclass(frozen=True, slots=True)
class Heat:
    """picture (H, W, 3): a frame of the clip as the model sees it. input (H, W): share of the
    frames in which a pixel was new. levels: finest first. frames: how many were counted."""

    picture: Image
    input: Shares
    levels: tuple[HeatLevel, ...]
    frames: int


class HeatMeter:
    """Counts, after each step, which positions it computed."""

    def __init__(self, plan: Plan, picture: Image) -> None:
        self._plan, self._picture, self._frames = plan, picture.copy(), 0
        graph = plan.graph
        work: dict[int, int] = {}
        for layer in plan.layers:
            work[layer.node] = work.get(layer.node, 0) + layer.multiply_adds
        self._total = max(1, sum(work.values()))
        self._nodes = [
            (node, work.get(index, 0))
            for index, node in enumerate(graph.nodes)
            if node.op != ISLAND and graph.shapes[node.output][:2] != (1, 1)
        ]
        self._windows = {
            node.output: OPS[node.op].window(node, graph.shapes) for node, _ in self._nodes
        }
        self._counts = {
            node.output: np.zeros(graph.shapes[node.output][:2], np.int32)
            for node, _ in self._nodes
        }
        self._ports = [port.name for port in graph.inputs if port.layout != "raw"]
        self._input = np.zeros(picture.shape[:2], np.int32)

    def add(self, dense: bool, changed: float) -> None:
        """Count the step just done. changed: share of the input that was new."""
        self._frames += 1
        if dense:
            self._input += 1
            for counts in self._counts.values():
                counts += 1
        elif changed:
            for name in self._ports:
                if self._plan.graph.shapes[name][:2] == self._input.shape:
                    self._input += self._marks(name)
            for node, _ in self._nodes:
                self._counts[node.output] += self.computed(node)

    def computed(self, node: Node) -> NDArray[np.bool_]:
        """(H, W): the positions of a node's output that the last sparse step computed."""
        shape = self._plan.graph.shapes[node.output][:2]
        found = np.zeros(shape, bool)
        for name, window in zip(node.inputs, self._windows[node.output], strict=False):
            if name in self._plan.graph.constants or name not in self._plan.index:
                continue
            marks = self._marks(name)
            if window is None:
                found |= marks.any()
            else:
                found |= reached(marks, window)
        return found

    def _marks(self, name: str) -> NDArray[np.uint8]:
        """A mask is stale where no position of it is live."""
        marks = self._plan.mask(name)
        live = self._plan.live[self._plan.index[name]].any()
        return marks if live else np.zeros(marks.shape, np.uint8)

    def heat(self) -> Heat:
        frames = max(1, self._frames)
        levels: dict[Size, list[tuple[Shares, int]]] = {}
        for node, work in self._nodes:
            counts = self._counts[node.output]
            levels.setdefault((counts.shape[0], counts.shape[1]), []).append(
                ((counts / frames).astype(np.float32), work)
            )
        found = []
        for size in sorted(levels, key=lambda size: -size[0] * size[1]):
            shares = np.array([each for each, _ in levels[size]])
            held = [work for _, work in levels[size]]
            weights = held if sum(held) else [1] * len(held)
            mean = np.average(shares, axis=0, weights=weights).astype(np.float32)
            found.append(HeatLevel(mean, len(held), sum(held) / self._total))
        given = (self._input / np.float32(frames)).astype(np.float32)
        return Heat(self._picture, given, tuple(found), self._frames)


def reached(marks: NDArray[np.uint8], window: Window) -> NDArray[np.bool_]:
    """(H, W) marks of an input -> (H', W'): outputs whose window holds a marked position."""
    sums = cv2.integral((marks != 0).astype(np.uint8), sdepth=cv2.CV_32S)
    (top, bottom), (left, right) = window.rows, window.cols
    rows = sums[bottom] - sums[top]
    return np.asarray((rows[:, right] - rows[:, left]) > 0)


# --- the picture --------------------------------------------------------------------------------
WIDE = 440  # pixels of a tile
GAP = 20
LINE = 24
PER_ROW = 3
MOST_LEVELS = 7
PAPER, INK, SOFT = (250, 250, 248), (28, 30, 34), (105, 108, 114)
FONT = cv2.FONT_HERSHEY_SIMPLEX
FADED = 0.35  # how much of the frame's brightness stays under the colours


def draw(heat: Heat, title: str, subtitle: str = "") -> Image:
    """The frame, what was new in it, and each resolution's layers, (h, w, 3) uint8 RGB."""
    high = max(48, round(WIDE * heat.picture.shape[0] / heat.picture.shape[1]))
    frame = np.asarray(
        cv2.resize(heat.picture, (WIDE, high), interpolation=cv2.INTER_AREA), np.uint8
    )
    tiles = [
        ("the picture", "first frame of the clip", frame),
        (
            f"input {_size(heat.input)}",
            f"new: {heat.input.mean():.1%} of the picture",
            _coloured(heat.input, frame),
        ),
    ]
    shown = sorted(heat.levels, key=lambda level: -level.work)[:MOST_LEVELS]
    for level in (level for level in heat.levels if any(level is each for each in shown)):
        plural = "s" if level.layers > 1 else ""
        layers = f"{level.layers} layer{plural}"
        tiles.append(
            (
                f"{_size(level.shares)}: {layers}, {level.work:.0%} of the work",
                f"computed: {level.shares.mean():.1%} of the positions",
                _coloured(level.shares, frame),
            )
        )
    columns = min(PER_ROW, len(tiles))
    rows = -(-len(tiles) // columns)
    cell = high + 2 * LINE + GAP
    head = 3 * LINE + 2 * GAP
    canvas = np.full(
        (head + rows * cell + 3 * LINE, columns * (WIDE + GAP) + GAP, 3), PAPER, np.uint8
    )
    _text(canvas, title, (GAP, GAP + LINE // 2 + 4), 0.72, INK, 2)
    _text(canvas, subtitle, (GAP, GAP + LINE // 2 + LINE + 6), 0.5, SOFT)
    for number, (name, figure, image) in enumerate(tiles):
        top = head - LINE + (number // columns) * cell
        left = GAP + (number % columns) * (WIDE + GAP)
        _text(canvas, name, (left, top + 16), 0.5, INK)
        _text(canvas, figure, (left, top + LINE + 12), 0.46, SOFT)
        canvas[top + 2 * LINE - 4 :][:high, left : left + WIDE] = image
    _legend(canvas, heat.frames)
    return canvas


def _size(shares: Shares) -> str:
    return f"{shares.shape[1]}x{shares.shape[0]}"


def _ramp(shares: Shares) -> Image:
    """0..1 -> colours that grow brighter evenly, black for 0."""
    levels = np.clip(np.rint(shares * 255), 0, 255).astype(np.uint8)
    return np.asarray(
        cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_INFERNO), cv2.COLOR_BGR2RGB)
    )


def _coloured(shares: Shares, frame: Image) -> Image:
    """The shares over the frame in faded grey; where nothing was computed the grey shows."""
    high, wide = frame.shape[:2]
    grey = cv2.cvtColor(cv2.cvtColor(frame, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB) * FADED
    large = cv2.resize(shares, (wide, high), interpolation=cv2.INTER_NEAREST)
    cover = np.clip(large * 6, 0, 0.88)[..., None]  # seldom is still seen
    return np.asarray(grey * (1 - cover) + _ramp(0.2 + 0.8 * large) * cover, np.uint8)


def _legend(canvas: Image, frames: int) -> None:
    wide, high, left = 260, 14, GAP
    top = canvas.shape[0] - 2 * LINE
    steps = np.linspace(0, 1, wide, dtype=np.float32)[None].repeat(high, 0)
    grey = np.full((high, wide, 3), 90, np.uint8)
    canvas[top : top + high, left : left + wide] = _coloured(steps, grey)
    _text(canvas, "never", (left, top + high + 18), 0.42, SOFT)
    _text(canvas, "half", (left + wide // 2 - 14, top + high + 18), 0.42, SOFT)
    _text(canvas, "every frame", (left + wide - 78, top + high + 18), 0.42, SOFT)
    words = (
        f"in how many of {frames} frames a position was computed; grey: values of earlier frames"
    )
    _text(canvas, words, (left + wide + GAP, top + high - 2), 0.46, INK)


def _text(
    canvas: Image, words: str, at: tuple[int, int], size: float, colour: tuple[int, int, int],
    thick: int = 1,
) -> None:  # fmt: skip
    cv2.putText(canvas, words, at, FONT, size, colour, thick, cv2.LINE_AA)
