"""Random networks for as long as one likes: exact, by 1 to 3 workers, under every memory budget.

    python tests/fuzz.py --minutes 10 [--seed 0]

What `tests/reuse/runtime/test_engine.py` does with a few seeds: between frames all transients are
filled with NaN, and every output of every frame must be, bit for bit, what a dense step gives, and
near to what plain NumPy gives. Each network comes twice, the second time with islands and more
inputs, and once more with tensors dropped at random. Prints the seed of each failure; exit code 1
if there was one.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # called as a script: finds `tests`

from stillframe.reuse.compile import compile_graph
from stillframe.reuse.ir import interpreter
from stillframe.reuse.runtime.engine import PlanRunner
from stillframe.reuse.runtime.workers import Workers
from tests.random_graphs import random_graph
from tests.reuse.runtime.test_engine import KEEP_ALL, bits, clip, drop_any, poison

BUDGETS = (None, 0, KEEP_ALL)
FRAMES = 8


def fault(seed: int, pools: list[Workers], wide: bool) -> str | None:
    """What is wrong with the network of this seed, None: nothing."""
    graph = random_graph(seed, wide=wide)
    workers = pools[seed % len(pools)]
    dense = PlanRunner(compile_graph(graph, 1, memory_budget=KEEP_ALL), pools[0])
    plans = [compile_graph(graph, workers.count, memory_budget=budget) for budget in BUDGETS]
    dropping = drop_any(graph, seed)
    plans.append(compile_graph(graph, workers.count, memory_budget=KEEP_ALL, disk_cache=dropping))
    engines = [PlanRunner(plan, workers) for plan in plans]
    for number, feeds in enumerate(clip(graph, seed, FRAMES)):
        dense.step(feeds, dense=True)
        # normalised vectors, which only wide ones have, leave nothing but rounding errors
        expected = interpreter.run(graph, feeds) if number == 0 and not wide else {}
        for budget, plan, engine in zip((*BUDGETS, dropping), plans, engines, strict=True):
            if number:
                poison(plan)
            engine.step(feeds)
            for port in graph.outputs:
                got, want = engine.output(port.name), dense.output(port.name)
                where = f"frame {number}, output {port.name!r}, budget {budget}"
                if not np.array_equal(bits(got), bits(want)):
                    return f"{where}: not what a dense step gives"
                if expected:
                    plain = expected[port.name].reshape(got.shape)
                    scale = max(1.0, float(np.nanmax(np.abs(plain))))
                    if not np.allclose(got, plain, rtol=0, atol=2e-5 * scale, equal_nan=True):
                        return f"{where}: not what NumPy gives"
    return None


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=time.time_ns() % 1_000_000_000)
    asked = parser.parse_args()
    pools = [Workers(count) for count in (1, 2, 3)]
    end = time.monotonic() + 60 * asked.minutes
    seed, faults = asked.seed, 0
    while time.monotonic() < end:
        for wide in (False, True):
            problem = fault(seed, pools, wide)
            if problem:
                faults += 1
                print(f"seed {seed}{' wide' * wide}: {problem}", flush=True)
        seed += 1
    print(f"{seed - asked.seed} networks from seed {asked.seed} on, {faults} with a fault")
    return int(faults > 0)


if __name__ == "__main__":
    sys.exit(main())
