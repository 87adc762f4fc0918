"""cuts: an edited programme, hard cuts between several cameras that all keep running."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from stillframe.sample_videos.scenes.desk import Desk
from stillframe.sample_videos.scenes.night import Night
from stillframe.sample_videos.scenes.pan import Pan
from stillframe.sample_videos.scenes.plaza import Plaza
from stillframe.sample_videos.truth import Drawn


class Scene(Protocol):
    """What a camera shows at a time in seconds from 0; times must not decrease."""

    def at(self, time_s: float) -> Drawn: ...


CAMERAS: tuple[Callable[[int, int, np.random.Generator], Scene], ...] = (
    Desk,
    Plaza,
    Pan,
    Desk,
    Night,
)
"""Cameras 0 and 3 are two people in two rooms, shown most often."""
WEIGHTS = (0.3, 0.2, 0.15, 0.2, 0.15)
SHOT_S = (1.1, 3.4)


@dataclass(frozen=True, slots=True)
class CameraShot:
    """The time during which one camera is shown."""

    start_s: float
    end_s: float
    camera: int
    """Index into CAMERAS."""


class CutsScene:
    """The scene; a camera is created when it is first shown."""

    def __init__(self, width: int, height: int, random: np.random.Generator) -> None:
        self._size = (width, height)
        plan, *self._seeds = random.spawn(1 + len(CAMERAS))
        self._cameras: dict[int, Scene] = {}
        self._plan = _plan(plan)
        self._shot = next(self._plan)

    def at(self, time_s: float) -> Drawn:
        """The image at a time; `view` is the camera."""
        while time_s >= self._shot.end_s:
            self._shot = next(self._plan)
        number = self._shot.camera
        if number not in self._cameras:
            self._cameras[number] = CAMERAS[number](*self._size, self._seeds[number])
        return replace(self._cameras[number].at(time_s), view=number)


def _plan(random: np.random.Generator) -> Iterator[CameraShot]:
    now, camera = 0.0, 0
    while True:
        end = now + float(random.uniform(*SHOT_S))
        yield CameraShot(now, end, camera)
        weights = np.array(WEIGHTS)
        weights[camera] = 0  # never to the same camera
        camera = int(random.choice(len(WEIGHTS), p=weights / weights.sum()))
        now = end
