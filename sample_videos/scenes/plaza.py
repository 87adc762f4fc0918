"""plaza: a sunny town square from a still camera; people walk and stop, cars and a bus pass."""

import numpy as np

from stillframe.sample_videos.drawing.camera import Camera
from stillframe.sample_videos.drawing.canvas import darken
from stillframe.sample_videos.drawing.street import build, cast
from stillframe.sample_videos.drawing.vehicles import shadow
from stillframe.sample_videos.scenes.cut_outs import CutOut, stack
from stillframe.sample_videos.scenes.routes import WAYS, traffic, walkers
from stillframe.sample_videos.truth import Drawn


class Plaza:
    """The scene; every instant is a pure function of time."""

    def __init__(self, width: int, height: int, random: np.random.Generator) -> None:
        self._camera = Camera(width, height)
        self._street = build(self._camera, random, sunny=True)
        self._walkers = walkers(self._camera, random, WAYS)
        self._drives = traffic(self._camera, random)

    def at(self, time_s: float) -> Drawn:
        """The image at a time, with everything visible in it."""
        camera = self._camera
        picture = self._street.backdrop.copy()
        layers = [CutOut(prop.depth_m, prop.sprite) for prop in self._street.props]
        for identity, drive in enumerate(self._drives, start=len(self._walkers) + 1):
            layer = drive.layer(time_s, camera, identity)
            if layer is None:
                continue
            patch = shadow(drive.vehicle.length_px, camera.scale(drive.depth_m))
            left = layer.sprite.left + (layer.sprite.cover.shape[1] - patch.shape[1]) // 2
            top = round(camera.point(0, 0, drive.depth_m)[1] - patch.shape[0] * 0.55)
            darken(picture, patch, left, top, 0.62)
            layers.append(layer)
        for identity, walker in enumerate(self._walkers, start=1):
            layer = walker.layer(time_s, camera, identity)
            if layer is not None:
                cast(picture, layer.sprite, camera, layer.depth_m, 0.40)
                layers.append(layer)
        instances, things = stack(picture, layers)
        return Drawn(picture, instances, things)
