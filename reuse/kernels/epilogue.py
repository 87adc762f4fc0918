"""What follows the sums of a convolution: residual, activation, and the store of what changed."""

import numpy as np

from stillframe.reuse.kernels.abi import (
    ACT_A,
    ACT_B,
    ACTIVATE,
    FAR_THRESHOLD,
    PARAMETER,
    SLOPES,
    THRESHOLD,
    Cutoff,
)
from stillframe.reuse.kernels.calls import call_activation
from stillframe.reuse.kernels.jit import kernel
from stillframe.reuse.kernels.pointers import get_f32, get_i64, set_f32
from stillframe.reuse.kernels.store import store_result, store_with_hysteresis

# parameters that all convolutions have
RESULT_STEP = PARAMETER + 9  # bytes from one position's results to the next
RESIDUAL = PARAMETER + 11  # one of these:
RESIDUAL_NONE, RESIDUAL_BEFORE, RESIDUAL_AFTER = 0, 1, 2

NORM = int(Cutoff.NORM)


@kernel
def add_rows(results, step, addends, count, channels):
    # results (count, step bytes) += the float32 rows that addends (count,) points to
    for at in range(count):
        row = results + at * step
        other = get_i64(addends, at)
        for c in range(channels):
            set_f32(row, c, get_f32(row, c) + get_f32(other, c))


@kernel
def complete(ins, floats, channels, results, addends, count):
    """Residual and activation of `count` rows of results; addends: an address a row."""
    step = ins[RESULT_STEP]
    if ins[RESIDUAL] == RESIDUAL_BEFORE:
        add_rows(results, step, addends, count, channels)
    if ins[SLOPES] != 0:
        for at in range(count):
            call_activation(
                ins[ACTIVATE],
                results + at * step,
                channels,
                floats[ACT_A],
                floats[ACT_B],
                ins[SLOPES],
            )
    elif ins[ACTIVATE] != 0:
        call_activation(
            ins[ACTIVATE],
            results,
            count * step // 4,
            floats[ACT_A],
            floats[ACT_B],
            np.int64(0),
        )
    if ins[RESIDUAL] == RESIDUAL_AFTER:
        add_rows(results, step, addends, count, channels)


@kernel
def store_all(
    floats,
    channels,
    cutoff,
    results,
    step,
    stored,
    masks,
    joined,
    gaps,
    waiting,
    count,
    last,
):
    """Compare and store results 1 .. count, rows of `step` bytes; -> how many were stored as
    changed. stored, masks, joined: addresses of int64, one a slot; see `store_with_hysteresis`."""
    if cutoff == NORM:
        return store_with_hysteresis(
            results,
            step,
            stored,
            masks,
            joined,
            gaps,
            channels,
            floats[THRESHOLD],
            floats[FAR_THRESHOLD],
            waiting,
            count,
            last,
        )
    changed = 0
    for slot in range(1, count + 1):
        changed += store_result(
            results + slot * step,
            get_i64(stored, slot),
            channels,
            cutoff,
            floats[THRESHOLD],
            floats[FAR_THRESHOLD],
            get_i64(masks, slot),
        )
    return changed
