"""One native call a frame and worker: walk the instructions, with the GIL released.

Every worker takes the same walk. For each instruction it first finds the active positions of its
own rows of the output, meets the others, and then computes its equal share of all that were found.
"""

import numpy as np

from stillframe.reuse.kernels.conv import convolve
from stillframe.reuse.kernels.jit import kernel
from stillframe.reuse.kernels.memory import (
    atomic_add,
    atomic_load,
    atomic_store,
    get_i64,
    nanoseconds,
    set_i64,
    yield_processor,
)
from stillframe.reuse.kernels.move import (
    depth_to_space,
    export,
    linear_resize,
    move,
    space_to_depth,
)
from stillframe.reuse.kernels.pointwise import binary, modulate, normalize, softmax, unary
from stillframe.reuse.kernels.pool import pool
from stillframe.reuse.kernels.reduce import reduce_all, reduce_rows
from stillframe.reuse.kernels.spread import find_active, live, share_all, take_share
from stillframe.reuse.kernels.table import (
    ACTIVE,
    CHANGED,
    CUTOFF,
    FOUND_ACTIVE,
    HEIGHT,
    INPUT,
    LIVE,
    NANOSECONDS,
    OPCODE,
    SHARE,
    SOURCE_COLUMNS,
    SOURCE_COUNT,
    SOURCE_TENSOR,
    SOURCES,
    TARGET,
    Cutoff,
    Opcode,
)

NEVER = int(Cutoff.NEVER)
SPREAD, CONV, DEPTHWISE = int(Opcode.SPREAD), int(Opcode.CONV), int(Opcode.DEPTHWISE)
GROUPED, MAX_POOL = int(Opcode.GROUPED), int(Opcode.MAX_POOL)
AVERAGE_POOL, UNARY, BINARY = int(Opcode.AVERAGE_POOL), int(Opcode.UNARY), int(Opcode.BINARY)
AFFINE, MODULATE, SOFTMAX = int(Opcode.AFFINE), int(Opcode.MODULATE), int(Opcode.SOFTMAX)
MOVE, LINEAR_RESIZE = int(Opcode.MOVE), int(Opcode.LINEAR_RESIZE)
DEPTH_TO_SPACE, SPACE_TO_DEPTH = int(Opcode.DEPTH_TO_SPACE), int(Opcode.SPACE_TO_DEPTH)
GLOBAL_POOL, MOMENTS = int(Opcode.GLOBAL_POOL), int(Opcode.MOMENTS)
EXPORT = int(Opcode.EXPORT)

SPINS = 4000  # turns around a barrier before it lets other threads run: about 10 µs


@kernel
def meet(barrier, workers):  # type: ignore[no-untyped-def]
    """Wait until every worker is here. barrier: address of two int64: arrivals, and the round."""
    if workers == 1:
        return
    current = atomic_load(barrier + 64)
    if atomic_add(barrier, 1) == workers - 1:
        atomic_store(barrier, 0)
        atomic_add(barrier + 64, 1)
        return
    turns = 0
    while atomic_load(barrier + 64) == current:
        turns += 1
        if turns > SPINS:
            yield_processor()


@kernel
def compute(ins, floats, tensors, spans, count, work, cutoff):  # type: ignore[no-untyped-def]
    """Run one instruction over its spans; -> positions stored as changed."""
    opcode = ins[OPCODE]
    if opcode == CONV:
        changed = convolve(0, ins, floats, tensors, spans, count, work, cutoff)
    elif opcode == DEPTHWISE:
        changed = convolve(1, ins, floats, tensors, spans, count, work, cutoff)
    elif opcode == GROUPED:
        changed = convolve(2, ins, floats, tensors, spans, count, work, cutoff)
    elif opcode == MAX_POOL:
        changed = pool(False, ins, tensors, spans, count)
    elif opcode == AVERAGE_POOL:
        changed = pool(True, ins, tensors, spans, count)
    elif opcode == UNARY:
        changed = unary(ins, floats, tensors, spans, count)
    elif opcode == BINARY:
        changed = binary(ins, floats, tensors, spans, count)
    elif opcode == AFFINE:
        changed = normalize(ins, floats, tensors, spans, count)
    elif opcode == MODULATE:
        changed = modulate(ins, floats, tensors, spans, count)
    elif opcode == SOFTMAX:
        changed = softmax(ins, tensors, spans, count)
    elif opcode == MOVE:
        changed = move(ins, floats, tensors, spans, count)
    elif opcode == LINEAR_RESIZE:
        changed = linear_resize(ins, tensors, spans, count)
    elif opcode == DEPTH_TO_SPACE:
        changed = depth_to_space(ins, tensors, spans, count)
    elif opcode == SPACE_TO_DEPTH:
        changed = space_to_depth(ins, tensors, spans, count)
    else:
        changed = export(ins, tensors, spans, count)
    return changed


@kernel
def any_live(ins, tensors, workers):  # type: ignore[no-untyped-def]
    for index in range(ins[SOURCE_COUNT]):
        source = ins[SOURCES] + index * SOURCE_COLUMNS * 8
        if live(tensors, get_i64(source, SOURCE_TENSOR), workers) > 0:
            return True
    return False


@kernel
def band(height, workers, worker):  # type: ignore[no-untyped-def]
    return height * worker // workers, height * (worker + 1) // workers


@kernel
def walk(  # type: ignore[no-untyped-def]
    instructions, floats, tensors, work, records, barrier, first, end, workers, worker, dense
):
    """Run instructions [first, end) as one of `workers`.

    instructions (n, INSTRUCTION_COLUMNS) int64 · floats (n, FLOAT_COLUMNS) float32 ·
    tensors (t, TENSOR_COLUMNS) int64 · work (workers, WORKER_COLUMNS) int64 ·
    records (n, RECORD_COLUMNS) int64, written by worker 0 · barrier: an address.
    dense: compute every position, compare nothing, write no masks.
    """
    for index in range(first, end):
        began = nanoseconds() if worker == 0 else 0
        ins = instructions[index]
        target = ins[TARGET]
        mine = tensors[target, LIVE] + worker * 8
        reduces = ins[OPCODE] == GLOBAL_POOL or ins[OPCODE] == MOMENTS
        cutoff = NEVER if dense else ins[CUTOFF]
        if not dense and not any_live(ins, tensors, workers):
            # all workers see the same counts, so all skip; only its own count does each reset
            set_i64(mine, 0, 0)
            if worker == 0:
                records[index, ACTIVE] = 0
                records[index, CHANGED] = 0
                records[index, NANOSECONDS] = nanoseconds() - began
            continue
        if reduces:
            rows = band(tensors[ins[INPUT], HEIGHT], workers, worker)
            reduce_rows(ins, tensors, rows, dense)
            if not dense:
                find_active(
                    tensors, target, ins[SOURCES], ins[SOURCE_COUNT], workers, worker,
                    band(tensors[target, HEIGHT], workers, worker), work[worker],
                )
            meet(barrier, workers)
            total = 1
            changed = 0
            if worker == 0:
                changed = reduce_all(ins, floats[index], tensors, work[worker], cutoff)
        else:
            if dense:
                count, total = share_all(tensors, target, work, workers, worker)
            else:
                find_active(
                    tensors, target, ins[SOURCES], ins[SOURCE_COUNT], workers, worker,
                    band(tensors[target, HEIGHT], workers, worker), work[worker],
                )
                meet(barrier, workers)
                count, total = take_share(work, workers, worker)
            changed = 0
            if ins[OPCODE] == SPREAD:
                changed = work[worker, FOUND_ACTIVE]
            elif count > 0:
                changed = compute(
                    ins, floats[index], tensors, work[worker, SHARE], count, work[worker], cutoff
                )
        set_i64(mine, 0, changed)
        meet(barrier, workers)
        if worker == 0:
            records[index, ACTIVE] = total
            records[index, CHANGED] = total if dense else live(tensors, target, workers)
            records[index, NANOSECONDS] = nanoseconds() - began
