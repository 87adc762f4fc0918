"""The command that adds an extra, for each way in which the package was installed."""

import json
import re
from importlib import metadata
from pathlib import Path

import pytest

from stillframe import extras
from stillframe.extras import install_command

ROOT = Path(__file__).resolve().parents[1]


class Installed:
    """A distribution with the origin that pip noted."""

    def __init__(self, origin: object) -> None:
        self.origin = origin

    def read_text(self, name: str) -> str | None:
        assert name == "direct_url.json"
        return None if self.origin is None else json.dumps(self.origin)


def test_a_checkout_is_added_to_in_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(ROOT)
    assert install_command("report") == "pip install -e '.[report]'"
    monkeypatch.chdir(tmp_path)
    assert install_command("report") == f"pip install -e '{ROOT}[report]'"


@pytest.mark.parametrize(
    ("origin", "command"),
    [
        (None, "pip install 'stillframe[plot]'"),
        (
            {"url": "file:///tmp/stillframe-0.1.0-py3-none-any.whl", "archive_info": {}},
            "pip install 'stillframe[plot]'",
        ),
        (
            {"url": "https://example.org/stillframe.git", "vcs_info": {"vcs": "git"}},
            "pip install 'stillframe[plot]'",
        ),
        ({"url": "file:///gone/away", "dir_info": {}}, "pip install 'stillframe[plot]'"),
        ({"url": ROOT.as_uri(), "dir_info": {}}, f"pip install '{ROOT}[plot]'"),
        (
            {"url": ROOT.as_uri(), "dir_info": {"editable": True}},
            f"pip install -e '{ROOT}[plot]'",
        ),
    ],
)
def test_an_installed_package_says_where_it_came_from(
    origin: object, command: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(extras, "HERE", tmp_path / "site-packages" / "stillframe" / "extras.py")
    monkeypatch.setattr(metadata, "distribution", lambda name: Installed(origin))
    assert install_command("plot") == command


def test_no_message_spells_the_command_itself() -> None:
    """Python files that name an extra in a `pip install` ask `install_command`."""
    folders = ("pipeline", "reuse", "models", "sample_videos")
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py")]
    paths += (ROOT / "src" / "stillframe").glob("*.py")
    spelled = [path.name for path in paths if re.search(r"stillframe\[", path.read_text("utf-8"))]
    assert spelled == ["extras.py"]
