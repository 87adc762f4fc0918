"""Videos, y4m streams and configurations, and what a seed breaks in them."""

import functools
import io
import random

import av

from tests.attack.mutate_models import broken_bytes
from tests.hostile.media import encode, pictures, y4m_bytes

CONTAINERS = (
    ("mp4", "libx264", "yuv420p"),
    ("matroska", "libx264", "yuv420p"),
    ("mpegts", "mpeg2video", "yuv420p"),
    ("avi", "mjpeg", "yuvj420p"),
    ("matroska", "ffv1", "yuv444p"),
)


@functools.cache
def whole_video(index: int) -> bytes:
    """A sound clip of 12 frames in one of CONTAINERS."""
    container, codec, pix_fmt = CONTAINERS[index]
    file = io.BytesIO()
    encode(file, pictures(12), container=container, codec=codec, pix_fmt=pix_fmt)
    return file.getvalue()


def video(seed: int) -> bytes:
    """The video of a seed. One in twenty is left whole."""
    rng = random.Random(seed)
    content = whole_video(rng.randrange(len(CONTAINERS)))
    if rng.random() < 0.05:
        return content
    if rng.random() < 0.3:  # one frame's worth of noise in the middle
        at = rng.randrange(len(content))
        noise = rng.randbytes(rng.choice((16, 256, 4096)))
        return content[:at] + noise + content[at + len(noise) :]
    return broken_bytes(content, rng)


HEADERS = (
    b"W0", b"W-5", b"W99999999", b"H0", b"H2147483648", b"F0:0", b"F1:0", b"F-1:1", b"C444p16",
    b"C420jpeg", b"Cmono", b"Cnothing", b"A0:0", b"A9999999999:1", b"Ib", b"Iz", b"X" + b"y" * 9000,
)  # fmt: skip


def y4m(seed: int) -> bytes:
    """The y4m stream of a seed: its header, its frame lines or its samples broken."""
    rng = random.Random(seed)
    parts = list(y4m_bytes(5, 32, 16))
    content = b"".join(parts)
    kind = rng.random()
    if kind < 0.05:
        return content
    if kind < 0.5:
        line, _, rest = content.partition(b"\n")
        words = line.split(b" ")
        for _ in range(rng.choice((1, 1, 2, 3))):
            if rng.random() < 0.6:
                words[rng.randrange(len(words))] = rng.choice(HEADERS)
            else:
                words.insert(rng.randrange(len(words) + 1), rng.choice(HEADERS))
        return b" ".join(words) + b"\n" + rest
    if kind < 0.6:
        return content.replace(b"FRAME", rng.choice((b"FRAM", b"FRAME X", b"FRAME\n", b"")), 1)
    if kind < 0.65:
        return b"".join(rng.sample(parts, len(parts)))
    return broken_bytes(content, rng)


KEYS = (
    "source", "model", "reuse", "tolerance", "every", "between", "max_frames", "threads", "place",
    "stages", "gate", "quality", "max_age", "confidence", "out", "nonsense", "qualty", "sorce",
)  # fmt: skip
VALUES = (
    "1", "-1", "0.1", ".nan", ".inf", "[]", "{}", "null", "true", "''", "layer", "'\\x1b[31m'",
    "[1, 2, 3]", "{a: b}", "9" * 5000, "!!python/object/apply:os.system ['true']", "&a [*a]",
    "2024-01-01", "1e400", "0x7fffffffffffffff", "[" * 2000 + "]" * 2000, "*nobody",
    "'" + "x" * 9000,
)  # fmt: skip


def configuration(seed: int) -> bytes:
    """The YAML of a seed: options and values that do not go together, or broken text."""
    rng = random.Random(seed)
    keys = rng.sample(KEYS, rng.randrange(1, 5))
    text = "".join(f"{key}: {rng.choice(VALUES)}\n" for key in keys)
    if rng.random() < 0.2:
        text = text.replace(":", rng.choice(("", "::", ":\t", "?")), 1)
    content = text.encode("utf-8")
    return broken_bytes(content, rng) if rng.random() < 0.3 else content


def frames_of(content: bytes) -> int:
    """How many frames FFmpeg finds in a video."""
    with av.open(io.BytesIO(content)) as container:
        return sum(1 for _ in container.decode(video=0))
