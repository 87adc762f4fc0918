"""Folders, patterns and single photographs as sources."""

import struct
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stillframe.pipeline.media.image_sequence import natural_key
from stillframe.pipeline.media.open_source import frames, open_source
from tests.hostile import media
from tests.hostile.media import numbers


def write_pictures(folder: Path, names: list[str], size: tuple[int, int] = (96, 64)) -> None:
    for number, name in enumerate(names):
        frame = av.VideoFrame.from_ndarray(media.picture(number, *size), format="rgb24")
        frame.save(str(folder / name))


def test_a_folder_of_pictures_is_read_in_natural_order_at_its_rate(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["f1.png", "f2.png", "f10.png", "f20.jpg"])
    (tmp_path / "notes.txt").write_text("not a picture")
    with open_source(tmp_path, rate=2) as source:
        assert (source.info.kind, source.info.frame_count) == ("images", 4)
        assert (source.info.rate, source.info.duration_s) == (Fraction(2), 2.0)
        got = list(source)
    assert numbers(got) == [0, 1, 2, 3]
    assert [frame.time_s for frame in got] == [0.0, 0.5, 1.0, 1.5]
    np.testing.assert_array_equal(got[1].image, media.picture(1))


def test_a_pattern_takes_what_matches_and_one_picture_is_a_source(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["a1.png", "b1.png", "a2.png", "%d.png"])
    assert numbers(frames(f"{tmp_path}/a*.png")) == [0, 2]
    assert numbers(frames(tmp_path / "b1.png")) == [1]
    assert numbers(frames(tmp_path / "%d.png")) == [3]


def test_a_picture_that_cannot_be_read_is_a_gap_in_time(tmp_path: Path) -> None:
    write_pictures(tmp_path, ["0.png", "1.png", "2.png"])
    (tmp_path / "1.png").write_bytes(b"\x89PNG broken")
    with open_source(tmp_path) as source:
        got = list(source)
        assert source.skipped == 1
    assert [(frame.index, frame.discontinuity) for frame in got] == [(0, False), (2, True)]
    assert got[1].time_s == pytest.approx(2 / 25)


# EXIF's numbers: what to do with the stored rows and columns to see the scene upright
EXIF_TURNS: dict[int, Callable[[Any], Any]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: lambda stored: np.rot90(stored),
}


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("orientation", EXIF_TURNS)
def test_a_photograph_is_turned_by_its_exif_orientation(
    orientation: int, order: str, tmp_path: Path
) -> None:
    frame = av.VideoFrame.from_ndarray(media.picture(5), format="rgb24")
    frame.save(str(tmp_path / "plain.jpg"))
    data = (tmp_path / "plain.jpg").read_bytes()
    entry = struct.pack(f"{order}HHIHH", 0x0112, 3, 1, orientation, 0)
    start = b"II*\0" if order == "<" else b"MM\0*"
    exif = b"Exif\0\0" + start + struct.pack(f"{order}IH", 8, 1) + entry + bytes(4)
    segment = b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif
    (tmp_path / "turned.jpg").write_bytes(data[:2] + segment + data[2:])
    with open_source(tmp_path / "turned.jpg") as source:
        image = next(source).image
        assert image.shape[:2] == (source.info.height, source.info.width)
    plain = next(frames(tmp_path / "plain.jpg")).image
    np.testing.assert_array_equal(image, EXIF_TURNS[orientation](plain))


@pytest.mark.parametrize("cut", range(0, 40, 3))
def test_a_photograph_with_broken_exif_is_shown_as_stored(cut: int, tmp_path: Path) -> None:
    frame = av.VideoFrame.from_ndarray(media.picture(5), format="rgb24")
    frame.save(str(tmp_path / "plain.jpg"))
    data = (tmp_path / "plain.jpg").read_bytes()
    note = (b"Exif\0\0II*\0" + struct.pack("<IHHHIHH", 8, 9, 0x0112, 3, 1, 99, 0))[:cut]
    segment = b"\xff\xe1" + struct.pack(">H", len(note) + 2) + note
    (tmp_path / "a.jpg").write_bytes(data[:2] + segment + data[2:])
    assert numbers(frames(tmp_path / "a.jpg")) == [5]


@given(st.lists(st.integers(0, 10**6), min_size=2, unique=True))
def test_numbers_in_file_names_sort_as_numbers(values: list[int]) -> None:
    names = [f"frame{value}.png" for value in values]
    ordered = sorted(names, key=natural_key)
    assert ordered == [f"frame{value}.png" for value in sorted(values)]
