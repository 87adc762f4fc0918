"""The long attack: `python -m tests.attack models --count 2000`, or `all --minutes 10`.

`rtsp --minutes 40` attacks a run on a live camera: ten minutes each of a camera that is killed,
stalls, freezes and is up for six seconds at a time; `--scenario` names one of
these, or `soak` or `outage`.
"""

import argparse
import random
import tempfile
import time
from pathlib import Path

from tests import networks
from tests.attack.cases import KINDS
from tests.attack.harness import attack
from tests.attack.rtsp import SCENARIOS, attack_camera, missing

EACH = ("killed", "stalled", "frozen", "flapping")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=[*KINDS, "all", "rtsp"])
    parser.add_argument("--count", type=int, help="how many cases of each kind")
    parser.add_argument("--minutes", type=float, help="for how long, shared by the kinds")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30), help="the first one")
    parser.add_argument("--scenario", choices=SCENARIOS, help="of rtsp; default: four in turn")
    parser.add_argument("--model", help="of rtsp; default: a tiny one that needs no fetching")
    parser.add_argument("--size", default="160x96", help="of rtsp's pictures")
    parser.add_argument("--fps", type=int, default=15, help="of rtsp")
    chosen = parser.parse_args()
    faults = _rtsp(chosen) if chosen.kind == "rtsp" else _mutations(chosen)
    raise SystemExit(1 if faults else 0)


def _mutations(chosen: argparse.Namespace) -> list[str]:
    kinds = list(KINDS) if chosen.kind == "all" else [chosen.kind]
    count = chosen.count or (10**9 if chosen.minutes else 100)
    print(f"seed {chosen.seed}", flush=True)
    faults = []
    for kind in kinds:
        share_s = (chosen.minutes or float("inf")) * 60 / len(kinds)
        report = attack(kind, chosen.seed, count, time.monotonic() + share_s)
        print(report, flush=True)
        for fault in report.faults:
            print(f"  {fault}", flush=True)
        faults += report.faults
    return faults


def _rtsp(chosen: argparse.Namespace) -> list[str]:
    if reason := missing():
        raise SystemExit(reason)
    scenarios = [chosen.scenario] if chosen.scenario else EACH
    faults = []
    with tempfile.TemporaryDirectory() as folder:
        model = chosen.model or str(networks.brightness(Path(folder) / "brightness.onnx"))
        for scenario in scenarios:
            minutes = (chosen.minutes or 4.0) / len(scenarios)
            report = attack_camera(scenario, minutes, model, chosen.size, chosen.fps)
            print("\n".join(report.lines()), flush=True)
            for fault in report.faults:
                print(f"  {fault}", flush=True)
            faults += report.faults
    return faults


if __name__ == "__main__":
    main()
