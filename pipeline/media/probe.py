"""The facts of a source: what it states, and what decoding its first frames shows."""

import os
import statistics
import time
from dataclasses import asdict, dataclass
from fractions import Fraction
from itertools import islice, pairwise
from typing import Any

from stillframe.errors import SourceError
from stillframe.pipeline.media.open_source import Source, SourceInfo, open_source

DEFAULT_FRAMES = 60
UNEVEN_SHARE = 0.05  # intervals vary if they differ by more than this part of their median
TICK_S = 0.0011  # rounding of containers that count whole milliseconds


@dataclass(frozen=True, slots=True)
class SourceProbe:
    """The facts of a source and of its first frames."""

    info: SourceInfo
    """What the source states."""
    frames: int
    """Frames that were decoded for this."""
    corrupt: int
    """Of those, flagged as corrupt."""
    discontinuities: int
    """Of those, flagged as a discontinuity."""
    skipped: int
    """Packets or pictures that gave no frame."""
    dropped: int
    """Live frames that were replaced by newer ones."""
    measured_rate: float | None
    """Frames per second by their times; None for fewer than two frames."""
    interval_ms: tuple[float, float, float] | None
    """(least, median, most) milliseconds between frames; None for fewer than two frames."""
    variable_rate: bool | None
    """Whether those intervals vary, or what the container's index says."""
    sizes: tuple[tuple[int, int], ...]
    """Each (width, height) that occurred, in order."""
    decode_ms: float | None
    """Median milliseconds to decode a frame; None for live sources, which are waited for."""
    fault: str | None
    """Why reading stopped early; None if it did not."""

    def to_dict(self) -> dict[str, Any]:
        """JSON values; what the source states is under `info`."""
        return {**asdict(self), "info": self.info.to_dict()}


def probe_source(
    spec: str | os.PathLike[str],
    frames: int = DEFAULT_FRAMES,
    *,
    rate: Fraction | float | None = None,
    timeout_s: float = 10.0,
) -> SourceProbe:
    """Open a source and decode its first `frames` frames (at least one). Raises SourceError."""
    with open_source(spec, rate=rate, timeout_s=timeout_s) as source:
        return _probe_open_source(source, max(1, frames))


def _probe_open_source(source: Source, count: int) -> SourceProbe:
    times: list[float] = []
    spent_ms: list[float] = []
    indices: list[int] = []
    sizes: dict[tuple[int, int], None] = {}
    corrupt = discontinuities = 0
    fault = None
    before = time.perf_counter()
    try:
        for frame in islice(source, count):
            now = time.perf_counter()
            spent_ms.append((now - before) * 1e3)
            times.append(frame.time_s)
            indices.append(frame.index)
            sizes[frame.image.shape[1], frame.image.shape[0]] = None
            corrupt += frame.corrupt
            discontinuities += frame.discontinuity
            before = time.perf_counter()
    except SourceError as error:
        fault = str(error)
    # per index step: dropped frames between two delivered ones do not make intervals vary
    gaps = [(b - a) / (j - i) for (a, i), (b, j) in pairwise(zip(times, indices, strict=True))]
    # the first picture was decoded when the source was opened
    decoding = spent_ms[1:] or spent_ms
    return SourceProbe(
        info=source.info,
        frames=len(times),
        corrupt=corrupt,
        discontinuities=discontinuities,
        skipped=source.skipped,
        dropped=source.dropped,
        measured_rate=round(1 / statistics.fmean(gaps), 3) if gaps and sum(gaps) else None,
        interval_ms=_spread_ms(gaps),
        variable_rate=_varies(gaps, source.info.variable_rate),
        sizes=tuple(sizes),
        decode_ms=None if source.info.live else round(statistics.median(decoding), 3),
        fault=fault,
    )


def _spread_ms(gaps: list[float]) -> tuple[float, float, float] | None:
    if not gaps:
        return None
    low, middle, high = min(gaps), statistics.median(gaps), max(gaps)
    return round(low * 1e3, 3), round(middle * 1e3, 3), round(high * 1e3, 3)


def _varies(gaps: list[float], stated: bool | None) -> bool | None:
    """Whether intervals vary: True if the index says so, else as measured."""
    if stated or len(gaps) < 2:
        return stated
    tolerance = max(statistics.median(gaps) * UNEVEN_SHARE, TICK_S)
    return max(gaps) - min(gaps) > tolerance
