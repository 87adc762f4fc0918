"""Drawn frames -> an H.264 file in the user's cache, encoded once."""

import contextlib
import os
import tempfile
from collections.abc import Callable, Iterable
from fractions import Fraction
from pathlib import Path

import av
import cv2
from av.video.reformatter import ColorRange, Colorspace

from stillframe.cache_dir import cache_folder
from stillframe.errors import SourceError
from stillframe.sample_videos.drawing.texture import Picture
from stillframe.sample_videos.options import Options
from stillframe.sample_videos.scenes.scenes import DRAWING_VERSION, draw, noise_of, row

Progress = Callable[[int, int], None]
"""(frames done, frames in all)."""

ENCODER: dict[str, str] = {"crf": "20", "preset": "veryfast", "g": "120"}
LOSSLESS: dict[str, str] = {"crf": "0", "preset": "veryfast", "g": "120"}
"""For screen recordings: still small, and unchanged frames decode unchanged.

With any loss, x264 keeps refining a still image for some frames after each change.
"""
BT709 = 1


def clip(
    name: str, options: Options, *, folder: Path | None = None, progress: Progress | None = None
) -> Path:
    """The clip's file, drawn and encoded unless the cache has it.

    folder: used instead of the cache. Raises SourceError if it cannot be written.
    """
    target = (folder or cache_folder() / "samples") / file_name(name, options)
    if target.is_file():
        return target
    pictures = (frame.image for frame in draw(name, options))
    exact = row(name).exact and noise_of(name, options) == 0
    write(pictures, target, options, LOSSLESS if exact else ENCODER, progress)
    return target


def file_name(name: str, options: Options) -> str:
    """A name with everything that decides the file's content.

    That includes OpenCV's major version, because its text and edges differ between them.
    """
    drawn_by = f"v{DRAWING_VERSION}cv{cv2.__version__.partition('.')[0]}"
    return f"{name}-{options.label(noise_of(name, options))}-{drawn_by}.mp4"


def write(
    pictures: Iterable[Picture],
    target: Path,
    options: Options,
    encoder: dict[str, str],
    progress: Progress | None = None,
) -> None:
    """Encode images into target, which appears complete or not at all."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(
            dir=target.parent, prefix=f".{target.stem}.", suffix=".part"
        )
        os.close(handle)
    except OSError as e:
        raise SourceError(
            f"{target.parent}: the clip cannot be written there ({e.strerror}); "
            "set STILLFRAME_CACHE to a folder that can"
        ) from e
    try:
        _encode(pictures, name, options, encoder, progress)
        os.chmod(name, 0o644)
        os.replace(name, target)
    except OSError as e:  # such as a full disk; av.FFmpegError is not an OSError
        raise SourceError(f"{target}: the clip cannot be written ({e.strerror or e})") from e
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name)


def _encode(
    pictures: Iterable[Picture],
    name: str,
    options: Options,
    encoder: dict[str, str],
    progress: Progress | None,
) -> None:
    rate = options.rate
    with av.open(name, "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=rate, options=encoder)
        stream.width, stream.height = options.size
        stream.pix_fmt = "yuv420p"
        context = stream.codec_context
        context.time_base = Fraction(rate.denominator, rate.numerator)
        context.color_primaries = context.color_trc = context.colorspace = BT709
        context.color_range = ColorRange.MPEG
        for index, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(
                format="yuv420p",
                dst_colorspace=Colorspace.ITU709,
                dst_color_range=ColorRange.MPEG,
            )
            frame.pts = index
            frame.time_base = context.time_base
            container.mux(stream.encode(frame))
            if progress is not None:
                progress(index + 1, options.frame_count)
        container.mux(stream.encode(None))
