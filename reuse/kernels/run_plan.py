"""The instruction loop: one native call a frame, region and worker, with the GIL released.

Every worker runs the same loop. For each instruction it first finds the active positions in its own
rows of the output, waits for the others, and then computes its equal share of all active positions.
"""

from stillframe.reuse.kernels.abi import (
    ACTIVE,
    ACTIVE_POSITIONS,
    CHANGED,
    CUTOFF,
    HEIGHT,
    INPUT,
    KERNEL,
    LIVE,
    NANOSECONDS,
    PREPARE,
    SHARE,
    SOURCE_COLUMNS,
    SOURCE_COUNT,
    SOURCE_TENSOR,
    SOURCES,
    SPAN_INTS,
    SPAN_Y,
    TARGET,
    TILE_SIDE,
    Cutoff,
)
from stillframe.reuse.kernels.active_set import (
    find_active,
    live,
    share_all,
    share_all_tiles,
    take_share,
    take_tiles,
)
from stillframe.reuse.kernels.calls import call_operator, call_prepare
from stillframe.reuse.kernels.jit import entry, kernel
from stillframe.reuse.kernels.pointers import (
    atomic_add,
    atomic_load,
    atomic_store,
    get_i32,
    get_i64,
    nanoseconds,
    set_i64,
    yield_processor,
)

NEVER = int(Cutoff.NEVER)

SPINS = 4000  # turns of a waiting worker before it yields its core: about 10 µs


@kernel
def meet(barrier, workers):
    """A barrier: wait until every worker is here.

    barrier: address of an int64 that counts arrivals; the int64 64 bytes on counts rounds.
    """
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
def any_live(ins, tensors, workers):
    for index in range(ins[SOURCE_COUNT]):
        source = ins[SOURCES] + index * SOURCE_COLUMNS * 8
        if live(tensors, get_i64(source, SOURCE_TENSOR), workers) > 0:
            return True
    return False


@kernel
def band(height, workers, worker):
    return height * worker // workers, height * (worker + 1) // workers


@kernel
def first_from(spans, count, y):
    # index of the first span in row y or below, of spans in order
    index = 0
    while index < count and get_i32(spans, index * SPAN_INTS + SPAN_Y) < y:
        index += 1
    return index


@entry(
    "void(int64[:,::1], float32[:,::1], int64[:,::1], int64[:,::1], int64[:,::1], int64, "
    "int64[:,::1], int64, int64, int64, int64, boolean)"
)
def run_instructions(
    instructions, floats, tensors, work, records, barrier, bands, first, end, workers, worker, dense
):
    """Run instructions [first, end) as one of `workers`.

    instructions (n, INSTRUCTION_COLUMNS) int64 · floats (n, FLOAT_COLUMNS) float32 ·
    tensors (t, TENSOR_COLUMNS) int64 · work (workers, WORKER_COLUMNS) int64 ·
    records (n, RECORD_COLUMNS) int64, written by worker 0 · barrier: an address.
    bands (n, 2) int64: the rows [first, end) in which nothing is cut off.
    dense: compute every position, compare nothing, write no masks.
    """
    for index in range(first, end):
        began = nanoseconds() if worker == 0 else 0
        ins = instructions[index]
        here = instructions.ctypes.data + index * instructions.strides[0]
        target = ins[TARGET]
        if (dense and ins[KERNEL] == 0) or not (dense or any_live(ins, tensors, workers)):
            # every worker sees the same counts, so all skip it; its own LIVE count is already 0
            if worker == 0:
                records[index, ACTIVE] = 0
                records[index, CHANGED] = 0
                records[index, NANOSECONDS] = nanoseconds() - began
            continue
        if ins[PREPARE] != 0:
            top, bottom = band(tensors[ins[INPUT], HEIGHT], workers, worker)
            call_prepare(ins[PREPARE], here, tensors.ctypes.data, top, bottom, dense)
        if not dense:
            find_active(
                tensors,
                target,
                ins[SOURCES],
                ins[SOURCE_COUNT],
                workers,
                band(tensors[target, HEIGHT], workers, worker),
                work[worker],
            )
        if ins[PREPARE] != 0 or not dense:
            meet(barrier, workers)
        side = ins[TILE_SIDE]
        if dense and side > 0:
            count, total = share_all_tiles(tensors, target, work, workers, worker, side)
        elif dense:
            count, total = share_all(tensors, target, work, workers, worker)
        elif side > 0 and workers > 1:
            count, total = take_tiles(work, workers, worker, side)
        else:
            count, total = take_share(work, workers, worker)
        changed = 0
        if ins[KERNEL] == 0:
            changed = work[worker, ACTIVE_POSITIONS]
        elif count > 0:
            spans = work[worker, SHARE]
            done = 0
            if not dense and bands[index, 1] > bands[index, 0]:
                top = first_from(spans, count, bands[index, 0])
                bottom = first_from(spans, count, bands[index, 1])
            else:
                top, bottom = (0, count) if dense else (count, count)
            for part in range(3):  # above the band, in it, below it
                end_of_part = top if part == 0 else bottom if part == 1 else count
                if end_of_part > done:
                    changed += call_operator(
                        ins[KERNEL],
                        here,
                        floats.ctypes.data + index * floats.strides[0],
                        tensors.ctypes.data,
                        spans + done * SPAN_INTS * 4,
                        end_of_part - done,
                        work.ctypes.data + worker * work.strides[0],
                        NEVER if part == 1 else ins[CUTOFF],
                    )
                    done = end_of_part
        set_i64(tensors[target, LIVE], worker, changed)
        meet(barrier, workers)
        if worker == 0:
            records[index, ACTIVE] = total
            records[index, CHANGED] = live(tensors, target, workers)
            records[index, NANOSECONDS] = nanoseconds() - began
