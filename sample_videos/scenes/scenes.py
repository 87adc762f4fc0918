"""SCENES: the drawn clips, from a seed, frame by frame, with exact ground truth.

    for frame in draw("plaza", Options(size=(640, 360), seconds=5)):
        frame.image, frame.changed, frame.things

A scene is a pure function of time: a longer clip begins with the shorter one, and another frame
rate shows the same events.
"""

import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from stillframe.errors import SourceError
from stillframe.sample_videos.drawing.noise import SensorNoise
from stillframe.sample_videos.options import Options
from stillframe.sample_videos.scenes.cuts import CutsScene, Scene
from stillframe.sample_videos.scenes.desk import Desk
from stillframe.sample_videos.scenes.night import Night
from stillframe.sample_videos.scenes.pan import Pan
from stillframe.sample_videos.scenes.plaza import Plaza
from stillframe.sample_videos.scenes.screen import Screen
from stillframe.sample_videos.truth import SceneFrame, difference

DRAWING_VERSION = 1
"""Increased whenever the images of any scene change, so that cached clips are drawn again."""


@dataclass(frozen=True, slots=True)
class SceneRow:
    """One drawn scene."""

    make: Callable[[int, int, np.random.Generator], Scene]
    """(width, height, random) -> the scene."""
    noise: float
    """Standard deviation of its sensor noise, grey levels, unless another is requested."""
    about: str
    """What it shows, in one line."""
    exact: bool = False
    """Without noise it is encoded losslessly: unchanged frames decode unchanged."""


SCENES: dict[str, SceneRow] = {
    "plaza": SceneRow(
        Plaza, 3.0, "still camera: people and cars on a sunny square, occlusion, noise"
    ),
    "desk": SceneRow(Desk, 2.0, "still camera: someone talks to a webcam, the exposure drifts"),
    "screen": SceneRow(
        Screen, 0.0, "desktop recording: text, windows, pointer; long still spans", exact=True
    ),
    "pan": SceneRow(Pan, 2.0, "moving camera: a drone over a small town, every pixel changes"),
    "cuts": SceneRow(CutsScene, 2.5, "hard cuts between five cameras"),
    "night": SceneRow(Night, 9.0, "still camera: a dark square, strong noise, lights switching"),
}


def row(name: str) -> SceneRow:
    """The scene of that name. Raises SourceError, with all names, if there is none."""
    if name not in SCENES:
        raise SourceError(f"no drawn scene is called {name!r}; there are {', '.join(SCENES)}")
    return SCENES[name]


def noise_of(name: str, options: Options) -> float:
    """The standard deviation of the noise: the requested one, else the scene's own."""
    return row(name).noise if options.noise is None else options.noise


def draw(name: str, options: Options | None = None) -> Iterator[SceneFrame]:
    """The frames of a drawn clip, one at a time; memory does not grow with its length."""
    scene_row, options = row(name), options or Options()
    width, height = options.size
    seed = [options.seed, zlib.crc32(name.encode())]
    world, grain = np.random.default_rng(seed).spawn(2)
    scene = scene_row.make(width, height, world)
    sensor = SensorNoise(width, height, noise_of(name, options), grain)
    before = None
    for index in range(options.frame_count):
        time_s = float(index / options.rate)
        drawn = scene.at(time_s)
        yield SceneFrame(
            index=index,
            time_s=time_s,
            image=sensor.add(drawn.picture, grain),
            clean=drawn.picture,
            changed=difference(drawn.picture, before.picture if before else None),
            instances=drawn.instances,
            things=drawn.things,
            cut=before is not None and drawn.view != before.view,
        )
        before = drawn
