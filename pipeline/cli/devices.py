"""stillframe devices: what there is to run on, and what each was measured to do."""

import json
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from stillframe.pipeline.executor.hardware.microbenchmark import Capability
    from stillframe.pipeline.executor.hardware.processors import Machine


def devices(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
    measured: Annotated[
        bool, typer.Option("--measure/--no-measure", help="A fraction of a second for each.")
    ] = True,
) -> None:
    """List cores, providers and devices, and what each was measured to do."""
    from stillframe.errors import UsageError
    from stillframe.pipeline.executor.hardware.microbenchmark import measure_processor
    from stillframe.pipeline.executor.hardware.processors import PROVIDERS, Machine, Processor

    machine = Machine.here()
    chosen = [Processor.on(core) for core in machine.allowed]
    chosen += [Processor("openvino", device=device) for device in machine.openvino]
    chosen += [
        Processor(kind, device="0") for kind, name in PROVIDERS.items() if name in machine.providers
    ]
    found: dict[str, Capability | str] = {}
    for processor in chosen if measured else ():
        try:
            found[str(processor)] = measure_processor(processor)
        except UsageError as error:  # it is listed but broken: said in its row
            found[str(processor)] = str(error)
    if as_json:
        print(json.dumps(_values(machine, chosen, found), indent=2))
    else:
        _table(machine, chosen, found)


def _values(
    machine: "Machine", chosen: list[Any], found: "dict[str, Capability | str]"
) -> dict[str, Any]:
    rows = []
    for processor in map(str, chosen):
        row: dict[str, Any] = {"name": processor}
        match found.get(processor):
            case str(fault):
                row["fault"] = fault
            case None:
                pass
            case seen:
                row["gflops"] = round(seen.gflops, 1)
                row["gigabytes_s"] = round(seen.gigabytes_s, 2) or None
                row["note"] = seen.note
        rows.append(row)
    return {
        "cores": [asdict(core) for core in machine.cores],
        "quota": machine.quota,
        "capacity": machine.capacity,
        "onnxruntime_providers": list(machine.providers),
        "openvino_devices": list(machine.openvino),
        "processors": rows,
    }


def _table(machine: "Machine", chosen: list[Any], found: "dict[str, Capability | str]") -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console()
    table = Table(box=None, pad_edge=False)
    for head in ("processor", "what it is", "GFLOP/s", "GB/s", ""):
        table.add_column(head, justify="right" if "/s" in head else "left")
    about = {f"cpu:{core.number}": core for core in machine.cores}
    for processor in map(str, chosen):
        core = about.get(processor)
        words = "takes the network only"
        if core is not None:
            twins = [str(n) for n in core.siblings if n != core.number]
            words = f"package {core.package}"
            words += f", shares its core with {', '.join(twins)}" if twins else ""
            words += f", up to {core.most_mhz} MHz" if core.most_mhz else ""
            words += ", little" if core.little else ""
        match found.get(processor):
            case None:
                table.add_row(processor, words)
            case str(fault):
                table.add_row(processor, words, "", "", fault)
            case seen:
                speed = f"{seen.gigabytes_s:.1f}" if seen.gigabytes_s else ""
                table.add_row(processor, words, f"{seen.gflops:.1f}", speed, seen.note)
    console.print(table)
    denied = [str(core.number) for core in machine.cores if not core.allowed]
    if denied:
        console.print(f"not allowed to this process: cores {', '.join(denied)}", highlight=False)
    granted = "no limit" if machine.quota is None else f"a limit of {machine.quota:g} cores"
    console.print(f"control groups: {granted}; usable: {machine.capacity:g} cores", highlight=False)
    console.print(f"ONNX Runtime: {', '.join(machine.providers)}", highlight=False, soft_wrap=True)
