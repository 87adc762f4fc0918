"""Texts by others, such as names of nodes, files and labels, made safe to show on a terminal."""

import re

STEERING = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f"  # C0 without tab and line feed, DEL, C1
    "\u061c\u200e\u200f\u2028\u2029\u202a-\u202e\u2066-\u2069"  # line ends, direction of writing
    "\ud800-\udfff]"  # bytes of file names that are no text
)
"""What a terminal would obey instead of showing."""


def escaped(text: str) -> str:
    """The text with control characters as escapes, such as `\\x1b`; all others are left alone."""
    return STEERING.sub(lambda match: match.group().encode("unicode_escape").decode(), text)
