"""Sample clips: drawn ones with exact ground truth, and real ones.

resolve("plaza", size=(640, 360), seconds=5)   the file of a drawn clip, encoded on first use
resolve("sports2d_demo")                       a real clip, fetched on first use
truth("plaza", size=(640, 360), seconds=5)     the frames of a drawn clip, with ground truth
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stillframe.errors import SourceError, UsageError
from stillframe.sample_videos.catalog import CLIPS, real
from stillframe.sample_videos.options import Options, options_from, parse_spec
from stillframe.sample_videos.truth import SceneFrame  # the module: before the function of its name

if TYPE_CHECKING:
    from stillframe.sample_videos.scenes.scenes import SCENES

    NAMES: tuple[str, ...]
    """Every name that `resolve` takes: the drawn clips, then the real ones."""

__all__ = ["CLIPS", "NAMES", "SCENES", "Options", "SceneFrame", "parse_spec", "resolve", "truth"]


def __getattr__(name: str) -> Any:
    """What draws is loaded on first use: a real clip needs none of it."""
    if name not in ("SCENES", "NAMES"):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from stillframe.sample_videos.scenes.scenes import SCENES

    return SCENES if name == "SCENES" else (*SCENES, *CLIPS)


def resolve(
    name: str, *, progress: Callable[[int, int], None] | None = None, **options: Any
) -> Path:
    """The file of a clip by its name; drawn or fetched unless the cache has it.

    name: one of NAMES, perhaps with options, as in `plaza?size=640x360&seconds=5`; arguments
    override them. Drawn clips take the fields of `Options`, real ones only `allow_sdist`.
    progress: called with (done, in all), in frames (drawn) or bytes (fetched).
    Raises SourceError for an unknown name or a clip that cannot be fetched, UsageError for invalid
    options.
    """
    name, values = _parse(name, options)
    allow_sdist = bool(values.pop("allow_sdist", False))
    if name not in CLIPS:
        from stillframe.sample_videos.encode import clip

        return clip(name, options_from(values), progress=progress)
    if values:
        from stillframe.sample_videos.scenes.scenes import SCENES

        raise UsageError(
            f"sample:{name} is a real clip and takes no {', '.join(values)}; only drawn ones do: "
            f"{', '.join(SCENES)}"
        )
    return real(name, allow_sdist=allow_sdist, progress=progress)


def truth(name: str, **options: Any) -> Iterator[SceneFrame]:
    """The frames of a drawn clip with their ground truth, drawn again from the seed.

    The same name and options as for `resolve` give the frames that were encoded. Raises
    SourceError for a real clip.
    """
    from stillframe.sample_videos.scenes.scenes import SCENES, draw

    name, values = _parse(name, options)
    if name not in SCENES:
        raise SourceError(
            f"sample:{name} is a real clip, without ground truth; drawn ones are "
            f"{', '.join(SCENES)}"
        )
    values.pop("allow_sdist", None)
    return draw(name, options_from(values))


def _parse(text: str, options: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    name, values = parse_spec(text)
    if name not in CLIPS:
        from stillframe.sample_videos.scenes.scenes import SCENES

        if name not in SCENES:
            names = ", ".join((*SCENES, *CLIPS))
            raise SourceError(f"there is no sample:{name}; there are {names}")
    return name, values | options
