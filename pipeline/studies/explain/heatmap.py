"""Where a network computed again: counted per resolution, and drawn as one picture."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from stillframe.reuse.introspection import changed_positions, computed_positions, layers
from stillframe.reuse.session import ReuseSession

Shares = NDArray[np.float32]
Image = NDArray[np.uint8]
Size = tuple[int, int]


@dataclass(frozen=True, slots=True)
class HeatmapLevel:
    """The layers of one resolution."""

    shares: Shares
    """(H, W): of the frames, in which the position was computed, mean over the layers weighted by
    multiply-adds."""
    layers: int
    """How many there are."""
    work: float
    """Their part of all multiply-adds."""


@dataclass(frozen=True, slots=True)
class Heatmap:
    """How often each position of a network was computed over a clip."""

    picture: Image
    """(H, W, 3): a frame of the clip as the model sees it."""
    input: Shares
    """(H, W): share of the frames in which a pixel was new."""
    levels: tuple[HeatmapLevel, ...]
    """Finest first."""
    frames: int
    """How many were counted."""


class HeatmapCounter:
    """Counts, after each step of a session, which positions it computed.

    The session has run once. picture: (H, W, 3), what it was fed.
    """

    def __init__(self, session: ReuseSession, picture: Image) -> None:
        self._session, self._picture, self._frames = session, picture.copy(), 0
        self._work: dict[str, int] = {}
        for layer in layers(session):
            self._work[layer.name] = self._work.get(layer.name, 0) + layer.multiply_adds
        self._total = max(1, sum(self._work.values()))
        self._counts: dict[str, NDArray[np.int32]] = {
            name: np.zeros(computed.shape, np.int32)
            for name, computed in computed_positions(session).items()
        }
        self._inputs = session.picture_inputs
        self._input: NDArray[np.int32] = np.zeros(picture.shape[:2], np.int32)

    def add(self) -> None:
        """Count the step just done."""
        self._frames += 1
        for name in self._inputs:
            changed = changed_positions(self._session, name)
            if changed.shape == self._input.shape:
                self._input += changed
        for name, computed in computed_positions(self._session).items():
            self._counts[name] += computed

    def heatmap(self) -> Heatmap:
        frames = max(1, self._frames)
        levels: dict[Size, list[tuple[Shares, int]]] = {}
        for name, counts in self._counts.items():
            levels.setdefault((counts.shape[0], counts.shape[1]), []).append(
                ((counts / frames).astype(np.float32), self._work.get(name, 0))
            )
        drawn = []
        for size in sorted(levels, key=lambda size: -size[0] * size[1]):
            shares = np.array([each for each, _ in levels[size]])
            work = [each for _, each in levels[size]]
            weights = work if sum(work) else [1] * len(work)
            mean = np.average(shares, axis=0, weights=weights).astype(np.float32)
            drawn.append(HeatmapLevel(mean, len(work), sum(work) / self._total))
        new = (self._input / np.float32(frames)).astype(np.float32)
        return Heatmap(self._picture, new, tuple(drawn), self._frames)


# --- the picture --------------------------------------------------------------------------------
WIDE = 440  # pixels of a tile
GAP = 20
LINE = 24
PER_ROW = 3
MOST_LEVELS = 7
PAPER, INK, SOFT = (250, 250, 248), (28, 30, 34), (105, 108, 114)
FONT = cv2.FONT_HERSHEY_SIMPLEX
FADED = 0.35  # how much of the frame's brightness stays under the colours


def draw(heatmap: Heatmap, title: str, subtitle: str = "") -> Image:
    """The frame, what was new in it, and each resolution's layers, (h, w, 3) uint8 RGB."""
    high = max(48, round(WIDE * heatmap.picture.shape[0] / heatmap.picture.shape[1]))
    frame = np.asarray(
        cv2.resize(heatmap.picture, (WIDE, high), interpolation=cv2.INTER_AREA), np.uint8
    )
    tiles = [
        ("the picture", "first frame of the clip", frame),
        (
            f"input {_size(heatmap.input)}",
            f"new: {heatmap.input.mean():.1%} of the picture",
            _coloured(heatmap.input, frame),
        ),
    ]
    shown = sorted(heatmap.levels, key=lambda level: -level.work)[:MOST_LEVELS]
    for level in (level for level in heatmap.levels if any(level is each for each in shown)):
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
    _legend(canvas, heatmap.frames)
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
