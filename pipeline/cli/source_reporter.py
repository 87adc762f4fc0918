"""What happens between frames: a line in each JSONL output; of a live source one for people too."""

import threading
from collections.abc import Sequence
from typing import Any

from rich.console import Console

from stillframe.pipeline.cli import printing
from stillframe.pipeline.media.source import SourceEvent
from stillframe.pipeline.sinks.records import JsonlSink


class SourceReporter:
    """The `on_event` of a run's source. It waits for `attach` with what is to be written."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._lock = threading.Lock()
        self._early: list[SourceEvent] = []
        self._sinks: Sequence[JsonlSink] | None = None

    def __call__(self, event: SourceEvent) -> None:
        printing.plain(
            self._console,
            f"{event.source}: {event.kind}: {event.reason} "
            f"({event.previous} for {event.duration_s:.1f} s)",
        )
        with self._lock:
            if self._sinks is None:
                self._early.append(event)
                return
            sinks = self._sinks
        for sink in sinks:
            sink.write_event(event)

    def write(self, row: dict[str, Any]) -> None:
        """Write a line to the JSONL outputs alone. Any thread may call it."""
        with self._lock:
            sinks = self._sinks or ()
        for sink in sinks:
            sink.write_row(row)

    def attach(self, sinks: Sequence[JsonlSink]) -> None:
        """Write to these from now on; events before the first picture come first."""
        with self._lock:
            for event in self._early:
                for sink in sinks:
                    sink.write_event(event)
            self._early, self._sinks = [], sinks
