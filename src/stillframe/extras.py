"""How to install an extra of this package, for messages that name one."""

import json
import os
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

HERE = Path(__file__).resolve()


def install_command(extra: str) -> str:
    """The command that adds an extra: `pip install 'stillframe[report]'`, or, for one who runs a
    checkout, `pip install -e '.[report]'` with the checkout's folder where that is another."""
    checkout, editable = _checkout()
    if checkout is None:
        return f"pip install 'stillframe[{extra}]'"
    here = Path.cwd() == checkout
    option = "-e " if editable else ""
    return f"pip install {option}'{'.' if here else checkout}[{extra}]'"


def _checkout() -> tuple[Path | None, bool]:
    """The folder that this package runs from or was installed from, and whether it runs there."""
    if HERE.parents[1].name == "src" and (HERE.parents[2] / "pyproject.toml").is_file():
        return HERE.parents[2], True
    try:
        text = metadata.distribution("stillframe").read_text("direct_url.json")
        origin = json.loads(text or "{}")
    except (metadata.PackageNotFoundError, OSError, ValueError):
        return None, False
    address = urlsplit(origin.get("url", ""))
    if address.scheme != "file" or "dir_info" not in origin:
        return None, False
    folder = Path(os.path.normpath(unquote(address.path)))
    editable = bool(origin["dir_info"].get("editable"))
    return (folder, editable) if (folder / "pyproject.toml").is_file() else (None, False)
