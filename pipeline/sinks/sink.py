"""The sink interface, and creating the file that a sink writes."""

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
from stillframe.pipeline.media.redaction import unmasked


class Sink(Closing):
    """A context manager that writes each frame with its result. `close` may be called twice."""

    @abstractmethod
    def write(self, frame: Frame, result: Result | None, image: NDArray[np.uint8] | None) -> None:
        """Write one frame. image: (H, W, 3) uint8 RGB to show; None: frame.image.

        Raises SinkError, and BrokenPipeError if the reader of a pipe went away.
        """

    @abstractmethod
    def close(self) -> None:
        """Finish the output. Raises SinkError if the rest could not be written."""


def create_file(path: Path, force: bool, sources: tuple[str | None, ...] = ()) -> int:
    """Create a file; -> its descriptor, open for writing.

    Raises SinkError if the file exists (unless `force`), is one of `sources`, or cannot be created.
    A device or pipe that exists is opened as it is: there is nothing to lose.
    """
    for source in (unmasked(each) for each in sources if each):
        if path.exists() and os.path.exists(source) and path.samefile(source):
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
    """The system's error message, lower case, without numbers and paths."""
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).lower()
