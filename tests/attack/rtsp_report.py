"""What a run on a failing camera reported, and whether that was in time and true."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

GOAL_S = 2.0
"""Each change of state is reported, and pictures come again, within so long."""
AGE_LEEWAY_S = 1.6
"""How long after the last new picture a result may still count as fresh."""
FRESH_S = 1.0
SHORT_S = 1.0
"""A state that lasted less may fall between two readings of the metrics."""
WARM_S = 300.0
"""Memory may grow until then."""
MEMORY_GROWTH = 1.02


@dataclass(frozen=True)
class Step:
    """What is done to the camera, and for how long it stays so."""

    action: str
    """start, kill, stall, freeze or play."""
    seconds: float
    state: str
    """That must be reported in time."""


@dataclass
class Sight:
    """What was seen, and when, by the wall clock."""

    when: float
    value: Any
    earliest: float = 0.0
    """When the reader looked last and it was not there yet; 0: not known. On a busy machine that
    may be long before."""

    @property
    def written(self) -> float:
        """No later than it was written: what an age is held against."""
        return self.earliest or self.when


@dataclass
class Sample:
    """Of the process under test."""

    elapsed_s: float
    resident: int
    threads: int
    descriptors: int


@dataclass
class Report:
    """What came of one scenario."""

    scenario: str
    minutes: float
    steps: int = 0
    delays: dict[str, list[float]] = field(default_factory=dict)
    """By state and channel: seconds from the step until it was seen there."""
    recoveries: list[float] = field(default_factory=list)
    """Seconds from the camera's return until a fresh result was written."""
    records: int = 0
    records_in_faults: int = 0
    events: int = 0
    reconnects: int = 0
    samples: list[Sample] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """A table of text."""
        rows = [
            f"{self.scenario}: {self.minutes:.1f} min, {self.steps} steps, {self.records} results"
            f" ({self.records_in_faults} during faults), {self.events} events,"
            f" {self.reconnects} reconnects, {len(self.faults)} faults"
        ]
        for name, delays in [*self.delays.items(), ("fresh result after return", self.recoveries)]:
            if delays:
                ordered = sorted(delays)
                rows.append(
                    f"  {name:<26} {len(ordered):>4} times, median"
                    f" {ordered[len(ordered) // 2]:.2f} s, longest {ordered[-1]:.2f} s"
                )
        if self.samples:
            warm = self.warm or self.samples
            first, late = warm[0], warm[-(-len(warm) * 3 // 4) :] or warm
            rows.append(
                f"  memory {first.resident / 1e6:.1f} MB at {first.elapsed_s:.0f} s, afterwards"
                f" {min(s.resident for s in warm) / 1e6:.1f} to"
                f" {max(s.resident for s in warm) / 1e6:.1f} MB"
                f" ({(self.growth - 1) * 100:+.2f} % at most, now"
                f" {(warm[-1].resident / first.resident - 1) * 100:+.2f} %); threads"
                f" {min(s.threads for s in warm)} to {max(s.threads for s in warm)} (in the end"
                f" {min(s.threads for s in late)}), descriptors"
                f" {min(s.descriptors for s in warm)} to {max(s.descriptors for s in warm)} (in the"
                f" end {min(s.descriptors for s in late)})"
            )
        return rows

    @property
    def warm(self) -> list[Sample]:
        """Of the time after WARM_S."""
        return [sample for sample in self.samples if sample.elapsed_s >= WARM_S]

    @property
    def growth(self) -> float:
        """The most memory after WARM_S, by that at WARM_S."""
        residents = [sample.resident for sample in self.warm]
        return max(residents) / residents[0] if residents else 1.0


@dataclass
class Sights:
    """All that was seen of a run."""

    folder: Path
    """Where its files are."""
    rows: list[Sight] = field(default_factory=list)
    """Of the JSONL file."""
    lines: list[Sight] = field(default_factory=list)
    """Of standard error."""
    states: list[Sight] = field(default_factory=list)
    """The state in the metrics, at each change."""
    ages: list[Sight] = field(default_factory=list)
    """The median age in the metrics."""

    def events(self) -> list[Sight]:
        """The states of JSONL's events."""
        return [Sight(row.when, row.value["event"]) for row in self.rows if "event" in row.value]

    def frames(self) -> list[Sight]:
        """The records of JSONL's results."""
        return [row for row in self.rows if "event" not in row.value]

    def line_states(self) -> list[Sight]:
        """The states on standard error."""
        matches = [(line.when, re.search(r"camera: (\w+): ", line.value)) for line in self.lines]
        return [Sight(when, match[1]) for when, match in matches if match]


def judge(run: Sights, report: Report, taken: list[tuple[float, float, Step]]) -> None:
    """Note in the report what was seen too late, not at all, or with a wrong age.

    taken: (when it began, when it ended, step), by the wall clock.
    """
    frames, events = run.frames(), run.events()
    report.steps, report.records, report.events = len(taken), len(frames), len(events)
    channels = {"jsonl": events, "stderr": run.line_states(), "metrics": run.states}
    for when, end, step in taken:
        for channel, sights in channels.items():
            seen = [s.when for s in sights if s.value == step.state and when <= s.when <= end]
            if not seen:
                report.faults.append(f"{step.action} at {when:.1f}: no {step.state} in {channel}")
                continue
            delay = min(seen) - when
            report.delays.setdefault(f"{step.state} in {channel}", []).append(delay)
            if delay > GOAL_S:
                report.faults.append(
                    f"{step.action} at {when:.1f}: {step.state} in {channel} after {delay:.2f} s"
                )
        if step.state == "running":
            _judge_recovery(report, when, end, frames)
        else:
            _judge_ages(report, when, end, frames, run.ages)
    _judge_channels(run, report)
    files = {name: run.folder / f"{name}.json" for name in ("summary", "metrics")}
    for name, path in files.items():
        if not path.exists():
            report.faults.append(f"{name}.json was not written")
    if files["summary"].exists():
        report.reconnects = json.loads(files["summary"].read_text()).get("reconnects", 0)
    if report.growth > MEMORY_GROWTH:
        report.faults.append(f"memory grew by {(report.growth - 1) * 100:.2f} %")
    for name, values in (
        ("threads", [sample.threads for sample in report.warm]),
        ("descriptors", [sample.descriptors for sample in report.warm]),
    ):
        # at least, since each reader of the metrics takes some for a moment
        some = -(-len(values) // 4)
        if values and min(values[-some:]) > min(values[:some]):
            report.faults.append(
                f"{name} grew from {min(values[:some])} to {min(values[-some:])} at least"
            )


def _judge_channels(run: Sights, report: Report) -> None:
    """Every event of JSONL, also a loss by time-out, is seen in the other channels in time."""
    rows = [row.value for row in run.rows if "event" in row.value]
    began = run.states[0].when if run.states else 0.0
    ends = [row["wall_time"] for row in rows[1:]] + [float("inf")]
    for row, end in zip(rows, ends, strict=True):
        when, state = row["wall_time"], row["event"]
        channels = {"stderr": run.line_states(), "metrics": run.states}
        if end - when < SHORT_S:
            del channels["metrics"]
        for channel, sights in channels.items():
            delays = [sight.when - when for sight in sights if sight.value == state]
            if when > began and not any(-0.1 < delay < GOAL_S for delay in delays):
                report.faults.append(
                    f"{state} at {when:.1f} ({row['reason']}): not in {channel} in time"
                )


def _judge_recovery(report: Report, when: float, end: float, frames: list[Sight]) -> None:
    fresh = [
        row.when
        for row in frames
        if when <= row.when <= end and row.value["age_s"] < min(FRESH_S, row.when - when + 0.1)
    ]
    if not fresh:
        report.faults.append(f"no fresh result after the return at {when:.1f}")
        return
    report.recoveries.append(min(fresh) - when)
    if report.recoveries[-1] > GOAL_S:
        report.faults.append(f"fresh result {report.recoveries[-1]:.2f} s after {when:.1f}")


def _judge_ages(
    report: Report, when: float, end: float, frames: list[Sight], ages: list[Sight]
) -> None:
    during = [
        Sight(row.when, row.value["age_s"], row.earliest) for row in frames if when < row.when < end
    ]
    report.records_in_faults += len(during)
    for name, sights in (("result", during), ("metric", ages)):
        for sight in sights:
            passed_s = sight.written - when
            if 0 < passed_s < end - when and sight.value < passed_s - AGE_LEEWAY_S:
                report.faults.append(
                    f"{name} {passed_s:.2f} s after the last new picture has the age"
                    f" {sight.value:.2f} s"
                )
