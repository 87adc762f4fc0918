"""A cadence where one thread does it all: which frames pass, and what they are told.

    beat = Cadenced(cadence)
    if beat.passes():
        result = beat.passed(picture)
    else: … beat.computed(result, picture), unless nothing had changed

After a frame without change none passes until one is computed: there is nothing to be told of it.
`Look` and `Answers` do the same in two threads. Here frames come evenly, and none is a cut.
"""

from stillframe.models.results import Result
from stillframe.pipeline.inference.box_flow import BoxFollower, Grey
from stillframe.pipeline.inference.frame_skipping import FrameSkipping


class Cadenced:
    """The state of one stream. Pictures are `Lens.grey`'s, None where nothing is followed. frame_s:
    from one frame to the next."""

    def __init__(self, cadence: FrameSkipping, frame_s: float) -> None:
        self._cadence, self._frame_s = cadence, frame_s
        self._follower = BoxFollower()
        self._result: Result | None = None
        self._count = 0

    def passes(self) -> bool:
        """Whether the network leaves the next frame out."""
        since_s = (self._count + 1) * self._frame_s
        return self._result is not None and self._cadence.passes(self._count, since_s)

    def computed(self, result: Result, grey: Grey | None) -> None:
        """What the network says about a frame that did not pass."""
        self._result, self._count = result, 0
        if grey is not None:
            self._follower.begin(result, grey)

    def passed(self, grey: Grey | None, shape: tuple[int, ...]) -> Result:
        """The result of a frame that passes; shape: of the frame, (H, W, …)."""
        assert self._result is not None
        self._count += 1
        return self._result if grey is None else self._follower.carry(grey, shape)

    def reset(self) -> None:
        """Forget the frames so far."""
        self._result, self._count = None, 0
        self._follower.forget()
