"""The frames that a search plays: windows of a clip, fitted once, with their dense results."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from itertools import islice, pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from stillframe.errors import SourceError
from stillframe.models.model import Model, View
from stillframe.models.results import Result
from stillframe.pipeline.inference.box_flow import Grey, Lens
from stillframe.pipeline.inference.types import FittedFrame
from stillframe.pipeline.media.open_source import open_source
from stillframe.pipeline.media.redaction import MaskedAddress

Role = Literal["search", "check", "held out"]
SHARES: Mapping[Role, float] = {"search": 0.4, "held out": 0.4, "check": 0.2}
LEAST_FRAMES = 8
WINDOWS = 10
LEAST_WINDOW = 4  # frames; shorter clips are cut into fewer windows
TICK = Fraction(1, 1_000_000)
NO_PIXELS = np.zeros((1, 1, 1), np.uint8)


@dataclass(slots=True)
class Passage:
    """Windows of consecutive frames of a clip, at the model's size."""

    clip: str
    windows: tuple[tuple[int, int], ...]
    """The clip's frames in each window: the first, and the exclusive end."""
    role: Role
    """What the frames are for, see `passages`."""
    model: Model
    """At the size that suits the clip."""
    pictures: list[NDArray[np.uint8]]
    """The frames of all windows, one after the other, (H, W, 3)."""
    views: list[View]
    """How each picture lies over its frame."""
    greys: list[Grey]
    """What boxes are followed on, one a picture; empty unless the model is a detector."""
    shape: tuple[int, ...]
    """Of a frame, (h, w, 3)."""
    frame_s: float
    """From one frame to the next."""
    dense: list[Result] = field(default_factory=list)
    """What computing everything gives, one a picture."""

    def frame(self, at: int) -> FittedFrame:
        """A picture by its place in `pictures`, as the runner takes it; times are even."""
        return FittedFrame(
            np.broadcast_to(NO_PIXELS, self.shape),
            index=at,
            time_s=at * self.frame_s,
            pts=round(at * self.frame_s / TICK),
            time_base=TICK,
            fitted=self.pictures[at],
            view=self.views[at],
            grey=self.greys[at] if self.greys else None,
        )


def passages(
    spec: str, model: Model, frames: int, shares: Mapping[Role, float] = SHARES
) -> list[Passage]:
    """The first frames of a clip, in windows that take turns: to search on, to check that the
    outcome holds elsewhere, and to judge on at last, which decides nothing. So each part sees all
    of what happens in the clip.

    Raises SourceError for a clip that is too short.
    """
    spec = MaskedAddress(spec)
    fitted: list[tuple[NDArray[np.uint8], View]] = []
    greys: list[Grey] = []
    shape: tuple[int, ...] = ()
    fixed, lens = model, Lens() if model.task == "detection" else None
    times = []
    with open_source(spec, live=False) as source:
        name = source.info.spec
        for frame in islice(source, frames):
            if not fitted:
                shape = frame.image.shape
                fixed = model.for_source(*shape[:2])
            picture, view = fixed.fit(frame.image)
            fitted.append((np.array(picture), view))
            times.append(frame.time_s)
            if lens is not None:
                greys.append(lens.grey(frame.image))
    if len(fitted) < LEAST_FRAMES:
        raise SourceError(
            f"{spec}: expected a clip of at least {LEAST_FRAMES} frames to tune on, "
            f"got {len(fitted)}"
        )
    frame_s = float(np.median(np.diff(times)))
    parts = []
    turns = windows(len(fitted), shares)
    for role in shares:
        spans = tuple(span for span, turn in turns if turn == role)
        taken = [at for first, end in spans for at in range(first, end)]
        pictures, views = [fitted[at][0] for at in taken], [fitted[at][1] for at in taken]
        seen = [greys[at] for at in taken] if greys else []
        parts.append(Passage(name, spans, role, fixed, pictures, views, seen, shape, frame_s))
    return parts


def windows(frames: int, shares: Mapping[Role, float]) -> list[tuple[tuple[int, int], Role]]:
    """Spans of frames, and the role of each: the one that lacks most of its share so far."""
    count = min(WINDOWS, max(frames // LEAST_WINDOW, len(shares))) if len(shares) > 1 else 1
    ends = [at * frames // count for at in range(count + 1)]
    counts = dict.fromkeys(shares, 0)
    spans = []
    for turn, span in enumerate(pairwise(ends), 1):
        role = max(shares, key=lambda each: round(shares[each] * turn - counts[each], 6))
        counts[role] += 1
        spans.append((span, role))
    return spans
