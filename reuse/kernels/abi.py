"""The columns of a plan's tables: the planner writes them, the kernels read them.

Addresses are absolute and in bytes, strides are in bytes. Everything is int64, except the floats of
an instruction, which are float32. Features are (H, W, C) float32. A mask has one byte a position,
0 unless active; an active position has FAR_BIT too where the far limit applies.
"""

from enum import IntEnum

# --- tensors: one row each ----------------------------------------------------------------------
DATA = 0  # address of position (0, 0)
ROW = 1  # bytes from one row to the next
PIXEL = 2  # bytes from one position to the next
HEIGHT = 3  # positions of a column
WIDTH = 4  # positions of a row
CHANNELS = 5  # floats of a position
MASK = 6  # address of the mask byte of position (0, 0)
MASK_ROW = 7  # bytes from one row of the mask to the next
MASK_PIXEL = 8  # bytes from one position of the mask to the next
ROW_FLAGS = 9  # address of one byte a row: 0 where the whole row of the mask is inactive
ROW_FLAGS_STEP = 10  # bytes from one row's flag to the next
LIVE = 11  # address of one int64 a worker: positions of this mask that the worker left active
FAR = 12  # address of one byte a position, row after row: FAR_BIT where the far limit applies; or 0
TENSOR_COLUMNS = 13

# --- mask sources: what a position of the output reads of one input -----------------------------
SOURCE_TENSOR = 0  # index of the input in the table of tensors
ROW_LOW = 1  # address of int32 [output row]: first input row that it reads
ROW_HIGH = 2  # address of int32 [output row]: end of the input rows that it reads
TAPS = 3  # output column x reads columns x * STRIDE - PAD + [0, TAPS); or RISING, or ANY
STRIDE = 4  # of regular windows
PAD = 5  # of regular windows
COLUMN_LOW = 6  # of irregular windows: as ROW_LOW, for columns
COLUMN_HIGH = 7  # of irregular windows: as ROW_HIGH, for columns
SOURCE_COLUMNS = 8
RISING = 0  # TAPS of an irregular window whose low and high never fall from column to column
ANY = -1  # TAPS of any other irregular window
FLAT = -2  # TAPS where output position i, row after row, reads input position i

# --- instructions: one row each -----------------------------------------------------------------
KERNEL = 0  # address of an OPERATOR; 0: only the mask is written
TARGET = 1  # index of the tensor written
INPUT = 2  # index of the tensor read
SECOND = 3  # index of the second tensor read, of operators that read two
SOURCES = 4  # address of the mask sources
SOURCE_COUNT = 5  # how many mask sources
PREPARE = 6  # address of a PREPARE that each worker runs over its rows of the input, or 0
CUTOFF = 7  # a Cutoff
ACTIVATE = 8  # address of an ACTIVATION, or 0
SLOPES = 9  # address of float32 [channel]: slopes of PReLU, or 0
STRIDE_Y = 10  # of a sliding window
STRIDE_X = 11
PAD_TOP = 12
PAD_LEFT = 13
PARAMETER = 14  # the first of sixteen whose meaning is the operator's
ZERO_PAD = 30  # address of ZERO_PAD_COLUMNS int64, of the PREPARE `clear_zero_pad`
TILE_SIDE = 31  # rows and columns of outputs that one worker computes together, or 0: any
INSTRUCTION_COLUMNS = 32

# --- zero padding of a tensor, in bytes ---------------------------------------------------------
ZERO_PAD_START = 0  # address of the first zero
ZERO_PAD_ROW = 1  # bytes from one row to the next
ZERO_PAD_ROWS = 2  # rows of the tensor and its padding together
ZERO_PAD_TOP = 3  # rows of zeros above
ZERO_PAD_BOTTOM = 4  # rows of zeros below
ZERO_PAD_LEFT = 5  # bytes of zeros before a row's first position
ZERO_PAD_RIGHT = 6  # bytes of zeros after a row's last position
ZERO_PAD_COLUMNS = 7

# --- floats of an instruction -------------------------------------------------------------------
ACT_A = 0  # first number of the activation
ACT_B = 1  # second number of the activation
THRESHOLD = 2  # of Cutoff.NORM: sum of squared differences beyond which a position has changed
SCALAR = 3  # an operator's number, such as the value of a constant padding
BEND = 4  # factor by which a micro-kernel multiplies negative results as it stores them
LOW = 5  # lower bound that a micro-kernel applies after that
HIGH = 6  # upper bound
FAR_THRESHOLD = 7  # as THRESHOLD, for positions whose mask byte has FAR_BIT
FLOAT_COLUMNS = 8

# --- workers: one row each ----------------------------------------------------------------------
ACTIVE_SPANS = 0  # address of the active spans in this worker's rows
ACTIVE_SPAN_COUNT = 1  # how many they are
ACTIVE_POSITIONS = 2  # positions in them
SHARE = 3  # address of the spans that this worker computes
LINE = 4  # address of a row of mask bytes, scratch
POINTERS = 5  # address of POINTER_ARRAYS int64 arrays of SLOTS entries
RESULTS = 6  # address of SLOTS rows of float32
GAPS = 7  # address of SLOTS + 1 float32: squared distances
ATTENTION = 8  # address of the scratch memory of attention
ATTENTION_WORK = 9  # multiply-adds done to find which rows of attention have moved
TILES = 10  # address of the scratch memory of Winograd convolutions
WORKER_COLUMNS = 16

# --- a span: consecutive positions of a row, as int32 -------------------------------------------
SPAN_Y = 0  # row
SPAN_X = 1  # first column
SPAN_LENGTH = 2  # positions
SPAN_INTS = 3

FAR_BIT = 2  # of a mask byte

CHUNK = 96  # positions whose results wait until they are compared and stored
SLOTS = CHUNK + 1  # one more for the last result of a chunk, which waits for its right neighbour
POINTER_ARRAYS = 6

# --- records: what the last step did in an instruction ------------------------------------------
ACTIVE = 0  # positions computed
CHANGED = 1  # positions marked as changed
NANOSECONDS = 2  # time of worker 0
RECORD_COLUMNS = 3


class Cutoff(IntEnum):
    """When a result counts as unchanged: it is then neither stored nor marked."""

    NEVER = 0  # every result is stored
    EQUAL = 1  # every bit equals what is stored
    NORM = 2  # the squared distance is within THRESHOLD, see `store.store_with_hysteresis`
