"""How a camera was held, as its JPEG says."""

import struct

from stillframe.pipeline.media.to_rgb import ORIENTATIONS, Orientation

ORIENTATION_TAG = 0x0112
SHORT = 3
MARK = b"Exif\0\0"
FAR_ENOUGH = 1 << 17  # the segment stands before the picture

# the tag's values 1 to 8, as signs of the display matrix
TURNS: tuple[Orientation, ...] = tuple(
    ORIENTATIONS[signs]
    for signs in (
        (1, 0, 0, 1),
        (-1, 0, 0, 1),
        (-1, 0, 0, -1),
        (1, 0, 0, -1),
        (0, 1, 1, 0),
        (0, 1, -1, 0),
        (0, -1, -1, 0),
        (0, -1, 1, 0),
    )
)


def exif_orientation(data: bytes) -> Orientation | None:
    """What the EXIF orientation of a JPEG asks for; None where it has none that makes sense."""
    start = data.find(MARK, 0, FAR_ENOUGH)
    if not data.startswith(b"\xff\xd8") or start < 0:
        return None
    body = data[start + len(MARK) :]
    order = {b"II": "<", b"MM": ">"}.get(body[:2])
    if order is None:
        return None
    try:
        (table,) = struct.unpack_from(f"{order}I", body, 4)
        (count,) = struct.unpack_from(f"{order}H", body, table)
        for entry in range(count):
            at = table + 2 + 12 * entry
            tag, kind, _, value = struct.unpack_from(f"{order}HHIH", body, at)
            if tag == ORIENTATION_TAG and kind == SHORT and 1 <= value <= len(TURNS):
                found: Orientation = TURNS[value - 1]
                return found
    except struct.error:  # it ends before what it announces
        return None
    return None
