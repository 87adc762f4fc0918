"""Files of other frameworks are refused with what to type."""

from pathlib import Path

import pytest

from stillframe.errors import LONGEST_TEXT, ModelError, shortened
from stillframe.models import zoo
from stillframe.models.formats.exporting import FOREIGN
from stillframe.pipeline import cli


@pytest.mark.parametrize("end", FOREIGN)
def test_the_line_that_exports_it_is_in_the_message(end: str, tmp_path: Path) -> None:
    path = tmp_path / f"net{end}"
    with pytest.raises(ModelError) as caught:  # it need not even be there
        zoo.load(path)
    path.write_bytes(b"PK\x03\x04")
    with pytest.raises(ModelError) as again:
        zoo.load(path)
    assert str(caught.value) == str(again.value)
    assert str(caught.value).startswith(f"{path}: expected an ONNX file, got {FOREIGN[end].what}")
    assert "{" not in str(caught.value)


def test_a_pytorch_checkpoint_gets_the_line_to_type(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "yolo11n.pt"
    path.write_bytes(b"PK\x03\x04")
    for command in (["run", "none.mp4", "--model"], ["models", "info"]):
        assert cli.status([*command, str(path)]) in (3, 4)
    assert cli.status(["models", "info", str(path)]) == 4
    assert f"export: yolo export model={path} format=onnx" in capfd.readouterr().err


def test_long_texts_end_after_a_word() -> None:
    text = "one two three " * 100
    short = shortened(text)
    assert len(short) <= LONGEST_TEXT
    assert short.endswith(" …")
    assert text.startswith(short.removesuffix(" …"))
    assert short.removesuffix(" …").split()[-1] in ("one", "two", "three")
    assert shortened("short") == "short"
    assert len(shortened("x" * 1000)) == LONGEST_TEXT
