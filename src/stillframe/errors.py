"""Every error that stillframe raises on purpose.

    StillframeError           exit code 1
    ├── UsageError            2   the command line or an argument
    ├── SourceError           3   a camera, file or stream that frames come from
    ├── ModelError            4   an ONNX file, its weights, or what its graph asks for
    ├── SinkError             5   a file, pipe or window that results go to
    ├── QualityError          6   a quality floor was asked for and not met
    └── StageError            7   a stage of a pipeline failed, hung or returned nothing

A message says what was expected, what came and where, then what to do. The command line prints it
on one line and exits with `exit_code`; no traceback is shown for any of these.
"""

from typing import ClassVar


class StillframeError(Exception):
    """Anything that a user can cause and mend."""

    exit_code: ClassVar[int] = 1


class UsageError(StillframeError):
    """The command line or a call does not make sense."""

    exit_code = 2


class SourceError(StillframeError):
    """Frames could not be had."""

    exit_code = 3


class ModelError(StillframeError):
    """A model could not be had, read or run."""

    exit_code = 4


class SinkError(StillframeError):
    """Results could not be written."""

    exit_code = 5


class QualityError(StillframeError):
    """The measured quality is below the floor that was asked for."""

    exit_code = 6


class StageError(StillframeError):
    """A stage of a pipeline failed, hung or returned nothing."""

    exit_code = 7
