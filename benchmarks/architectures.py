#!/usr/bin/env python3
"""What reuse does on networks of today: work before and after the attention, exactness, time.

    python benchmarks/architectures.py               # every architecture, 5 and 10 % changed
    python benchmarks/architectures.py yolo11n dfine-n --no-time
    python benchmarks/architectures.py depth-anything-s --share 0.1 --repeats 10 --json out.json
    python benchmarks/architectures.py --page docs/reference/networks.md      # writes its tables

A textured square moves to and fro over a still textured picture, so that a share of its pixels
changes from frame to frame. Weights are random: shares, exactness and times are real ones, the
results mean nothing, and nothing is tuned on them. Times are of one thread, the three taking turns.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray

from stillframe.models import zoo
from stillframe.models.architectures.builder import textured
from stillframe.models.catalog import MODELS
from stillframe.models.model import Model
from stillframe.reuse.introspection import ISLAND, LayerInfo, layer_stats, layers
from stillframe.reuse.session import RecompiledWarning, ReuseSession

NAMES = tuple(row.name for row in MODELS.values() if not row.assets)
WARM_UP = 2
SETTLED = 30
"""Frames after which states that begin as zeros have settled."""
SAME = 1e-3
"""Largest difference of two outputs, as a share of the largest value, that counts as none."""

MARKER = "<!-- benchmarks/architectures.py writes what follows -->"

Feed = dict[str, NDArray[Any]]
Outputs = Sequence[NDArray[Any]]
HEADER = (
    "model",
    "input",
    "M mult-adds",
    "after attention",
    "changed",
    "work before",
    "work after",
    "work",
    "exact",
    "to ORT",
    "islands",
    "dense ms",
    "reuse ms",
    "ORT ms",
)


def pictures(size: tuple[int, int], share: float) -> list[NDArray[np.uint8]]:
    """Two pictures that differ in a share of their pixels: a square has moved by half its side."""
    height, width = size
    side = round((share * height * width / 1.5) ** 0.5)
    square = textured(side, side, seed=1)
    frames = []
    for left in (width // 3, width // 3 + side // 2):
        frame = textured(height, width)
        frame[height // 3 : height // 3 + side, left : left + side] = square
        frames.append((frame * 255).astype(np.uint8))
    return frames


class Stream:
    """The feeds of one contender: the pictures in turn, and its own states fed back."""

    def __init__(self, model: Model, frames: list[NDArray[np.uint8]], session: Any) -> None:
        self.feeds: list[Feed] = []
        for frame in frames:
            feed = model.feed(frame)
            self.feeds.append({name: values.copy() for name, values in feed.items()})
        self.session = session
        self.fed_back = model.form.side.state
        self.names = [port.name for port in session.get_outputs()]
        self.states: Feed = {k: v for k, v in self.feeds[0].items() if k != model.input_name}
        self.frame = 0

    def step(self) -> Outputs:
        feed = self.feeds[self.frame % len(self.feeds)] | self.states
        self.frame += 1
        outputs: Outputs = self.session.run(None, feed)
        for name, values in zip(self.names, outputs, strict=True):
            if name in self.fed_back:
                self.states[self.fed_back[name]] = values.copy()
        return outputs


def tensors_after_attention(path: Path) -> dict[str, bool]:
    """Every tensor, and whether it depends on a softmax of a product of two computed ones."""
    graph = onnx.load(path).graph
    constant = {i.name for i in graph.initializer}
    products: set[str] = set()
    after: dict[str, bool] = {}
    for node in graph.node:
        read = [name for name in node.input if name and name not in constant]
        from_product = any(name in products for name in read)
        is_after = any(after.get(name, False) for name in read)
        if not is_after and node.op_type == "MatMul" and len(read) == 2:
            products.update(node.output)
        elif not is_after and from_product:
            if node.op_type == "Softmax":
                is_after = True
            else:
                products.update(node.output)
        after.update(dict.fromkeys(node.output, is_after))
    return after


def sides(infos: Sequence[LayerInfo], after: dict[str, bool]) -> NDArray[np.bool_]:
    """Which layers lie after the attention, by name; others as the layer before them."""
    result: list[bool] = []
    for info in infos:
        known = [after[name] for name in info.name.split(", ") if name in after]
        result.append(any(known) if known else bool(result and result[-1]))
    return np.array(result)


def rows_apart(ours: Outputs, theirs: Outputs) -> float:
    """The largest difference, each output as a share of its largest value.

    Rows of equal outputs (1, n, …) are compared in the best order where their own order differs:
    a last bit exchanges rows of nearly equal scores.
    """
    scale = [max(float(np.abs(b).max()), 1e-9) for b in theirs]
    plain = [
        float(np.abs(a.astype(np.float64) - b).max()) / s
        for a, b, s in zip(ours, theirs, scale, strict=True)
    ]
    lengths = {a.shape[1] for a in ours if a.ndim in (2, 3)}
    if max(plain) <= SAME or len(lengths) != 1 or any(a.ndim > 3 for a in ours):
        return max(plain)

    def flat(outputs: Outputs) -> NDArray[np.float64]:
        parts = [o.reshape(o.shape[1], -1) / s for o, s in zip(outputs, scale, strict=True)]
        return np.concatenate(parts, 1).astype(np.float64)

    apart = np.abs(flat(ours)[:, None] - flat(theirs)[None]).max(-1)
    return float(max(apart.min(0).max(), apart.min(1).max()))


def measured(
    name: str, share: float, tolerance: float, repeats: int, *, timed: bool
) -> dict[str, Any]:
    """One line of the table."""
    model = zoo.load(name)
    frames = pictures(model.size, share)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    ort = onnxruntime.InferenceSession(str(model.path), options, providers=["CPUExecutionProvider"])
    with ExitStack() as stack:

        def opened(value: float) -> ReuseSession:
            states = tuple(model.form.side.state.values())
            session = ReuseSession(model.path, threads=1, tolerance=value, states=states)
            return stack.enter_context(closing(session))

        dense, exact, reuse = opened(0.0), opened(0.0), opened(tolerance)
        streams = [Stream(model, frames, session) for session in (dense, exact, reuse, ort)]
        same, apart, work = True, 0.0, []
        infos = layers(exact)
        cost = np.array([info.multiply_adds for info in infos], np.float64)
        after_attention = sides(infos, tensors_after_attention(model.path))
        warm_up = SETTLED if model.form.side.state else WARM_UP
        for step in range(warm_up + 2 * len(frames)):
            dense.reset()
            expected, exactly, _, theirs = (stream.step() for stream in streams)
            same = same and all(map(np.array_equal, expected, exactly))
            apart = max(apart, rows_apart(expected, theirs))
            if step >= warm_up:
                work.append(layer_stats(reuse).computed_share)
        done = np.mean(work, 0)
        if len(done) != len(cost):  # another tolerance may give another plan
            infos = layers(reuse)
            cost = np.array([info.multiply_adds for info in infos], np.float64)
            after_attention = sides(infos, tensors_after_attention(model.path))

        def part(mask: NDArray[np.bool_]) -> float | None:
            total = float(cost[mask].sum())
            return float((done * cost)[mask].sum()) / total if total else None

        everything = np.ones(len(cost), bool)
        line: dict[str, Any] = {
            "model": name,
            "input": f"{model.size[1]}x{model.size[0]}",
            "multiply_adds": float(cost.sum()),
            "share_after": float(cost[after_attention].sum() / max(cost.sum(), 1)),
            "changed": share,
            "work_before": part(~after_attention),
            "work_after": part(after_attention),
            "work": part(everything),
            "exact": same,
            "to_ort": apart,
            "islands": sum(info.op == ISLAND for info in infos),
            "groups": groups(infos, after_attention, cost, done),
            "reasons": reasons(infos),
        }
        if timed:
            spent: list[list[float]] = [[], [], []]
            for _ in range(repeats):
                for index, stream in enumerate((streams[0], streams[2], streams[3])):
                    if not index:
                        dense.reset()
                    began = time.perf_counter()
                    stream.step()
                    spent[index].append(1e3 * (time.perf_counter() - began))
            for key, values in zip(("dense_ms", "reuse_ms", "ort_ms"), spent, strict=True):
                line[key] = statistics.median(values)
        return line


def groups(
    infos: Sequence[LayerInfo],
    after_attention: NDArray[np.bool_],
    cost: NDArray[np.float64],
    done: NDArray[np.float64],
) -> list[dict[str, Any]]:
    """Layers by side of the attention and operator: how many, what they cost, what was computed."""
    rows: dict[tuple[bool, str], list[int]] = {}
    for index, info in enumerate(infos):
        rows.setdefault((bool(after_attention[index]), info.op), []).append(index)
    table = []
    for (after, op), indices in sorted(rows.items()):
        total = float(cost[indices].sum())
        active = float((cost * done)[indices].sum() / total if total else done[indices].mean())
        table.append(
            {
                "side": "after" if after else "before",
                "operator": op,
                "layers": len(indices),
                "multiply_adds": total,
                "active": active,
            }
        )
    return table


def reasons(infos: Sequence[LayerInfo]) -> list[str]:
    """What forces each island, equal ones together."""
    counted: dict[str, list[int]] = {}
    for info in infos:
        if info.op == ISLAND:
            operator = info.reason.split(":")[0].split(" ")[0]
            counted.setdefault(operator, []).append(len(info.nodes))
    return [
        f"{len(sizes)} of {min(sizes)} to {max(sizes)} nodes, from {operator} on"
        if len(sizes) > 1
        else f"one of {sizes[0]} nodes, from {operator} on"
        for operator, sizes in counted.items()
    ]


def explained(line: dict[str, Any]) -> list[str]:
    """A short table of what a network consists of."""
    text = [f"### {line['model']}", ""]
    total = max(line["multiply_adds"], 1.0)
    text.append(f"Input {line['input']}, {line['multiply_adds'] / 1e6:.0f} M multiply-adds.")
    text[-1] += f" Islands: {'; '.join(line['reasons']) or 'none'}."
    text += ["", "| attention | operator | layers | M mult-adds | share | active |"]
    text.append("| --- | --- | --- | --- | --- | --- |")
    for group in line["groups"]:
        text.append(
            f"| {group['side']} | {group['operator']} | {group['layers']}"
            f" | {group['multiply_adds'] / 1e6:.1f} | {group['multiply_adds'] / total:.1%}"
            f" | {group['active']:.2f} |"
        )
    return [*text, ""]


def write_page(page: Path, lines: list[dict[str, Any]]) -> None:
    """Put the tables in the place of what follows MARKER on the page."""
    head = page.read_text(encoding="utf-8").split(MARKER)[0]
    text = [MARKER, "", "| " + " | ".join(HEADER) + " |"]
    text.append("| " + " | ".join("---" for _ in HEADER) + " |")
    text += ["| " + " | ".join(cells(line)) + " |" for line in lines]
    text += ["", "## Network by network", ""]
    first: dict[str, dict[str, Any]] = {}
    for line in lines:
        first.setdefault(line["model"], line)
    for line in first.values():
        text += explained(line)
    page.write_text(head + "\n".join(text).rstrip() + "\n", encoding="utf-8")


def cells(line: dict[str, Any]) -> list[str]:
    def share(key: str) -> str:
        return "-" if line[key] is None else f"{line[key]:.3f}"

    def ms(key: str) -> str:
        return f"{line[key]:.1f}" if key in line else "-"

    return [
        line["model"],
        line["input"],
        f"{line['multiply_adds'] / 1e6:.0f}",
        share("share_after"),
        f"{line['changed']:.0%}",
        share("work_before"),
        share("work_after"),
        share("work"),
        "yes" if line["exact"] else "NO",
        f"{line['to_ort']:.0e}",
        str(line["islands"]),
        ms("dense_ms"),
        ms("reuse_ms"),
        ms("ort_ms"),
    ]


def printed(lines: Iterator[dict[str, Any]], page: Path | None) -> list[dict[str, Any]]:
    """Markdown, line by line as they come, and the same on the page."""
    print("| " + " | ".join(HEADER) + " |")
    print("| " + " | ".join("---" for _ in HEADER) + " |", flush=True)
    seen = []
    for line in lines:
        print("| " + " | ".join(cells(line)) + " |", flush=True)
        seen.append(line)
        if page:
            write_page(page, seen)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=NAMES, help="default: every architecture")
    parser.add_argument("--share", type=float, nargs="+", default=[0.05, 0.1])
    parser.add_argument("--tolerance", type=float, default=0.1)
    parser.add_argument("--repeats", type=int, default=10, help="of each timed step")
    parser.add_argument("--no-time", action="store_true", help="only shares and exactness")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--page", type=Path, help="a page of the documentation to write into")
    chosen = parser.parse_args()
    warnings.simplefilter("ignore", RecompiledWarning)
    lines = printed(
        (
            measured(name, share, chosen.tolerance, chosen.repeats, timed=not chosen.no_time)
            for name in chosen.names
            for share in chosen.share
        ),
        chosen.page,
    )
    if chosen.json:
        chosen.json.write_text(json.dumps(lines, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
