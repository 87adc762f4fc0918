"""Addresses without secrets: never a user name, password, query or fragment.

A source's text is carried as a MaskedAddress, which prints as `display` shows it. `redact` cleans
texts written by others (FFmpeg's errors) that may quote the address; `mask` cleans any text.
"""

import os
import re
from collections.abc import Iterable
from typing import Self
from urllib.parse import unquote

HIDDEN = "<address not shown>"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*\Z")
_BARE_CREDENTIALS = re.compile(r"(?![/.~]).*:.*@", re.DOTALL)  # a path starts with / . or ~
_URL_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/{1,2}[^\s'\"]+")
_SHORTEST_SECRET = 3


class MaskedAddress(str):
    """A source's text that cannot be printed whole: as a string it is what `display` shows.

    str, format, repr, JSON, CSV and comparisons see the masked text only. `unmasked` gives the
    whole one, to those who open the source.
    """

    __slots__ = ("_whole",)
    _whole: str

    def __new__(cls, spec: str | os.PathLike[str]) -> Self:
        whole = unmasked(spec)
        masked = super().__new__(cls, display(whole))
        masked._whole = whole
        return masked

    def __getnewargs__(self) -> tuple[str]:
        return (self._whole,)  # a copy, or the object in another process, opens the same source

    def unmasked(self) -> str:
        """The whole text, credentials included. Only for opening the source: never show it."""
        return self._whole


def unmasked(spec: str | os.PathLike[str]) -> str:
    """The whole text of an address, masked or not. Only for opening the source: never show it."""
    return spec.unmasked() if isinstance(spec, MaskedAddress) else os.fspath(spec)


def display(spec: str) -> str:
    """The address without user name, password, query and fragment.

    Everything up to the last `@` counts as credentials, so an `@` or `/` inside a password leaks
    nothing. If a `?` or `#` makes that ambiguous, only the scheme is shown. A local path is
    returned unchanged. Unprintable characters become `?`.
    """
    scheme, separator, rest = spec.partition("://")
    if not separator:
        shown = _without_bare_credentials(spec)
    elif not _SCHEME.match(scheme):
        shown = HIDDEN
    else:
        shown = f"{scheme.lower()}://{_public_part(rest)}"
    return "".join(letter if letter.isprintable() else "?" for letter in shown)


def redact(text: str, spec: str) -> str:
    """`text` with the address and every secret part of it replaced by its displayed form."""
    return " ".join(mask(text, [spec]).split())


def mask(text: str, specs: Iterable[str] = ()) -> str:
    """`text` without the secrets of the addresses in it, and without those of `specs`."""
    specs = list(specs)
    for spec in specs:
        text = text.replace(spec, display(spec))
    text = _URL_IN_TEXT.sub(lambda match: display(match.group()), text)
    for secret in sorted({each for spec in specs for each in _secrets(spec)}, key=len)[::-1]:
        text = text.replace(secret, "***")
    return text


def _public_part(rest: str) -> str:
    """host:port/path of what follows `://`; an ellipsis if that is ambiguous."""
    head, tail = _before_query(rest)
    if "@" in tail:  # a query with an @ in it, or a password with a ? or # in it
        return "…"
    return head.rpartition("@")[2]


def _before_query(rest: str) -> tuple[str, str]:
    match = re.search(r"[?#]", rest)
    return (rest[: match.start()], rest[match.start() :]) if match else (rest, "")


def _without_bare_credentials(spec: str) -> str:
    """Drops what precedes the @ of `user:password@host/path`, which is no file name."""
    if _BARE_CREDENTIALS.match(spec):
        return _public_part(spec)
    return spec


def _secrets(spec: str) -> set[str]:
    """The parts of an address that must not appear in a text, as written and percent-decoded.

    If an @ or a ? could divide the address in several places, every division counts.
    """
    rest = spec.partition("://")[2]
    if not rest:
        rest = spec if _BARE_CREDENTIALS.match(spec) else ""
    parts: set[str] = set()
    for match in re.finditer("@", rest):
        credentials = rest[: match.start()]
        user, _, password = credentials.partition(":")
        parts |= {credentials, user, password}
    for match in re.finditer(r"[?#&]", rest):
        value = re.split(r"[?#&]", rest[match.end() :], maxsplit=1)[0]
        parts |= {rest[match.end() :], value, value.partition("=")[2]}
    parts |= {unquote(part) for part in parts}
    return {part for part in parts if len(part) >= _SHORTEST_SECRET}
