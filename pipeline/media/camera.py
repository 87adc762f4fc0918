"""Cameras of this machine, by number or device file."""

import os
import sys
from pathlib import Path

from stillframe.errors import SourceError

INPUT_FORMAT = "v4l2"
SUPPORTED = sys.platform.startswith("linux")
DEVICES = Path("/dev")
BY_ID = Path("/dev/v4l/by-id")


def device_path(target: str, shown: str, devices: Path = DEVICES) -> str:
    """The device file of a camera number or path. Raises SourceError if there is none."""
    if not SUPPORTED:
        raise SourceError(f"{shown}: cameras are read through Video4Linux, so on Linux only")
    path = devices / f"video{int(target)}" if target.isdecimal() else Path(target)
    if not path.exists():
        cameras = sorted(str(each) for each in devices.glob("video[0-9]*"))
        there = f"cameras here: {', '.join(cameras)}" if cameras else "no camera is plugged in"
        raise SourceError(f"{shown}: no camera at {path}; {there}")
    if not os.access(path, os.R_OK | os.W_OK):
        raise SourceError(
            f"{shown}: no permission to use {path}; add your user to the group 'video'"
        )
    return str(path)


def stable_name(path: str, by_id: Path = BY_ID) -> str:
    """The camera's name under `by_id`, which survives unplugging; `path` itself if it has none.

    After unplugging, number 0 may be another camera.
    """
    real = os.path.realpath(path)
    for link in sorted(by_id.glob("*")) if by_id.is_dir() else []:
        if os.path.realpath(link) == real:
            return str(link)
    return path
