"""What a source holds: what it states, and what decoding its first frames showed."""

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
UNEVEN_SHARE = 0.05  # intervals that differ by more than this part of their median are uneven
TICK_S = 0.0011  # a container may count whole milliseconds


@dataclass(frozen=True, slots=True)
class SourceProbe:
    """The facts of a source.

    frames: how many were decoded for this. corrupt, discontinuities: flagged among them.
    skipped: packets or pictures that gave no frame. dropped: live frames nobody waited for.
    measured_rate: frames per second by their times; None for fewer than two.
    interval_ms: (least, median, most) milliseconds between frames, or None.
    variable_rate: whether those intervals differ, or what the container's index says.
    sizes: each (width, height) that came, in order. decode_ms: median time to the next frame,
    None for live sources, which one waits for.
    fault: why reading stopped early; None if it did not.
    """

    info: SourceInfo
    frames: int
    corrupt: int
    discontinuities: int
    skipped: int
    dropped: int
    measured_rate: float | None
    interval_ms: tuple[float, float, float] | None
    variable_rate: bool | None
    sizes: tuple[tuple[int, int], ...]
    decode_ms: float | None
    fault: str | None

    def to_dict(self) -> dict[str, Any]:
        """JSON values; what the source states under `info`."""
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
        return _examined(source, max(1, frames))


def _examined(source: Source, wanted: int) -> SourceProbe:
    times: list[float] = []
    spent_ms: list[float] = []
    indices: list[int] = []
    sizes: dict[tuple[int, int], None] = {}
    corrupt = discontinuities = 0
    fault = None
    before = time.perf_counter()
    try:
        for frame in islice(source, wanted):
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
    # dropped frames lie between those that came: their share of a gap is not unevenness
    gaps = [(b - a) / (j - i) for (a, i), (b, j) in pairwise(zip(times, indices, strict=True))]
    # the first picture was decoded while the source was opened
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
        variable_rate=_uneven(gaps, source.info.variable_rate),
        sizes=tuple(sizes),
        decode_ms=None if source.info.live else round(statistics.median(decoding), 3),
        fault=fault,
    )


def _spread_ms(gaps: list[float]) -> tuple[float, float, float] | None:
    if not gaps:
        return None
    low, middle, high = min(gaps), statistics.median(gaps), max(gaps)
    return round(low * 1e3, 3), round(middle * 1e3, 3), round(high * 1e3, 3)


def _uneven(gaps: list[float], stated: bool | None) -> bool | None:
    """Whether the intervals differ, where they were not all looked at: or what the index says."""
    if stated or len(gaps) < 2:
        return stated
    tolerance = max(statistics.median(gaps) * UNEVEN_SHARE, TICK_S)
    return max(gaps) - min(gaps) > tolerance
