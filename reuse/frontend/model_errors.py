"""The border that no foreign exception of a broken model crosses: each becomes a ModelError."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from stillframe.errors import ModelError, StillframeError


def model_title(source: str | Path | bytes) -> str:
    """How errors name the model: its path, or "the model" for bytes."""
    return "the model" if isinstance(source, bytes) else str(source)


@contextmanager
def model_errors(title: str) -> Iterator[None]:
    """Raise every exception of the block as a ModelError that names the model and the node.

    Libraries raise whatever they like about a broken model. Code that works on one node adds a note
    to an exception (`BaseException.add_note`) that says which; the first note is shown.
    """
    try:
        yield
    except StillframeError:
        raise
    except MemoryError as error:
        raise ModelError(
            f"{title}: {_where(error)}there is not enough memory ({_reason(error)}); feed it a"
            " smaller picture"
        ) from error
    except Exception as error:
        raise ModelError(f"{title}: {_where(error)}{_reason(error)}") from error


def _where(error: Exception) -> str:
    notes = getattr(error, "__notes__", ())
    return f"{notes[0]}: " if notes else ""


def _reason(error: Exception) -> str:
    """The message on one line, without ONNX Runtime's own code in front; else the type."""
    text = " ".join(str(error).split())
    if text.startswith("[ONNXRuntimeError]"):
        return f"ONNX Runtime stopped: {text.split(' : ', 3)[-1]}"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__
