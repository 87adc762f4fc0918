"""What `mkdocs build` does beside Markdown: option tables, and Mermaid without another host.

* `<!-- options: run -->` becomes the table of that command's options, out of the command line
  itself, so that no option is described twice.
* Diagrams: Material loads Mermaid from another host unless the site brings it. Its file is taken
  out of the published npm package, verified, and stored under build/; without npm or a network the
  diagrams stay text.
* After the build: every public name is in the reference.
"""

import hashlib
import logging
import re
import shutil
import subprocess
import tarfile
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
LOG = logging.getLogger("mkdocs.hooks.docs_site")

MERMAID = "11.16.0"
MERMAID_SHA256 = "74d7c46dabca328c2294733910a8aa1ed0c37451776e8d5295da38a2b758fb9b"
MERMAID_FILE = ROOT / "build" / "docs" / f"mermaid-{MERMAID}.min.js"

# Type, as the command line names it -> what the table calls a value of it. First match wins.
VALUES = {"float": "X", "int": "N", "file": "FILE", "path": "FILE"}

OPTIONS = re.compile(r"^<!-- options: ([a-z -]+) -->$", re.MULTILINE)


# --- options of the command line -----------------------------------------------------------------


def option_tables(command_line: str) -> str:
    """Markdown tables of what a command takes, one for each group of its options."""
    command, context = _command(command_line)
    groups: dict[str, list[str]] = {}
    for parameter in command.params:
        if getattr(parameter, "hidden", False) or "--help" in parameter.opts:
            continue
        panel = getattr(parameter, "rich_help_panel", None) or "Options"
        groups.setdefault(panel, []).append(_row(parameter, context))
    tables = []
    for panel, rows in groups.items():
        head = [f"| {panel} | |", "| --- | --- |"]
        tables.append("\n".join([*head, *rows]))
    return "\n\n".join(tables)


def _command(command_line: str) -> tuple[Any, Any]:
    import typer

    from stillframe.pipeline.cli import app

    command = typer.main.get_command(app)
    context = command.make_context("stillframe", [], resilient_parsing=True)
    for word in command_line.split():
        command = command.get_command(context, word)  # type: ignore[attr-defined]
        if command is None:
            raise ValueError(f"there is no command {command_line!r}")
    return command, context


def _row(parameter: Any, context: Any) -> str:
    if parameter.param_type_name == "argument":
        name, about = parameter.name.upper(), parameter.help or ""
    else:
        names = sorted([*parameter.opts, *parameter.secondary_opts], key=len, reverse=True)
        name, about = " ".join(names), parameter.help or ""
        if not parameter.is_flag:
            name += f" {_metavar(parameter, context)}"
    default = parameter.default
    if default not in (None, False, True, ()) and not callable(default) and "efault" not in about:
        about = f"{about.removesuffix('.')}; default {getattr(default, 'value', default)}."
    return f"| `{_cell(name)}` | {_cell(about)} |"


def _metavar(parameter: Any, context: Any) -> str:
    """What stands for an option's value: its own name for it, its choices, or its type."""
    if parameter.metavar:
        return str(parameter.metavar)
    shown = getattr(parameter, "display_type", None)  # Typer from 0.29 on; before, it was Click's
    text = str((shown or parameter.make_metavar)(context))
    if "|" in text:
        return text.strip("<>[]")
    return next((word for kind, word in VALUES.items() if kind in text.lower()), "NAME")


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


def on_page_markdown(markdown: str, **more: Any) -> str:
    """mkdocs asks before it renders a page."""
    return OPTIONS.sub(lambda match: option_tables(match[1]), markdown)


# --- diagrams ------------------------------------------------------------------------------------


def on_files(files: Any, config: Any) -> Any:
    """Bring Mermaid's file along, where it can be had."""
    from mkdocs.structure.files import File

    path = mermaid()
    if path is not None:
        files.append(File.generated(config, f"assets/{path.name}", abs_src_path=str(path)))
    return files


def on_post_page(output: str, page: Any, config: Any) -> str:
    """Load Mermaid on pages with a diagram, before the theme would; without it show the text."""
    from mkdocs.utils import get_relative_url

    if '<pre class="mermaid">' not in output:
        return output
    if not MERMAID_FILE.is_file():
        return output.replace('<pre class="mermaid">', '<pre class="diagram">')
    address = get_relative_url(f"assets/{MERMAID_FILE.name}", page.url)
    return output.replace("</head>", f'<script src="{address}"></script></head>', 1)


def mermaid() -> Path | None:
    """Mermaid's file, fetched if need be; None where it cannot be had."""
    if MERMAID_FILE.is_file() and _sha256(MERMAID_FILE) == MERMAID_SHA256:
        return MERMAID_FILE
    npm = shutil.which("npm")
    if npm is None:
        LOG.info("diagrams stay text: there is no npm to fetch Mermaid with")
        return None
    with tempfile.TemporaryDirectory() as folder:
        command = [npm, "pack", f"mermaid@{MERMAID}", "--pack-destination", folder, "--silent"]
        try:
            subprocess.run(command, check=True, capture_output=True, timeout=120, cwd=folder)
            (archive,) = Path(folder).glob("*.tgz")
            with tarfile.open(archive) as package:
                package.extract("package/dist/mermaid.min.js", folder, filter="data")
        except (subprocess.SubprocessError, OSError, ValueError, KeyError) as error:
            LOG.info("diagrams stay text: Mermaid could not be fetched (%s)", error)
            return None
        fetched = Path(folder) / "package" / "dist" / "mermaid.min.js"
        if _sha256(fetched) != MERMAID_SHA256:
            LOG.warning("diagrams stay text: mermaid@%s is not the file expected", MERMAID)
            return None
        MERMAID_FILE.parent.mkdir(parents=True, exist_ok=True)
        shutil.move(fetched, MERMAID_FILE)
    return MERMAID_FILE


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


# --- checks --------------------------------------------------------------------------------------


def on_post_build(config: Any) -> None:
    """Every public name has its place in the reference; nothing is loaded from another host."""
    import stillframe

    site = Path(config.site_dir)
    page = (site / "reference" / "library" / "index.html").read_text("utf-8")
    for name in set(stillframe.__all__) - {"__version__"}:
        if f'id="stillframe.{name}"' not in page:
            LOG.warning("the reference lacks stillframe.%s", name)
    loads = re.compile(r'<(?:script|link|img|iframe)\b[^>]*\b(?:src|href)="(?:https?:)?//[^"]+')
    for path in site.rglob("*.html"):
        for tag in loads.findall(path.read_text("utf-8")):
            LOG.warning("%s loads from another host: %s", path.relative_to(site), tag)
