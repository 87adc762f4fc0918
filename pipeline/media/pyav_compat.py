"""What differs between the versions of PyAV that are supported, 17.1 and later."""

from collections.abc import Mapping
from fractions import Fraction
from typing import Any, BinaryIO, Protocol

import av
from av.container import InputContainer

# Before 19, tags in another encoding than UTF-8 were an error unless one asked otherwise.
_ANY_TAGS: dict[str, Any] = (
    {"metadata_errors": "replace"} if int(av.__version__.partition(".")[0]) < 19 else {}
)


class ReadableFile(Protocol):
    """What FFmpeg can read besides a name."""

    def read(self, size: int, /) -> bytes: ...


class Ratio(Protocol):
    """A Fraction; since PyAV 19 a type of its own, with 0 or a denominator of 0 for unknown."""

    @property
    def numerator(self) -> int: ...
    @property
    def denominator(self) -> int: ...
    def __bool__(self) -> bool: ...


def open_input(
    file: str | ReadableFile | BinaryIO,
    protocols: str,
    options: Mapping[str, str] | None = None,
    timeout_s: float | None = None,
    format_name: str | None = None,
) -> InputContainer:
    """Open for reading, with no more than `protocols` (FFmpeg's names, by commas) to open more."""
    opened: InputContainer = av.open(
        file,
        mode="r",
        format=format_name,
        options={**(options or {}), "protocol_whitelist": protocols},
        timeout=timeout_s,
        **_ANY_TAGS,
    )
    return opened


def to_fraction(ratio: Ratio | None) -> Fraction | None:
    """The ratio as a Fraction, None where it is unknown."""
    return Fraction(ratio.numerator, ratio.denominator) if ratio else None
