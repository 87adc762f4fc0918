"""YAML that users write: read within limits, and what is wrong with it in one line of our words."""

import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from stillframe.errors import StillframeError, UsageError
from stillframe.names import suggestion

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

MAX_BYTES = 1_000_000
MAX_DEPTH = 20
"""Of a file; both far beyond what one needs."""
LONGEST_VALUE = 60
"""Characters of a wrong value that a message shows."""

ALTERNATIVE = re.compile(r"str|int|float|bool|(list|tuple|dict|constrained-\w+)(\[.*\])?")
"""How pydantic names the types of a union."""

# What pydantic calls a fault -> what was expected; {…} comes from the rule that was broken.
EXPECTED: dict[str, str] = {
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "string": "text",
    "list": "a list",
    "tuple": "a list",
    "dict": "names with values",
    "model": "names with values",
    "greater_than_equal": "{ge} or more",
    "greater_than": "more than {gt}",
    "less_than_equal": "at most {le}",
    "less_than": "less than {lt}",
    "string_pattern_mismatch": "text like {pattern}",
    "too_short": "at least {min_length} values",
    "too_long": "at most {max_length} values",
}


def read_yaml(path: Path, error: type[StillframeError] = UsageError) -> Any:
    """What the YAML file holds. Raises `error`, which quotes nothing of the file: it may hold
    passwords."""
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)  # a device may have no end
        if len(content) > MAX_BYTES:
            reason = f"expected at most {MAX_BYTES} bytes, got more"
        elif (depth := _depth(content)) > MAX_DEPTH:
            reason = f"expected values nested at most {MAX_DEPTH} deep, got {depth}"
        else:
            return yaml.safe_load(content)
    except OSError as fault:
        reason = (fault.strerror or type(fault).__name__).lower()
    except yaml.MarkedYAMLError as fault:
        mark = fault.problem_mark
        where = f", line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        reason = f"{fault.problem or fault.context}{where}"
    except (yaml.YAMLError, UnicodeDecodeError):
        reason = "expected text in UTF-8"
    except (
        Exception
    ):  # what PyYAML raises for a number, date or tag that it cannot turn into a value
        reason = "it holds a value that is too long or malformed"
    raise error(f"{path}: it cannot be read as YAML: {reason}")


def _depth(content: bytes) -> int:
    """The deepest nesting, up to just over MAX_DEPTH; counted without building the values."""
    depth = deepest = 0
    for event in yaml.parse(content, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
            deepest = max(deepest, depth)
            if deepest > MAX_DEPTH:
                break
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
    return deepest


def fault_text(
    faults: Sequence["ErrorDetails"],
    known: Iterable[str],
    words: Mapping[str, str] | None = None,
    *,
    quote: bool = True,
) -> str:
    """The first of pydantic's faults in one line: where, what was expected, and what came.

    A key that is not known goes first, since a value that is missing may stand under it. known: the
    keys that there are, for a suggestion. words: what is expected of a key, instead of pydantic's
    rule. quote: whether wrong values are shown.
    """
    first = next((each for each in faults if each["type"] == "extra_forbidden"), faults[0])
    place = _place(first)
    same = [each for each in faults if _place(each) == place]
    where = ".".join(map(str, place))
    if first["type"] == "extra_forbidden":
        *inside, key = first["loc"]
        part = ".".join(map(str, inside))
        return f"{f'{part}: ' if part else ''}unknown key {key!r}{suggestion(str(key), known)}"
    if first["type"] == "missing":
        return f"{where}: expected a value, got none"
    if first["type"] in ("value_error", "assertion_error"):
        own_words = first["msg"].partition(", ")[2]  # after "Value error"
        return f"{where}: {own_words}" if where else own_words
    key = next((each for each in reversed(place) if isinstance(each, str)), "")
    own = (words or {}).get(key)
    if own is not None:  # of the whole value, not of a part of it
        where = ".".join(map(str, place[: place.index(key) + 1]))
    expected = own or " or ".join(dict.fromkeys(_expected(each) for each in same))
    value = first["input"]
    near = ""
    if first["type"] == "literal_error" and isinstance(value, str):
        near = suggestion(value, _choices(first))
    shown = f", got {_shown(value)}" if quote else ""
    return f"{f'{where}: ' if where else ''}expected {expected}{shown}{near}"


def _place(fault: "ErrorDetails") -> list[int | str]:
    """Of a fault, without the names of types that pydantic adds for the alternatives of a union."""
    first, *rest = fault["loc"] or ("",)
    if first == "":
        return []
    return [first, *(p for p in rest if not (isinstance(p, str) and ALTERNATIVE.fullmatch(p)))]


def _expected(fault: "ErrorDetails") -> str:
    kind, limits = fault["type"], fault.get("ctx", {})
    if kind == "literal_error":
        choices = _choices(fault)
        return " or ".join(filter(None, (", ".join(choices[:-1]), choices[-1])))
    text = EXPECTED.get(kind) or EXPECTED.get(kind.split("_")[0], fault["msg"].lower())
    plain = {name: f"{v:g}" if isinstance(v, float) else v for name, v in limits.items()}
    return text.format(**plain)


def _choices(fault: "ErrorDetails") -> list[str]:
    """The values of a Literal."""
    text = str(fault.get("ctx", {}).get("expected", ""))
    return text.replace("'", "").replace(" or ", ", ").split(", ")


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST_VALUE else f"{text[:LONGEST_VALUE].rsplit(' ', 1)[0]} …"
