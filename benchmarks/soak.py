#!/usr/bin/env python3
"""Does memory stay flat? A staged run on 720p for so many minutes, with its memory curve.

    python benchmarks/soak.py --minutes 60 --chart soak.png

A drawn clip (a still camera with moving people, and noise), repeated into one long file, runs
through all stages: decode, the network by reuse of layers, drawing, and one video file that is
written. Resident memory and what the pool holds are noted each second. Flat means: the mean of the
last quarter is at most 2 % and 8 MB above that of the second; the first fills pools and caches.
Exit code 1 where it is not.
"""

import argparse
import contextlib
import json
import tempfile
import time
from pathlib import Path

import av
import numpy as np
import psutil

from stillframe.models import zoo
from stillframe.pipeline.cli.bench_placement import plots
from stillframe.pipeline.executor.pipeline import StagePipeline
from stillframe.pipeline.inference.settings import Settings
from stillframe.pipeline.inference.stages import InferenceStages, drawing, encoding
from stillframe.pipeline.media.open_source import open_source
from stillframe.pipeline.sinks.overlay import render_step
from stillframe.pipeline.sinks.video import VideoSink
from stillframe.sample_videos import resolve

CLIP = "sample:plaza?size=1280x720&seconds=20"
CLIP_RATE, MOST_RATE = 25.0, 60.0  # frames a second of the clip, and that the run may reach
MOST_GROWTH, SLACK_MB = 0.02, 8.0


def long_clip(spec: str, seconds: float, path: Path) -> None:
    """The clip's packets over and over with rising times, until it is that long."""
    origin = resolve(spec.removeprefix("sample:")) if spec.startswith("sample:") else Path(spec)
    with av.open(str(path), "w", format="matroska") as output:
        stream, offset, done_s = None, 0, 0.0
        while done_s < seconds:
            with av.open(str(origin)) as clip:
                video = clip.streams.video[0]
                if stream is None:
                    stream = output.add_stream_from_template(video)
                last = step = 0
                for packet in clip.demux(video):
                    if packet.dts is None or packet.pts is None:
                        continue
                    step = packet.duration or step
                    last = max(last, packet.pts)
                    packet.pts, packet.dts = packet.pts + offset, packet.dts + offset
                    packet.stream = stream
                    output.mux(packet)
                offset += last + step
                done_s = float(offset * video.time_base)


Curve = dict[str, list[float]]


def soak(clip: str, model: str, minutes: float, curve: Curve) -> None:
    """Write to the curve: seconds since the first frame, megabytes resident and held by the pool,
    frames done. What was seen stands there also when the run is broken off."""
    curve |= {"s": [], "resident_mb": [], "pool_mb": [], "frames": []}
    analysis = InferenceStages(zoo.load(model), Settings(reuse="layer", max_age_s=float("inf")))
    process = psutil.Process()
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        path = Path(folder) / "long.mkv"
        long_clip(clip, minutes * 60 * MOST_RATE / CLIP_RATE, path)
        source = stack.enter_context(open_source(path))
        out = Path(folder) / "out.mp4"
        sink = stack.enter_context(VideoSink(out, info=source.info, audio_from=None))
        stages = [*analysis.stages(), drawing(lambda step: render_step(step, "changed"))]
        stages.append(encoding(lambda d: sink.write(d.step.frame, d.step.result, d.image)))
        with StagePipeline(source, stages) as pipeline:
            began, due = time.monotonic(), 0.0
            for _ in pipeline:
                now = time.monotonic() - began
                if now > 60 * minutes:
                    pipeline.stop()
                if now < due:
                    continue
                due = now + 1
                curve["s"].append(round(now, 1))
                curve["resident_mb"].append(process.memory_info().rss / 1e6)
                curve["pool_mb"].append(analysis.pool.size_bytes / 1e6)
                curve["frames"].append(pipeline.delivered)


def growth(curve: Curve) -> tuple[float, float]:
    """Megabytes resident: the mean of the second quarter, and of the last."""
    quarters = np.array_split(np.array(curve["resident_mb"]), 4)
    return float(quarters[1].mean()), float(quarters[3].mean())


def draw(curve: Curve, path: Path) -> None:
    plt = plots()
    figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
    minutes = np.array(curve["s"]) / 60
    axes.plot(minutes, curve["resident_mb"], color="#3f6f8f", label="resident")
    axes.plot(minutes, curve["pool_mb"], color="#b8705b", label="pool")
    axes.set_xlabel("minutes")
    axes.set_ylabel("MB")
    axes.set_ylim(bottom=0)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=120)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--minutes", type=float, default=60.0)
    parser.add_argument("--clip", default=CLIP)
    parser.add_argument("--model", default="centerface")
    parser.add_argument("--json", type=Path, help="the curve")
    parser.add_argument("--chart", type=Path, help="a picture of it")
    chosen = parser.parse_args()
    curve: Curve = {}
    try:
        soak(chosen.clip, chosen.model, chosen.minutes, curve)
    except KeyboardInterrupt:
        print("interrupted; this is what was seen until then")
    finally:
        if chosen.json:
            chosen.json.write_text(json.dumps(curve) + "\n", encoding="utf-8")
        if chosen.chart:
            draw(curve, chosen.chart)
    if len(curve["s"]) < 8:
        raise SystemExit("too short to tell: give it more --minutes")
    before, after = growth(curve)
    flat = after <= before * (1 + MOST_GROWTH) + SLACK_MB
    done, at_once = int(curve["frames"][-1]), max(curve["pool_mb"])
    print(
        f"{done} frames in {curve['s'][-1] / 60:.1f} min: {before:.0f} MB resident in the second"
        f" quarter, {after:.0f} MB in the last, at most {max(curve['resident_mb']):.0f} MB;"
        f" pool {at_once:.1f} MB: {'flat' if flat else 'it grows'}"
    )
    if not flat:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
