"""The end of an MP4 or MOV that broke off: players refuse a file that ends inside a header."""

import os
from pathlib import Path

HEADER = 8
"""Bytes of size and kind before each box."""
MOVIE_FRAGMENT = b"moof"


def drop_cut_header(path: Path) -> None:
    """Cut the file before its last box if that is an incomplete header of a fragment.

    One that ends inside a fragment's pictures plays up to there and stays as it is.
    """
    with path.open("r+b") as file:
        size, at = file.seek(0, os.SEEK_END), 0
        while at < size:
            file.seek(at)
            head = file.read(HEADER)
            length = int.from_bytes(head[:4])
            if len(head) < HEADER or (head[4:] == MOVIE_FRAGMENT and at + length > size):
                file.truncate(at)
                return
            if length < HEADER:  # to the end of the file, or a size of 64 bits: no fragment
                return
            at += length
