"""YUV4MPEG2, uncompressed video for pipes: a header line, then each frame's samples.

    YUV4MPEG2 W1280 H720 F30000:1001 Ip A1:1 C420mpeg2 XCOLORRANGE=LIMITED
    FRAME
    (Y, U and V, plane after plane)

A header is passed on unchanged unless the picture's size changes. Data that does not fit the header
is an error with its byte offset; the frames before it are delivered.
"""

from dataclasses import dataclass, replace
from fractions import Fraction
from typing import NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

from stillframe.errors import SourceError
from stillframe.pipeline.filter.planes import LAYOUTS, Layout

MAGIC = b"YUV4MPEG2"
FRAME = b"FRAME\n"
LONGEST_HEADER = 4096  # bytes
LARGEST_SIDE = 16384  # pixels
DEFAULT_CHROMA = "420jpeg"

# values of `C` -> layout. Chroma siting is passed on; effects do not need it.
CHROMA: dict[str, str] = {
    "420jpeg": "yuv420p",
    "420mpeg2": "yuv420p",
    "420paldv": "yuv420p",
    "420": "yuv420p",
    "422": "yuv422p",
    "444": "yuv444p",
    "mono": "gray",
}
INTERLACE = "ptbm?"
CONVERT_COMMAND = "ffmpeg -i IN -pix_fmt yuv420p -f yuv4mpegpipe -"
SUPPORTED = f"8-bit 4:2:0, 4:2:2, 4:4:4 or grey ({' '.join(CHROMA)})"


class ByteSource(Protocol):
    """Where a stream is read from."""

    def read_into(self, buffer: memoryview) -> int:
        """Fill part of the buffer; -> bytes read, 0 at the end."""


@dataclass(frozen=True, slots=True)
class Y4mHeader:
    """The first line of a stream."""

    width: int
    height: int
    rate: Fraction | None
    """Frames per second; None for unknown."""
    interlace: str = "?"
    """A letter of INTERLACE."""
    aspect: Fraction | None = None
    """Of one pixel; None for unknown."""
    chroma: str = DEFAULT_CHROMA
    """A key of CHROMA."""
    comments: tuple[str, ...] = ()
    """The X parameters in order, without the letter."""
    line: bytes | None = None
    """The original line; None for a new header."""

    @property
    def layout(self) -> Layout:
        return LAYOUTS[CHROMA[self.chroma]]

    @property
    def full(self) -> bool | None:
        """Whether the range is full (0 to 255); None if the stream does not state it."""
        stated = [text for text in self.comments if text.startswith("COLORRANGE=")]
        return stated[-1].upper() == "COLORRANGE=FULL" if stated else None

    def resized(self, height: int, width: int) -> "Y4mHeader":
        """The header of the same stream with pictures of another size."""
        if (height, width) == (self.height, self.width):
            return self
        return replace(self, height=height, width=width, line=None)

    def to_bytes(self) -> bytes:
        """The original line, or a new one, with its line end."""
        if self.line is not None:
            return self.line
        words = [MAGIC.decode(), f"W{self.width}", f"H{self.height}", f"F{_ratio(self.rate)}"]
        words += [f"I{self.interlace}", f"A{_ratio(self.aspect)}", f"C{self.chroma}"]
        words += [f"X{text}" for text in self.comments]
        return " ".join(words).encode("ascii", "replace") + b"\n"


def _ratio(value: Fraction | None) -> str:
    return "0:0" if value is None else f"{value.numerator}:{value.denominator}"


def parse_header(line: bytes, name: str) -> Y4mHeader:
    """Parse a header line that starts with MAGIC, line end included. Raises SourceError."""
    text = line.decode("latin-1").removesuffix("\n")
    parameters: dict[str, str] = {}
    comments = []
    at = len(MAGIC)
    for word in text[at:].split(" ")[1:]:
        at += 1
        letter, value = word[:1], word[1:]
        if letter == "X":
            comments.append(value)
        elif letter in parameters:
            _refuse(name, at, f"expected each parameter once, got {letter} a second time")
        elif letter and letter not in "WHFIAC":
            _refuse(name, at, f"expected parameters W H F I A C X, got {word!r}")
        elif letter:
            parameters[letter] = value
        at += len(word)
    if at != len(text):
        _refuse(name, len(MAGIC), f"expected a space after the name, got {text[len(MAGIC)]!r}")
    sides = [_side(parameters.get(letter), letter, name) for letter in "WH"]
    rate = _fraction(parameters.get("F"), "a frame rate such as F30000:1001", name)
    if "F" not in parameters:
        _refuse(name, 0, "expected a frame rate (F), got none")
    interlace = parameters.get("I", "?")
    if interlace not in tuple(INTERLACE):
        _refuse(
            name, 0, f"expected an interlace mark I of {' '.join(INTERLACE)}, got {interlace!r}"
        )
    chroma = parameters.get("C", DEFAULT_CHROMA)
    if chroma not in CHROMA:
        _refuse(name, 0, f"expected {SUPPORTED}, got C{chroma}; convert it with: {CONVERT_COMMAND}")
    return Y4mHeader(
        width=sides[0],
        height=sides[1],
        rate=rate,
        interlace=interlace,
        aspect=_fraction(parameters.get("A"), "a pixel aspect such as A1:1", name),
        chroma=chroma,
        comments=tuple(comments),
        line=line,
    )


def _side(text: str | None, letter: str, name: str) -> int:
    what = f"expected {'a width' if letter == 'W' else 'a height'} ({letter})"
    if text is None:
        _refuse(name, 0, f"{what}, got none")
    if not (text.isascii() and text.isdigit() and 1 <= int(text[:9]) <= LARGEST_SIDE):
        _refuse(name, 0, f"{what} of 1..{LARGEST_SIDE}, got {text[:40]!r}")
    return int(text[:9])


def _fraction(text: str | None, what: str, name: str) -> Fraction | None:
    """None if it is missing or unknown (0:0)."""
    if text is None:
        return None
    above, colon, below = text.partition(":")
    numbers = [above, below]
    if not colon or not all(n.isascii() and n.isdigit() and len(n) <= 10 for n in numbers):
        _refuse(name, 0, f"expected {what}, got {text[:40]!r}")
    if int(above) == int(below) == 0:
        return None
    if not (int(above) and int(below)):
        _refuse(name, 0, f"expected {what}, got {text[:40]!r}")
    return Fraction(int(above), int(below))


def _refuse(name: str, offset: int, what: str) -> NoReturn:
    raise SourceError(f"{name}: byte {offset}: {what}")


class Y4mReader:
    """Reads frame by frame and consumes no byte beyond the current one.

    first: bytes that were already read to detect the format. Raises SourceError for a bad header.
    """

    header: Y4mHeader
    frames: int
    """Frames read so far."""
    offset: int
    """Bytes read so far."""
    size: int
    """Bytes of one frame's samples."""

    def __init__(self, source: ByteSource, name: str, first: bytes = b"") -> None:
        self._source, self._name = source, name
        self.frames = 0
        line = self._read_line(first)
        self.offset = len(line)
        self.header = parse_header(line, name)
        self.size = self.header.layout.size_bytes(self.header.height, self.header.width)
        self._buffer: NDArray[np.uint8] = np.empty(len(FRAME) + self.size, np.uint8)

    def read(self) -> NDArray[np.uint8] | None:
        """The next frame's marker and samples, valid until the next read; None at the end.

        Raises SourceError if the stream ends within a frame or continues with something else.
        """
        buffer, got = self._buffer.data, 0
        has_marker = False
        while got < len(buffer):
            # check the marker first: an error now, not after a whole frame of garbage
            count = self._source.read_into(buffer[got:])
            got += count
            head = bytes(buffer[: min(got, len(FRAME))])
            if not has_marker and head != FRAME[: len(head)]:
                self._refuse_marker(head)
            has_marker = got >= len(FRAME)
            if not count:
                if got == 0:
                    return None
                fault = f"frame {self.frames} is cut off: expected {len(buffer)} bytes, got {got}"
                _refuse(self._name, self.offset + got, fault)
        self.offset += got
        self.frames += 1
        return self._buffer

    def _refuse_marker(self, head: bytes) -> NoReturn:
        if head == FRAME[:-1] + b" ":
            _refuse(
                self._name,
                self.offset + len(head) - 1,
                f"frame {self.frames} has parameters of its own, expected none; "
                "remove them with: ffmpeg -i IN -f yuv4mpegpipe -",
            )
        header = self.header
        _refuse(
            self._name,
            self.offset,
            f"expected FRAME where frame {self.frames} starts, got {head!r}; the header says "
            f"{header.width}x{header.height} {header.chroma}, {self.size} bytes a frame, "
            "and what follows does not fit",
        )

    def _read_line(self, first: bytes) -> bytes:
        line = bytearray(first)
        letter = memoryview(bytearray(1))
        while not line.endswith(b"\n"):
            if len(line) >= LONGEST_HEADER:
                _refuse(self._name, len(line), "expected the header to end, got no line end")
            if not self._source.read_into(letter):
                _refuse(self._name, len(line), "the stream ends within its header")
            line += letter
        return bytes(line)
