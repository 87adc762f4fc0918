"""stillframe devices: the processors to run on, and the measured speed of each."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from stillframe.pipeline.cli import options, printing

if TYPE_CHECKING:
    from stillframe.pipeline.executor.hardware.microbenchmark import Capability
    from stillframe.pipeline.executor.hardware.processors import Machine


def devices(
    as_json: options.AsJson = False,
    measured: Annotated[
        bool,
        typer.Option(
            "--measure/--no-measure",
            help="Measure the speed of each, which takes a fraction of a second.",
        ),
    ] = True,
) -> None:
    """List cores, ONNX Runtime providers and OpenVINO devices, with the measured speed of each."""
    from stillframe.errors import UsageError
    from stillframe.pipeline.executor.hardware.microbenchmark import measure_processor
    from stillframe.pipeline.executor.hardware.processors import PROVIDERS, Machine, Processor

    machine = Machine.here()
    chosen = [Processor.on(core) for core in machine.allowed]
    chosen += [Processor("openvino", device=device) for device in machine.openvino]
    chosen += [
        Processor(kind, device="0") for kind, name in PROVIDERS.items() if name in machine.providers
    ]
    measurements: dict[str, Capability | str] = {}
    for processor in chosen if measured else ():
        try:
            measurements[str(processor)] = measure_processor(processor)
        except UsageError as error:  # it is listed but broken: the row shows why
            measurements[str(processor)] = str(error)
    if as_json:
        printing.json_data(_values(machine, chosen, measurements))
    else:
        _table(machine, chosen, measurements)


def _values(
    machine: "Machine", chosen: list[Any], measurements: "dict[str, Capability | str]"
) -> dict[str, Any]:
    rows = []
    for processor in map(str, chosen):
        row: dict[str, Any] = {"name": processor}
        match measurements.get(processor):
            case str(fault):
                row["fault"] = fault
            case None:
                pass
            case capability:
                row["gflops"] = round(capability.gflops, 1)
                row["gigabytes_s"] = round(capability.gigabytes_s, 2) or None
                row["note"] = capability.note
        rows.append(row)
    return {
        "cores": [asdict(core) for core in machine.cores],
        "quota": machine.quota,
        "capacity": machine.capacity,
        "onnxruntime_providers": list(machine.providers),
        "openvino_devices": list(machine.openvino),
        "processors": rows,
    }


def _table(
    machine: "Machine", chosen: list[Any], measurements: "dict[str, Capability | str]"
) -> None:
    from rich.table import Table

    console = printing.output()
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
        match measurements.get(processor):
            case None:
                table.add_row(processor, words)
            case str(fault):
                table.add_row(processor, words, "", "", fault)
            case capability:
                speed = f"{capability.gigabytes_s:.1f}" if capability.gigabytes_s else ""
                table.add_row(processor, words, f"{capability.gflops:.1f}", speed, capability.note)
    console.print(table)
    denied = [str(core.number) for core in machine.cores if not core.allowed]
    if denied:
        console.print(f"not allowed to this process: cores {', '.join(denied)}")
    granted = "no limit" if machine.quota is None else f"a limit of {machine.quota:g} cores"
    console.print(f"control groups: {granted}; usable: {machine.capacity:g} cores")
    console.print(f"ONNX Runtime: {', '.join(machine.providers)}", soft_wrap=True)
