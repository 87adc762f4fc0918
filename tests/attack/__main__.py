"""The long attack: `python -m tests.attack models --count 2000`, or `all --minutes 10`."""

import argparse
import random
import time

from tests.attack.cases import KINDS
from tests.attack.harness import attack


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kind", choices=[*KINDS, "all"])
    parser.add_argument("--count", type=int, help="how many cases of each kind")
    parser.add_argument("--minutes", type=float, help="for how long, shared by the kinds")
    parser.add_argument("--seed", type=int, default=random.randrange(1 << 30), help="the first one")
    chosen = parser.parse_args()
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
    raise SystemExit(1 if faults else 0)


if __name__ == "__main__":
    main()
