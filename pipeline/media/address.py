"""Parsing a source's text: its kind, and how FFmpeg may open it."""

import os
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from urllib.parse import unquote

from stillframe.errors import SourceError
from stillframe.pipeline.media.redaction import display, unmasked
from stillframe.pipeline.media.source import SourceKind

IMAGE_SUFFIXES = frozenset(
    {".avif", ".bmp", ".jpeg", ".jpg", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp"}
)
NO_PROTOCOL = "none"  # no protocol of FFmpeg has this name: nothing further may be opened
FILE_PROTOCOLS = "file"


@dataclass(frozen=True, slots=True)
class Scheme:
    """How one kind of network address is opened."""

    protocols: str
    """All that FFmpeg may open for it, playlists and redirects included; never `file`."""
    live: bool | None
    """True for streams; None where only the answer shows it (a file over HTTP has a duration)."""
    options: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))


_WEB = "http,https,httpproxy,tcp,tls,crypto"
_RTSP = Scheme("rtp,srtp,udp,tcp,tls", True, MappingProxyType({"rtsp_flags": "prefer_tcp"}))

SCHEMES: Mapping[str, Scheme] = MappingProxyType(
    {
        "http": Scheme(_WEB, None),
        "https": Scheme(_WEB, None),
        "rtsp": _RTSP,
        "rtsps": _RTSP,
        "srt": Scheme("srt", True),
        "tcp": Scheme("tcp", True),
        "udp": Scheme("udp", True, MappingProxyType({"overrun_nonfatal": "1"})),
    }
)


@dataclass(frozen=True, slots=True)
class Address:
    """A parsed source address."""

    kind: SourceKind
    target: str = field(repr=False)
    """What is opened. May hold credentials: never show it."""
    shown: str
    """The address without credentials, for messages."""
    scheme: Scheme | None = None


def parse_address(spec: str | os.PathLike[str]) -> Address:
    """Parse a source's text. Raises SourceError for an unknown address and for a missing file.

    `-` standard input · `0`, `/dev/video0` a camera · `rtsp://…` the network · `sample:NAME` ·
    a folder or pattern of pictures · else a file. `./0` is the file called 0.
    """
    text = unmasked(spec)
    shown = display(text)
    if not text:
        raise SourceError("an empty source; name a file, a folder, a camera (0), a URL or -")
    if text == "-":
        return Address("pipe", text, shown)
    if text.startswith("sample:"):
        return Address("sample", text.removeprefix("sample:"), shown)
    if text.isdecimal() or re.fullmatch(r"/dev/(video\d+|v4l/.+)", text):
        return Address("camera", text, shown)
    name, separator, rest = text.partition("://")
    if separator and name.lower() == "file":
        return _local_address(unquote(rest), shown)
    if separator:
        return _network_address(name, text, shown)
    return _local_address(text, shown)


def _network_address(name: str, text: str, shown: str) -> Address:
    scheme = SCHEMES.get(name.lower())
    if scheme is None:
        known = ", ".join(f"{row}://" for row in (*SCHEMES, "file"))
        raise SourceError(f"{shown}: not an address that can be read; known are {known}")
    return Address("network", f"{name.lower()}{text[len(name) :]}", shown, scheme)


def _local_address(text: str, shown: str) -> Address:
    path = Path(text)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        if re.search(r"[*?\[]", text):
            return Address("images", text, shown)
        raise SourceError(f"{shown}: no such file or folder") from None
    except (OSError, ValueError) as error:
        raise SourceError(f"{shown}: cannot be read: {_reason(error)}") from None
    if stat.S_ISDIR(mode):
        return Address("images", text, shown)
    if stat.S_ISFIFO(mode):
        return Address("pipe", text, shown)
    if not stat.S_ISREG(mode):
        raise SourceError(f"{shown}: neither a file, a folder nor a pipe")
    if not os.access(path, os.R_OK):
        raise SourceError(f"{shown}: cannot be read: permission denied")
    if path.stat().st_size == 0:
        raise SourceError(f"{shown}: the file is empty")
    kind: SourceKind = "images" if path.suffix.lower() in IMAGE_SUFFIXES else "file"
    return Address(kind, text, shown)


def _reason(error: OSError | ValueError) -> str:
    return (getattr(error, "strerror", None) or str(error)).lower()
