"""Options and configuration keys that have a new name: one table, and how old names are read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stillframe.errors import UsageError
from stillframe.names import warn_renamed


@dataclass(frozen=True, slots=True)
class Renamed:
    """One row: an old spelling that is still accepted, with a warning."""

    where: str
    """The command, or the part of a configuration file: "stages"."""
    old: str
    """As it was written: `--old-name`, or a key of the file."""
    new: str


RENAMED: tuple[Renamed, ...] = (
    Renamed("tune", "--tries", "--log"),  # it read as a number of tries, and is a file
    Renamed("stages", "room", "queue_size"),
)


def current_arguments(arguments: Sequence[str]) -> list[str]:
    """The command line with today's option names. Warns with RenamedWarning of each old one."""
    command = next((word for word in arguments if not word.startswith("-")), "")
    names = {row.old: row.new for row in RENAMED if row.where == command}
    end = arguments.index("--") if "--" in arguments else len(arguments)
    current = []
    for word in arguments[:end]:
        name, equals, value = word.partition("=")
        if name in names:
            warn_renamed(name, names[name])
            name = names[name]
        current.append(name + equals + value)
    return [*current, *arguments[end:]]


def current_keys(values: Mapping[str, Any], where: str, place: str) -> dict[str, Any]:
    """A part of a configuration file with today's keys. Warns with RenamedWarning of each old one.

    where: of the table: "run" or "stages". place: what precedes the key in messages, such as
    `run.yaml: `. Raises UsageError where a key stands there by both names.
    """
    names = {_key(row.old): _key(row.new) for row in RENAMED if row.where == where}
    current: dict[str, Any] = {}
    for key, value in values.items():
        name = names.get(key, key)
        if name in current or (name != key and name in values):
            raise UsageError(f"{place}{key} is the old name of {name}, and both are given")
        if name != key:
            warn_renamed(f"{place}{key}", name)
        current[name] = value
    return current


def _key(option: str) -> str:
    """`--max-age` -> `max_age`."""
    return option.lstrip("-").replace("-", "_")
