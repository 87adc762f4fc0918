"""Names that users write: an old name works and warns, an unknown one gets a suggestion."""

import difflib
import functools
import warnings
from collections.abc import Callable, Iterable
from typing import Any, TypeVar

Target = TypeVar("Target", bound=Callable[..., Any])


class RenamedWarning(DeprecationWarning):
    """An old name was used. The message gives the new one."""


def warn_renamed(old: str, new: str, *, stacklevel: int = 2) -> None:
    """Warn that `old` is now called `new`. stacklevel: as of `warnings.warn`, from the caller."""
    text = f"{old} is now called {new}; the old name still works, but will be removed"
    warnings.warn(RenamedWarning(text), stacklevel=stacklevel + 1)


def renamed_keywords(**new_names: str) -> Callable[[Target], Target]:
    """A decorator: the function, or class, also takes keyword arguments by their old names.

        @renamed_keywords(room="queue_size")
        def stage(*, queue_size: int = 1) -> None: ...

    An old name warns with RenamedWarning. Both names in one call are a TypeError.
    """

    def decorate(target: Target) -> Target:
        if isinstance(target, type):
            init = target.__dict__["__init__"]
            setattr(target, "__init__", _accepting(init, target.__name__, new_names))  # noqa: B010
            return target
        return _accepting(target, target.__name__, new_names)  # type: ignore[return-value]

    return decorate


def _accepting(
    function: Callable[..., Any], name: str, new_names: dict[str, str]
) -> Callable[..., Any]:
    @functools.wraps(function)
    def accepting(*arguments: Any, **keywords: Any) -> Any:
        for old in new_names.keys() & keywords.keys():
            new = new_names[old]
            if new in keywords:
                raise TypeError(f"{name}() got both {new!r} and its old name {old!r}")
            warn_renamed(f"{name}({old}=)", f"{new}=")
            keywords[new] = keywords.pop(old)
        return function(*arguments, **keywords)

    return accepting


def suggestion(name: str, known: Iterable[str]) -> str:
    """` (did you mean 'quality'?)` for `qualty`; empty where no known name is near."""
    near = difflib.get_close_matches(name, list(known), n=1, cutoff=0.7)
    return f" (did you mean {near[0]!r}?)" if near else ""
