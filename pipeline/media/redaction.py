"""What may be shown of a source's address: never its user name, password, query or fragment.

`display` is computed once, when a source is opened; every message, report and result uses it.
`redact` cleans texts that others wrote (FFmpeg's errors) and that may quote the address.
"""

import re
from urllib.parse import unquote

UNSURE = "<address not shown>"
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*\Z")
_BARE_CREDENTIALS = re.compile(r"(?![/.~]).*:.*@", re.DOTALL)  # a path starts with / . or ~
_URL_IN_TEXT = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/{1,2}[^\s'\"]+")
_SHORTEST_SECRET = 3


def display(spec: str) -> str:
    """The form of an address that may be shown: without user name, password, query and fragment.

    Everything up to the last `@` is taken for credentials, so `@` and `/` inside a password do not
    leak its end. Where a `?` or `#` makes that reading unsure, only the scheme is shown. A path of
    a local file comes back as it is. Characters that a terminal would act on become `?`.
    """
    scheme, mark, rest = spec.partition("://")
    if not mark:
        shown = _without_bare_credentials(spec)
    elif not _SCHEME.match(scheme):
        shown = UNSURE
    else:
        shown = f"{scheme.lower()}://{_public_part(rest)}"
    return "".join(letter if letter.isprintable() else "?" for letter in shown)


def redact(text: str, spec: str) -> str:
    """`text` with the address and each secret part of it replaced by what may be shown."""
    text = text.replace(spec, display(spec))
    text = _URL_IN_TEXT.sub(lambda found: display(found.group()), text)
    for secret in sorted(_secrets(spec), key=len, reverse=True):
        text = text.replace(secret, "***")
    return " ".join(text.split())


def _public_part(rest: str) -> str:
    """host:port/path of what follows `://`, or an ellipsis where its reading is unsure."""
    head, tail = _before_query(rest)
    if "@" in tail:  # a query with an @ in it, or a password with a ? or # in it
        return "…"
    return head.rpartition("@")[2]


def _before_query(rest: str) -> tuple[str, str]:
    found = re.search(r"[?#]", rest)
    return (rest[: found.start()], rest[found.start() :]) if found else (rest, "")


def _without_bare_credentials(spec: str) -> str:
    """`user:password@host/path` without a scheme is no file name; what precedes the @ goes."""
    if _BARE_CREDENTIALS.match(spec):
        return _public_part(spec)
    return spec


def _secrets(spec: str) -> set[str]:
    """The parts of an address that must not appear in a text, as written and percent-decoded.

    Where an @ or a ? could divide the address in several places, each of them is taken to do so.
    """
    rest = spec.partition("://")[2]
    if not rest:
        rest = spec if _BARE_CREDENTIALS.match(spec) else ""
    parts: set[str] = set()
    for mark in re.finditer("@", rest):
        credentials = rest[: mark.start()]
        user, _, password = credentials.partition(":")
        parts |= {credentials, user, password}
    for mark in re.finditer(r"[?#&]", rest):
        value = re.split(r"[?#&]", rest[mark.end() :], maxsplit=1)[0]
        parts |= {rest[mark.end() :], value, value.partition("=")[2]}
    parts |= {unquote(part) for part in parts}
    return {part for part in parts if len(part) >= _SHORTEST_SECRET}
