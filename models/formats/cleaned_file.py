"""A cleaned file and what runs need to know of it, without reading it.

Cleaning reads a network with onnx, which takes longer to load than all the rest of this folder. So
what it found is stored beside the cleaned file, under the hash of the original and of all that was
stated, and a later start reads that instead.
"""

import contextlib
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from stillframe.cache_dir import cache_folder
from stillframe.errors import ModelError
from stillframe.models.formats.exporting import refuse_foreign
from stillframe.models.formats.side_inputs import SideInputs
from stillframe.models.weights.sealed import file_sha256, sealed, write_sealed

if TYPE_CHECKING:  # loads onnx
    from stillframe.models.formats.onnx_file import Layout

CLEANING_VERSION = 1
"""Increased whenever cleaning, or what is stored here, writes something else, so that older cached
files are not used."""


@dataclass(frozen=True, slots=True)
class CleanedFile:
    """A cleaned file and its inputs."""

    path: Path
    input_name: str
    """Of the picture."""
    states: Mapping[str, tuple[tuple[int, ...], str]]
    """Shape and NumPy's name of the type, by the input that is fed back, in the file's order."""

    def zero_states(self) -> dict[str, NDArray[Any]]:
        """The states of the first frame, by the name of their input."""
        return {name: np.zeros(shape, dtype) for name, (shape, dtype) in self.states.items()}


def cleaned_file(
    origin: Path, size: tuple[int, int], side: SideInputs, layout: "Layout"
) -> CleanedFile:
    """The cleaned file of an ONNX file at an input of size (H, W), from the cache if it is there.

    Arguments and errors are those of `cleaning.clean`.
    """
    stored = _stored_path(origin, size, side, layout)
    if stored is not None and (known := _read(stored)) is not None:
        return known
    # Only where nothing is stored: these load onnx.
    from stillframe.models.formats.cleaning import clean
    from stillframe.models.formats.onnx_file import find_image_input, read_onnx
    from stillframe.models.formats.state import zero_states

    path = clean(origin, size, side, layout)
    network, fed_back = read_onnx(path), SideInputs(state=side.state)
    states = zero_states(network, fed_back)
    cleaned = CleanedFile(
        path,
        find_image_input(network, path, fed_back).name,
        {name: (state.shape, state.dtype.name) for name, state in states.items()},
    )
    of_numpy = all(state.dtype.isbuiltin == 1 for state in states.values())
    if stored is not None and of_numpy and _is_whole(origin):
        with contextlib.suppress(ModelError):  # a read-only cache: the next start reads it again
            write_sealed(stored, _text(cleaned).encode())
    return cleaned


def _stored_path(
    origin: Path, size: tuple[int, int], side: SideInputs, layout: "Layout"
) -> Path | None:
    """Where the facts are stored; None for a file that cannot be read."""
    refuse_foreign(origin)
    try:
        if not origin.is_file():  # a device may have no end
            return None
        content = file_sha256(origin)
    except OSError:
        return None
    stated = [dict(side.constants), list(side.state.items())]
    # Which files are accepted depends on the version of onnx.
    key = repr((CLEANING_VERSION, metadata.version("onnx"), size, layout, content))
    key += json.dumps(stated, default=str)
    name = f"{origin.stem[:80]}-{size[0]}x{size[1]}-{hashlib.sha256(key.encode()).hexdigest()[:16]}"
    return cache_folder() / "cleaned" / f"{name}.onnx.inputs"


def _is_whole(origin: Path) -> bool:
    """No weights lie in other files, which have to be checked at each start."""
    from stillframe.models.formats.external_data import external_files
    from stillframe.models.formats.onnx_file import read_onnx

    return not external_files(read_onnx(origin), origin)


def _text(cleaned: CleanedFile) -> str:
    states = [[name, list(shape), dtype] for name, (shape, dtype) in cleaned.states.items()]
    facts = {"file": cleaned.path.name, "input": cleaned.input_name, "states": states}
    return json.dumps(facts)


def _read(stored: Path) -> CleanedFile | None:
    """None unless both the facts and the cleaned file are as they were written."""
    if not sealed(stored):
        return None
    try:
        facts = json.loads(stored.read_text())
        states = {name: (tuple(shape), str(dtype)) for name, shape, dtype in facts["states"]}
        path = stored.with_name(facts["file"])
        known = CleanedFile(path, str(facts["input"]), states)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return None
    return known if sealed(path) else None
