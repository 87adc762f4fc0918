"""Which models are tried on which clips, and what each pair is there for."""

from dataclasses import dataclass
from typing import Literal

Role = Literal["developed", "held out"]


@dataclass(frozen=True, slots=True)
class Pair:
    """A model on a clip. Nothing is set for a pair: that is the point."""

    model: str
    clip: str
    """As for `open_source`."""
    shows: str
    """What is hard, or easy, about it."""
    role: Role = "developed"
    """Whether defaults were chosen with its figures in view."""
    frames: int = 300
    """At most."""
    crop: str = ""
    """WIDTHxHEIGHT+X+Y of the picture, for networks that take seconds a frame; empty: all of it."""

    @property
    def title(self) -> str:
        return f"{self.model} on {self.clip.removeprefix('sample:')}"


PAIRS: tuple[Pair, ...] = (
    Pair("centerface", "sample:sports2d_demo", "still camera, light that changes"),
    Pair("centerface", "sample:plaza?seconds=10", "still camera, small faces, noise"),
    Pair("centerface", "sample:pan?seconds=10", "moving camera, nothing to find"),
    Pair("centerface", "sample:talking_head", "near face, low frame rate", "held out"),
    Pair("centerface", "sample:pose2sim_cam01", "upright picture", "held out"),
    Pair("centerface", "sample:desk?seconds=10", "webcam, exposure drifts"),
    Pair("yolov3-tiny", "sample:vtest", "surveillance, noisy MPEG-4, 10 fps"),
    Pair("yolov3-tiny", "sample:bikes", "moving camera and cuts"),
    Pair("yolov3-tiny", "sample:plaza?seconds=10", "still camera, noise", "held out"),
    Pair("yolov3-tiny", "sample:sports2d_demo", "still camera, large people"),
    Pair("ppocr-det", "sample:screen?seconds=10", "desktop, long still spans"),
    Pair("ppocr-det", "sample:blender_screen", "screen recording, dense text", "held out"),
    Pair("ppocr-det", "sample:pan?seconds=10", "moving camera", "held out"),
    Pair("yolox-tiny", "sample:blender_screen", "screen recording"),
    Pair("pnet", "sample:plaza?seconds=10", "a network of 5 ms"),
    Pair("pnet", "sample:cuts?seconds=10", "hard cuts between five cameras", "held out"),
    Pair("layout", "sample:screen?seconds=15&fps=10", "desktop, low frame rate", "held out", 150),
    Pair(
        "animevideo-x2", "sample:screen?seconds=10", "upscaler", "developed", 40, "320x180+480+270"
    ),
    Pair("animevideo-x2", "sample:desk?seconds=10", "upscaler", "held out", 40, "320x180+480+270"),
)
"""Pairs that are held out were not looked at while defaults were chosen."""
