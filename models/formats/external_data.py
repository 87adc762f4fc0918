"""Weights that an ONNX model stores in other files.

The model is not trusted: such files must lie in its own folder, and a downloaded model may have
none.
"""

import math
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
from onnx import external_data_helper as external

from stillframe.cache_dir import cache_folder
from stillframe.errors import ModelError
from stillframe.models.formats.onnx_file import MAX_BYTES, last_line, subgraphs


def _external_tensors(model: onnx.ModelProto) -> Iterator[onnx.TensorProto]:
    """Every tensor of the model, its subgraphs and functions whose values are in another file."""
    nodes = [node for function in model.functions for node in function.node]
    for graph in subgraphs(model.graph):
        nodes += graph.node
        yield from filter(external.uses_external_data, graph.initializer)
        for sparse in graph.sparse_initializer:
            yield from filter(external.uses_external_data, (sparse.values, sparse.indices))
    for node in nodes:
        for attribute in node.attribute:
            yield from filter(external.uses_external_data, (attribute.t, *attribute.tensors))


def external_files(model: onnx.ModelProto, path: Path) -> list[Path]:
    """The files with weights of the model, each checked to be in the model's own folder.

    Raises ModelError otherwise, and always for a model in the cache, which was downloaded.
    """
    folder = path.resolve().parent
    downloaded = folder.is_relative_to(cache_folder().resolve())
    files: dict[Path, None] = {}
    for tensor in _external_tensors(model):
        locations = [e.value for e in tensor.external_data if e.key == "location"]
        where = f"{path.name}: the weights {tensor.name!r} lie outside it, in {locations[-1:]}"
        if downloaded:
            raise ModelError(f"{where}: refused for a downloaded model")
        named = len(locations) == 1 and locations[0] and isinstance(locations[0], str)
        if not named or "\0" in locations[0]:  # a name that is not UTF-8 arrives as bytes
            raise ModelError(f"{where}: expected one file name")
        file = (folder / locations[0]).resolve()
        if Path(locations[0]).is_absolute() or not file.is_relative_to(folder):
            raise ModelError(
                f"{where}: refused, the file must be in the model's own folder {folder}"
            )
        if not file.is_file():
            raise ModelError(f"{where}: there is no such file in {folder}")
        files[file] = None
    if (size := sum(f.stat().st_size for f in files)) > MAX_BYTES:
        raise ModelError(f"{path.name}: expected weights of {MAX_BYTES} bytes or less, got {size}")
    return list(files)


def load_external(model: onnx.ModelProto, path: Path) -> None:
    """Read the external data into the model. Raises ModelError if it is not what was declared."""
    folder = str(path.resolve().parent)
    total = 0
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # unknown keys are only named in a warning
            for tensor in _external_tensors(model):
                external.load_external_data_for_tensor(tensor, folder)
                numbers, total = math.prod(tensor.dims), total + len(tensor.raw_data)
                if total > MAX_BYTES:
                    raise ModelError(f"{path.name}: its weights exceed {MAX_BYTES} bytes")
                if numbers and not tensor.raw_data:
                    raise ModelError(f"{path.name}: the weights {tensor.name!r} are empty")
    except (OSError, TypeError, ValueError, RuntimeError, onnx.checker.ValidationError) as e:
        raise ModelError(f"{path.name}: its weights cannot be read: {last_line(e)}") from e
