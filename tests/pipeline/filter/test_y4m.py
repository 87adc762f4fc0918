"""The y4m reader: headers, and malformed or truncated streams."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe.errors import SourceError
from stillframe.pipeline.filter import y4m
from stillframe.pipeline.filter.y4m import CHROMA, Y4mHeader, Y4mReader
from tests import streams
from tests.streams import Trickle

GOOD = "YUV4MPEG2 W6 H4 F25:1"


def parsed(line: str) -> Y4mHeader:
    return y4m.parse_header(f"{line}\n".encode(), "clip")


@pytest.mark.parametrize(
    ("line", "size", "rate", "aspect", "interlace", "chroma", "full"),
    [
        (GOOD, (6, 4), Fraction(25), None, "?", "420jpeg", None),
        (
            "YUV4MPEG2 W720 H576 F25:1 It A16:15 C420paldv XYSCSS=420PALDV",
            (720, 576),
            Fraction(25),
            Fraction(16, 15),
            "t",
            "420paldv",
            None,
        ),
        (
            "YUV4MPEG2 C444 W5 H3 F30000:1001 Ib A0:0 XCOLORRANGE=FULL Xfoo",
            (5, 3),
            Fraction(30000, 1001),
            None,
            "b",
            "444",
            True,
        ),
        (
            "YUV4MPEG2  W6 H4 F0:0 Cmono Im XCOLORRANGE=LIMITED",
            (6, 4),
            None,
            None,
            "m",
            "mono",
            False,
        ),
    ],
)
def test_a_header_is_parsed(
    line: str,
    size: tuple[int, int],
    rate: Fraction | None,
    aspect: Fraction | None,
    interlace: str,
    chroma: str,
    full: bool | None,
) -> None:
    got = parsed(line)
    assert (got.width, got.height) == size
    assert (got.rate, got.aspect, got.interlace) == (rate, aspect, interlace)
    assert (got.chroma, got.full) == (chroma, full)


@pytest.mark.parametrize("chroma", CHROMA)
def test_a_header_is_passed_on_unchanged(chroma: str) -> None:
    line = f"YUV4MPEG2 W6 H4 F25:1 Ip A1:1 C{chroma} XFOO=1 XCOLORRANGE=LIMITED"
    got = parsed(line)
    assert got.to_bytes() == f"{line}\n".encode()
    assert got.resized(4, 6) is got
    assert got.resized(8, 12).to_bytes() == line.replace("W6 H4", "W12 H8").encode() + b"\n"


BAD_HEADERS = [
    ("YUV4MPEG2", "expected a width (W), got none"),
    ("YUV4MPEG2 H4 F25:1", "expected a width (W), got none"),
    ("YUV4MPEG2 W6 F25:1", "expected a height (H), got none"),
    ("YUV4MPEG2 W0 H4 F25:1", "expected a width (W) of 1..16384, got '0'"),
    ("YUV4MPEG2 W6 H-4 F25:1", "expected a height (H) of 1..16384, got '-4'"),
    ("YUV4MPEG2 W6 H99999 F25:1", "expected a height (H) of 1..16384, got '99999'"),
    ("YUV4MPEG2 W99999999999999999999 H4 F25:1", "expected a width (W) of 1..16384"),
    ("YUV4MPEG2 W1000000000 H4 F25:1", "expected a width (W) of 1..16384"),
    ("YUV4MPEG2 W٣ H4 F25:1", "expected a width (W) of 1..16384"),
    ("YUV4MPEG2 W6 H4", "expected a frame rate (F), got none"),
    ("YUV4MPEG2 W6 H4 F25", "expected a frame rate such as F30000:1001, got '25'"),
    ("YUV4MPEG2 W6 H4 F25:0", "expected a frame rate such as F30000:1001, got '25:0'"),
    ("YUV4MPEG2 W6 H4 F-25:1", "expected a frame rate such as F30000:1001, got '-25:1'"),
    ("YUV4MPEG2 W6 H4 F25:1 A1", "expected a pixel aspect such as A1:1, got '1'"),
    ("YUV4MPEG2 W6 H4 F25:1 Iq", "expected an interlace mark I of p t b m ?, got 'q'"),
    ("YUV4MPEG2 W6 H4 F25:1 I", "expected an interlace mark I of p t b m ?, got ''"),
    ("YUV4MPEG2 W6 H4 F25:1 W8", "byte 22: expected each parameter once, got W a second time"),
    ("YUV4MPEG2 W6 H4 F25:1 Q7", "byte 22: expected parameters W H F I A C X, got 'Q7'"),
    ("YUV4MPEG2,W6 H4 F25:1", "byte 9: expected a space after the name, got ','"),
]


@pytest.mark.parametrize(("line", "words"), BAD_HEADERS, ids=lambda value: str(value)[:40])
def test_a_malformed_header_is_refused(line: str, words: str) -> None:
    with pytest.raises(SourceError) as raised:
        parsed(line)
    assert words in str(raised.value)
    assert str(raised.value).startswith("clip: byte ")


@pytest.mark.parametrize("chroma", ["420p10", "411", "444alpha", "mono16", "440", "nonsense"])
def test_other_samples_are_refused_with_a_command_that_converts_them(chroma: str) -> None:
    with pytest.raises(SourceError) as raised:
        parsed(f"{GOOD} C{chroma}")
    assert str(raised.value) == (
        "clip: byte 0: expected 8-bit 4:2:0, 4:2:2, 4:4:4 or grey (420jpeg 420mpeg2 420paldv 420 "
        f"422 444 mono), got C{chroma}; convert it with: "
        "ffmpeg -i IN -pix_fmt yuv420p -f yuv4mpegpipe -"
    )


@pytest.mark.parametrize("layout", streams.CHROMA_OF)
@pytest.mark.parametrize("most", [1, 7, 1 << 20])
def test_frames_are_exact_however_slowly_they_arrive(layout: str, most: int) -> None:
    pictures = [streams.noise(layout, 5, 7, seed=n) for n in range(3)]
    source = Trickle(streams.y4m(pictures), most)
    reader = Y4mReader(source, "clip")
    for picture in pictures:
        data = reader.read()
        assert data is not None
        np.testing.assert_array_equal(data[6:], picture.data)
    assert reader.read() is None
    assert reader.frames == 3


def test_no_byte_is_read_beyond_the_current_frame() -> None:
    pictures = [streams.noise("yuv420p", 4, 6, seed=n) for n in range(3)]
    data = streams.y4m(pictures)
    size = len(streams.frames(pictures)[0])
    source = Trickle(data)
    reader = Y4mReader(source, "clip")
    start = len(data) - 3 * size
    assert source.taken == start
    for number in (1, 2, 3):
        reader.read()
        assert source.taken == start + number * size == reader.offset


def test_a_stream_cut_in_a_frame_names_the_offset_after_the_frames_before_it() -> None:
    """Cut at every byte of the last two frames."""
    pictures = [streams.noise("yuv420p", 2, 4, seed=n) for n in range(3)]
    data = streams.y4m(pictures)
    size = len(streams.frames(pictures)[0])
    start = len(data) - 3 * size
    for end in range(start + size, len(data)):
        reader = Y4mReader(Trickle(data[:end]), "clip")
        whole = (end - start) // size
        for _ in range(whole):
            assert reader.read() is not None
        got = end - start - whole * size
        if not got:
            assert reader.read() is None
            continue
        with pytest.raises(SourceError) as raised:
            reader.read()
        assert str(raised.value) == (
            f"clip: byte {end}: frame {whole} is cut off: expected {size} bytes, got {got}"
        )


def rest_of_it(reader: Y4mReader) -> None:
    while reader.read() is not None:
        pass


@pytest.mark.parametrize(("width", "height"), [(4, 6), (6, 2), (8, 8)])
def test_a_wrong_size_shows_at_the_missing_marker(width: int, height: int) -> None:
    pictures = [streams.noise("yuv420p", 4, 4, seed=n) for n in range(4)]
    data = b"".join([streams.header("yuv420p", height, width), *streams.frames(pictures)])
    reader = Y4mReader(Trickle(data), "clip")
    assert reader.read() is not None
    offset = reader.offset
    with pytest.raises(SourceError) as raised:
        rest_of_it(reader)
    assert str(raised.value).startswith(f"clip: byte {offset}: expected FRAME where frame 1 starts")
    assert f"the header says {width}x{height} 420mpeg2" in str(raised.value)


def test_garbage_in_place_of_a_marker_is_refused_before_a_whole_frame_has_come() -> None:
    picture = streams.noise("yuv420p", 480, 640)
    source = Trickle(streams.y4m([picture]) + b"FRXME\n" + bytes(1000), 6)
    reader = Y4mReader(source, "clip")
    reader.read()
    with pytest.raises(SourceError, match=r"expected FRAME where frame 1 starts, got b'FRXME"):
        reader.read()
    assert source.taken == reader.offset + 6


def test_parameters_of_a_single_frame_are_refused() -> None:
    picture = streams.noise("gray", 2, 2)
    data = streams.header("gray", 2, 2) + b"FRAME Ip\n" + picture.data.tobytes()
    at = len(streams.header("gray", 2, 2)) + 5
    with pytest.raises(SourceError, match=rf"byte {at}: frame 0 has parameters of its own"):
        Y4mReader(Trickle(data), "clip").read()


def test_a_header_without_an_end_is_not_read_for_ever() -> None:
    with pytest.raises(SourceError, match="byte 4096: expected the header to end"):
        Y4mReader(Trickle(b"YUV4MPEG2 X" + b"x" * 10_000), "clip")
    with pytest.raises(SourceError, match="byte 14: the stream ends within its header"):
        Y4mReader(Trickle(b"YUV4MPEG2 W6 H"), "clip")


WORDS = ("W6", "H4", "F25:1", "F0:0", "Ip", "A1:1", "C444", "Cmono", "XA", "W", "", " ", "FRAME")


@given(
    words=st.lists(st.sampled_from(WORDS) | st.text("WHFIACX:0123456789 -\x00é", max_size=9)),
    rest=st.binary(max_size=200),
    most=st.integers(1, 64),
)
def test_any_input_gives_frames_or_one_clear_error(
    words: list[str], rest: bytes, most: int
) -> None:
    line = " ".join(["YUV4MPEG2", *words]).encode() + b"\n"
    message = "clip: byte "  # or nothing, for a stream that is one
    try:
        reader = Y4mReader(Trickle(line + rest, most), "clip")
        if reader.size < 1 << 20:
            rest_of_it(reader)
            assert reader.offset == len(line) + len(rest)
    except SourceError as error:
        message = str(error)
    assert message.startswith("clip: byte ")
