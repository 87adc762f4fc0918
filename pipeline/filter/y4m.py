"""YUV4MPEG2, the plain video of pipes: a line of text, then each frame's samples as they are.

    YUV4MPEG2 W1280 H720 F30000:1001 Ip A1:1 C420mpeg2 XCOLORRANGE=LIMITED
    FRAME
    (Y, U and V, plane after plane)

A header is handed on letter for letter unless the picture's size changes. What does not fit the
header is an error with the offset of the byte where it shows; frames before it are delivered.
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

# What `C` may say, and how the samples then lie. Siting is handed on; effects need not know it.
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
    """Where a stream comes from."""

    def read_into(self, space: memoryview) -> int:
        """Fill some of the space and return how many bytes; 0 at the end."""


@dataclass(frozen=True, slots=True)
class Y4mHeader:
    """The first line. rate, aspect: None where the stream says unknown. chroma: a row of CHROMA.
    comments: the X parameters in their order, without the letter. line: as it came, or None."""

    width: int
    height: int
    rate: Fraction | None
    interlace: str = "?"
    aspect: Fraction | None = None
    chroma: str = DEFAULT_CHROMA
    comments: tuple[str, ...] = ()
    line: bytes | None = None

    @property
    def layout(self) -> Layout:
        return LAYOUTS[CHROMA[self.chroma]]

    @property
    def full(self) -> bool | None:
        """Whether levels go from 0 to 255; None where the stream says nothing."""
        stated = [text for text in self.comments if text.startswith("COLORRANGE=")]
        return stated[-1].upper() == "COLORRANGE=FULL" if stated else None

    def resized(self, height: int, width: int) -> "Y4mHeader":
        """The header of the same stream with pictures of another size."""
        if (height, width) == (self.height, self.width):
            return self
        return replace(self, height=height, width=width, line=None)

    def to_bytes(self) -> bytes:
        """The line as it came, or as it is to be written, with its end."""
        if self.line is not None:
            return self.line
        words = [MAGIC.decode(), f"W{self.width}", f"H{self.height}", f"F{_ratio(self.rate)}"]
        words += [f"I{self.interlace}", f"A{_ratio(self.aspect)}", f"C{self.chroma}"]
        words += [f"X{text}" for text in self.comments]
        return " ".join(words).encode("ascii", "replace") + b"\n"


def _ratio(value: Fraction | None) -> str:
    return "0:0" if value is None else f"{value.numerator}:{value.denominator}"


def parse_header(line: bytes, name: str) -> Y4mHeader:
    """A header line, with its end, that starts with MAGIC. Raises SourceError."""
    text = line.decode("latin-1").removesuffix("\n")
    found: dict[str, str] = {}
    comments = []
    at = len(MAGIC)
    for word in text[at:].split(" ")[1:]:
        at += 1
        letter, value = word[:1], word[1:]
        if letter == "X":
            comments.append(value)
        elif letter in found:
            _refuse(name, at, f"expected each parameter once, got {letter} a second time")
        elif letter and letter not in "WHFIAC":
            _refuse(name, at, f"expected parameters W H F I A C X, got {word!r}")
        elif letter:
            found[letter] = value
        at += len(word)
    if at != len(text):
        _refuse(name, len(MAGIC), f"expected a space after the name, got {text[len(MAGIC)]!r}")
    sides = [_side(found.get(letter), letter, name) for letter in "WH"]
    rate = _fraction(found.get("F"), "a frame rate such as F30000:1001", name)
    if "F" not in found:
        _refuse(name, 0, "expected a frame rate (F), got none")
    interlace = found.get("I", "?")
    if interlace not in tuple(INTERLACE):
        _refuse(
            name, 0, f"expected an interlace mark I of {' '.join(INTERLACE)}, got {interlace!r}"
        )
    chroma = found.get("C", DEFAULT_CHROMA)
    if chroma not in CHROMA:
        _refuse(name, 0, f"expected {SUPPORTED}, got C{chroma}; convert it with: {CONVERT_COMMAND}")
    return Y4mHeader(
        width=sides[0],
        height=sides[1],
        rate=rate,
        interlace=interlace,
        aspect=_fraction(found.get("A"), "a pixel aspect such as A1:1", name),
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
    """None for what is left out and for 0:0, the word for unknown."""
    if text is None:
        return None
    above, mark, below = text.partition(":")
    numbers = [above, below]
    if not mark or not all(n.isascii() and n.isdigit() and len(n) <= 10 for n in numbers):
        _refuse(name, 0, f"expected {what}, got {text[:40]!r}")
    if int(above) == int(below) == 0:
        return None
    if not (int(above) and int(below)):
        _refuse(name, 0, f"expected {what}, got {text[:40]!r}")
    return Fraction(int(above), int(below))


def _refuse(name: str, offset: int, what: str) -> NoReturn:
    raise SourceError(f"{name}: byte {offset}: {what}")


class Y4mReader:
    """Reads frames one by one, never a byte beyond the frame that is asked for.

    first: bytes that were read already to see what comes. Raises SourceError for a header that is
    none. offset: bytes read so far. size: bytes of one frame's samples.
    """

    def __init__(self, source: ByteSource, name: str, first: bytes = b"") -> None:
        self._source, self._name = source, name
        self.frames = 0
        line = self._line(first)
        self.offset = len(line)
        self.header = parse_header(line, name)
        self.size = self.header.layout.size_bytes(self.header.height, self.header.width)
        self._buffer: NDArray[np.uint8] = np.empty(len(FRAME) + self.size, np.uint8)

    def read(self) -> NDArray[np.uint8] | None:
        """The next frame: its marker and samples, as they came; valid until the next is read.

        None at the end. Raises SourceError when the stream ends within a frame, or is no frame.
        """
        space, got = self._buffer.data, 0
        marked = False
        while got < len(space):
            # the marker first: rubbish is told at once, not when a frame of it has come
            count = self._source.read_into(space[got:])
            got += count
            head = bytes(space[: min(got, len(FRAME))])
            if not marked and head != FRAME[: len(head)]:
                self._misplaced(head)
            marked = got >= len(FRAME)
            if not count:
                if got == 0:
                    return None
                where = f"frame {self.frames} is cut off"
                wanted = f"expected {len(space)} bytes, got {got}"
                _refuse(self._name, self.offset + got, f"{where}: {wanted}")
        self.offset += got
        self.frames += 1
        return self._buffer

    def _misplaced(self, head: bytes) -> NoReturn:
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

    def _line(self, first: bytes) -> bytes:
        line = bytearray(first)
        letter = memoryview(bytearray(1))
        while not line.endswith(b"\n"):
            if len(line) >= LONGEST_HEADER:
                _refuse(self._name, len(line), "expected the header to end, got no line end")
            if not self._source.read_into(letter):
                _refuse(self._name, len(line), "the stream ends within its header")
            line += letter
        return bytes(line)
