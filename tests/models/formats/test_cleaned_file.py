"""What is stored beside a cleaned file: the same facts as reading it gives, and only while true."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto

from stillframe.errors import ModelError
from stillframe.models.formats import cleaned_file as module
from stillframe.models.formats import cleaning
from stillframe.models.formats.cleaned_file import CleanedFile, cleaned_file
from stillframe.models.formats.side_inputs import SideInputs
from tests.hostile.models import external, network
from tests.pipeline.inference.test_state import matting

SIZE = (16, 24)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("STILLFRAME_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def cleanings(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """The files that were cleaned, or looked for by reading the network."""
    seen: list[Path] = []
    clean = cleaning.clean

    def counted(path: Path, *rest: object) -> Path:
        seen.append(path)
        return clean(path, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(cleaning, "clean", counted)
    return seen


@pytest.fixture
def origin(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    path.write_bytes(network().SerializeToString())
    return path


def prepared(path: Path, side: SideInputs | None = None) -> CleanedFile:
    return cleaned_file(path, SIZE, side or SideInputs(), "nchw")


def test_the_second_start_reads_no_network(origin: Path, cleanings: list[Path]) -> None:
    first = prepared(origin)
    assert prepared(origin) == first == CleanedFile(first.path, "x0", {})
    assert cleanings == [origin]


def test_states_are_as_the_file_has_them(tmp_path: Path, cleanings: list[Path]) -> None:
    file = matting(tmp_path / "rvm.onnx")
    side = SideInputs(state={"r1o": "r1i"})
    first, second = (prepared(file, side).zero_states() for _ in range(2))
    assert cleanings == [file]
    assert [*first] == [*second] == ["r1i"]
    assert first["r1i"].dtype == second["r1i"].dtype == np.float32
    assert first["r1i"].shape == second["r1i"].shape
    assert not second["r1i"].any()


@pytest.mark.parametrize(
    ("end", "wrong"), [("onnx", (b"weight", b"weighs")), ("inputs", (b'"x0"', b'"y0"'))]
)
def test_what_is_damaged_is_written_again(
    origin: Path, cache: Path, cleanings: list[Path], end: str, wrong: tuple[bytes, bytes]
) -> None:
    first = prepared(origin)
    (file,) = (cache / "cleaned").glob(f"*.{end}")
    whole = file.read_bytes()
    file.write_bytes(whole.replace(*wrong))
    module.sealed.__globals__["_hash"].cache_clear()
    assert prepared(origin) == first
    assert len(cleanings) == 2
    assert file.read_bytes() == whole


def test_another_network_at_the_same_path_is_another_file(
    origin: Path, cleanings: list[Path]
) -> None:
    first = prepared(origin)
    origin.write_bytes(network(opset=16).SerializeToString())
    assert prepared(origin).path != first.path
    assert len(cleanings) == 2


def test_weights_in_other_files_are_checked_at_each_start(
    tmp_path: Path, cleanings: list[Path]
) -> None:
    file, weights = tmp_path / "net.onnx", tmp_path / "weights.bin"
    file.write_bytes(external(weights.name).SerializeToString())
    weights.write_bytes(np.full(108, 0.1, np.float32).tobytes())
    first = prepared(file)
    weights.write_bytes(np.full(108, 0.2, np.float32).tobytes())
    assert prepared(file).path != first.path
    weights.unlink()
    with pytest.raises(ModelError, match="there is no such file"):
        prepared(file)
    assert len(cleanings) == 3


def test_a_cache_that_cannot_be_written_any_more_is_of_use(
    origin: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = cleaning.clean(origin, SIZE, SideInputs(), "nchw")

    def full(path: Path, content: bytes) -> None:
        raise ModelError(f"{path}: cannot be written")

    monkeypatch.setattr(module, "write_sealed", full)
    assert prepared(origin).path == path


def test_a_file_that_is_no_network_is_refused_as_ever(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="cannot be read"):
        prepared(tmp_path / "missing.onnx")
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(ModelError, match="got a folder"):
        prepared(tmp_path / "folder.onnx")


def test_the_split_backend_knows_floats() -> None:
    from stillframe.pipeline.inference.split_backend import FLOAT

    assert FLOAT == TensorProto.FLOAT == onnx.TensorProto.FLOAT
