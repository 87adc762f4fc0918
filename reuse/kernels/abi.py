"""The columns of the tables that a plan is made of; the planner writes them, kernels read them.

Addresses are absolute and in bytes, strides are in bytes, everything is int64 but for the floats of
an instruction. Features lie as (H, W, C) float32; a mask is one byte a position, 1 for active.
"""

from enum import IntEnum

# --- tensors: one row each -------------------------------------------------------------------
DATA = 0  # address of position (0, 0)
ROW = 1  # stride from one row to the next
PIXEL = 2  # stride from one position to the next
HEIGHT = 3
WIDTH = 4
CHANNELS = 5
MASK = 6  # address of the mask byte of position (0, 0)
MASK_ROW = 7  # its strides
MASK_PIXEL = 8
ROW_FLAGS = 9  # address of a byte a row: 0 where the whole row of the mask is inactive
ROW_FLAGS_STEP = 10
LIVE = 11  # address of an int64 a worker: positions of this mask that it left active
TENSOR_COLUMNS = 12

# --- mask sources: what an output position reads of one input -----------------------------------
SOURCE_TENSOR = 0
ROW_LOW = 1  # address of int32 a row of the output: the first input row that it reads
ROW_HIGH = 2  # and the row after the last
TAPS = 3  # regular windows: column x reads columns x * STRIDE - PAD + [0, TAPS); else RISING or ANY
STRIDE = 4
PAD = 5
COLUMN_LOW = 6  # irregular windows: addresses as for rows
COLUMN_HIGH = 7
SOURCE_COLUMNS = 8
RISING, ANY = 0, -1  # TAPS of irregular windows: whether their ends never fall

# --- instructions: one row each -----------------------------------------------------------------
KERNEL = 0  # address of an OPERATOR; 0: only the mask is written
TARGET = 1  # tensor written
INPUT = 2  # tensors read
SECOND = 3
SOURCES = 4  # address of the mask sources, and how many
SOURCE_COUNT = 5
PREPARE = 6  # address of a PREPARE that each worker runs over its rows of the input, or 0
CUTOFF = 7  # a Cutoff
ACTIVATE = 8  # address of an ACTIVATION, or 0
SLOPES = 9  # address of a slope a channel, or 0
STRIDE_Y = 10
STRIDE_X = 11
PAD_TOP = 12
PAD_LEFT = 13
PARAMETER = 14  # the first of sixteen whose meaning is the operator's
RING = 30  # of the PREPARE `clear_ring`: address of RING_COLUMNS int64
INSTRUCTION_COLUMNS = 31

# the zeros around a tensor, in bytes
RING_START = 0  # address of the first
RING_ROW = 1  # from one row to the next
RING_ROWS = 2  # of the tensor and the ring together
RING_TOP = 3  # rows above
RING_BOTTOM = 4  # and below
RING_LEFT = 5  # bytes before a row's first position
RING_RIGHT = 6  # and behind its last
RING_COLUMNS = 7

# floats of an instruction
ACT_A = 0
ACT_B = 1
THRESHOLD = 2  # Cutoff.NORM: sum of squared differences beyond which a position has changed
SCALAR = 3
BEND = 4  # what a micro-kernel multiplies negative results by as it stores
LOW = 5  # and the bounds that it then applies
HIGH = 6
FLOAT_COLUMNS = 7

# --- workers: one row each ----------------------------------------------------------------------
FOUND = 0  # address of the spans that this worker found in its rows, and how many
FOUND_COUNT = 1
FOUND_ACTIVE = 2  # positions in them
SHARE = 3  # address of the spans that it is to compute
LINE = 4  # address of a row of mask bytes
POINTERS = 5  # address of POINTER_ARRAYS int64 arrays of SLOTS entries
RESULTS = 6  # address of SLOTS rows of float32
GAPS = 7  # address of SLOTS + 1 float32
WORKER_COLUMNS = 16

# a span: `length` consecutive positions of a row, as int32
SPAN_Y = 0
SPAN_X = 1
SPAN_LENGTH = 2
SPAN_INTS = 3

CHUNK = 96  # positions whose results are held before they are compared and stored
SLOTS = CHUNK + 1  # and one more, which waits for what comes to the right of it
POINTER_ARRAYS = 6

# --- what came of an instruction ----------------------------------------------------------------
ACTIVE = 0  # positions computed
CHANGED = 1  # positions marked as changed
NANOSECONDS = 2
RECORD_COLUMNS = 3


class Cutoff(IntEnum):
    """Whether a result that is near what is stored is left unstored and marked unchanged."""

    NEVER = 0
    EQUAL = 1  # every bit equal
    NORM = 2  # sum over channels of the squared difference, see `commit.settle`
