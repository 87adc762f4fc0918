"""Every error that stillframe raises on purpose.

    StillframeError           exit code 1
    ├── UsageError            2   the command line or an argument
    ├── SourceError           3   a camera, file or stream that frames come from
    ├── ModelError            4   an ONNX file, its weights, or what its graph asks for
    ├── SinkError             5   a file, pipe or window that results go to
    ├── QualityError          6   a required quality floor was not met
    ├── StageError            7   a stage of a pipeline failed, hung or returned nothing
    └── CertificateError      8   a run did not prove that enough was kept

A message states what was expected, what was got, where, and what to do. The command line prints it
on one line without a traceback and exits with `exit_code`.
"""

from typing import ClassVar

LONGEST_TEXT = 300
"""Characters of another program's message that an error quotes."""


class StillframeError(Exception):
    """Base of all errors that a user can cause and fix."""

    exit_code: ClassVar[int] = 1


class UsageError(StillframeError):
    """A command line or argument that makes no sense."""

    exit_code = 2


class SourceError(StillframeError):
    """Frames could not be read."""

    exit_code = 3


class ModelError(StillframeError):
    """A model could not be fetched, read or run."""

    exit_code = 4


class SinkError(StillframeError):
    """Results could not be written."""

    exit_code = 5


class QualityError(StillframeError):
    """The measured quality is below the required floor."""

    exit_code = 6


class StageError(StillframeError):
    """A stage of a pipeline failed, hung or returned nothing."""

    exit_code = 7


class CertificateError(StillframeError):
    """A run did not prove the agreement that it was to prove."""

    exit_code = 8


class CardWarning(UserWarning):
    """A model card was left out, because plain tensors were asked for and it has a fault."""


def shortened(text: str, most: int = LONGEST_TEXT) -> str:
    """The text, or as many of its first words as fit, and an ellipsis."""
    if len(text) <= most:
        return text
    start = text[: most - 1]
    return f"{start.rsplit(' ', 1)[0].rstrip(' ,;:')} …" if " " in start else f"{start}…"
