"""Where results go. A sink is a context manager with one method, `write`."""

import os
import stat
from abc import abstractmethod
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stillframe.closing import Closing
from stillframe.errors import SinkError
from stillframe.models.results import Result
from stillframe.pipeline.media.frame import Frame


class Sink(Closing):
    """Takes each frame with its result. `close` finishes the file and may be called twice."""

    @abstractmethod
    def write(self, frame: Frame, result: Result | None, image: NDArray[np.uint8] | None) -> None:
        """Add one frame. image: (H, W, 3) uint8 RGB, what to show of it; None: frame.image.

        Raises SinkError, and BrokenPipeError when the reader of a pipe went away.
        """

    @abstractmethod
    def close(self) -> None:
        """Finish. Raises SinkError when what is left could not be written."""


def create_file(path: Path, force: bool, sources: tuple[str | None, ...] = ()) -> int:
    """Create the file and give its descriptor, open for writing.

    Raises SinkError if there is such a file and not `force`, if it is one of `sources`, or if it
    cannot be created. A device or a pipe is no file that could be lost: it is taken as it is.
    """
    for source in sources:
        if source and path.exists() and os.path.exists(source) and path.samefile(source):
            raise SinkError(f"{path}: this is the source itself; name another file")
    special = path.exists() and not stat.S_ISREG(path.stat().st_mode)
    if special and path.is_dir():
        raise SinkError(f"{path}: a folder; name a file in it")
    create = 0 if special else os.O_CREAT | (os.O_TRUNC if force else os.O_EXCL)
    try:
        return os.open(path, os.O_WRONLY | os.O_CLOEXEC | create, 0o666)
    except FileExistsError:
        raise SinkError(f"{path}: there is such a file; overwrite it with --force") from None
    except OSError as error:
        raise SinkError(f"{path}: cannot be written: {reason(error)}") from None


def reason(error: Exception) -> str:
    """What the system said, without numbers and names."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
