"""Kernels one by one: the code they become for several processors, and the numbers they give.

The micro-kernels are compiled by LLVM for processors that this one need not be; the host's own are
called and compared with NumPy, as are the activations and the plain kernels of the change gate.
"""

import ctypes
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import product
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest
from llvmlite import ir
from numpy.typing import NDArray

from stillframe.reuse.ir.graph import Act
from stillframe.reuse.ir.reference import ACTS
from stillframe.reuse.kernels import abi, change_gate, conv
from stillframe.reuse.kernels.activation import ACTIVATIONS
from stillframe.reuse.kernels.jit import Native
from stillframe.reuse.kernels.microkernel import (
    LANES,
    emit_conv_tile,
    emit_depthwise_tile,
    emit_store,
    vector_lanes,
)
from stillframe.reuse.plan.lower_conv import pack_panels

F32, I64 = ir.FloatType(), ir.IntType(64)
Floats = NDArray[np.float32]

# --- code for several processors -----------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Processor:
    """What LLVM calls it, how many vector registers it has, and the instructions that must come.

    multiply: (pattern, how many for one multiply-add) of a tile's innermost loop.
    """

    triple: str
    name: str
    features: dict[str, bool]
    registers: int
    multiply: tuple[tuple[str, int], ...]


X86, ARM = "x86_64-unknown-linux-gnu", "aarch64-unknown-linux-gnu"
PROCESSORS = {
    "avx512": Processor(
        X86,
        "skylake-avx512",
        {"avx": True, "avx2": True, "fma": True, "avx512f": True},
        32,
        ((r"vfmadd\d+ps\s.*%zmm", 1),),
    ),
    "avx2": Processor(
        X86, "haswell", {"avx": True, "avx2": True, "fma": True}, 16, ((r"vfmadd\d+ps\s.*%ymm", 1),)
    ),
    "sse2": Processor(
        X86, "x86-64", {"sse2": True}, 16, ((r"mulps\s.*%xmm", 1), (r"addps\s.*%xmm", 1))
    ),
    "neon": Processor(ARM, "generic", {"neon": True}, 32, ((r"fmla\s+v\d+\.4s", 1),)),
}
LANES_OF = {"avx512": 16, "avx2": 8, "sse2": 4, "neon": 4}
TILES = [
    (name, emit, count, shape)
    for name, row in PROCESSORS.items()
    for emit, count, shape in [
        *((emit_conv_tile, 6, shape) for shape in conv.tile_shapes(row.registers)),
        (emit_depthwise_tile, 7, (conv.DEPTHWISE_POSITIONS, 1)),
    ]
]


def machine(row: Processor) -> llvm.TargetMachine:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    try:
        target = llvm.Target.from_triple(row.triple)
    except RuntimeError as error:
        pytest.skip(f"this LLVM makes no code for {row.triple}: {error}")
    features = ",".join(f"+{feature}" for feature in row.features)
    return target.create_target_machine(cpu=row.name, features=features, opt=3)


def assembly(
    row: Processor, emit: Callable[..., list[ir.Value]], count: int, shape: tuple[int, int, int]
) -> str:
    """A tile and its store as a function of `count` + 2 int64 and 3 float32, optimised."""
    module = ir.Module("tile")
    signature = ir.FunctionType(ir.VoidType(), [I64] * (count + 2) + [F32] * 3)
    function = ir.Function(module, signature, "tile")
    builder = ir.IRBuilder(function.append_basic_block())
    totals = emit(builder, shape, list(function.args[:count]))
    assert len(totals) == shape[0] * shape[1]
    emit_store(builder, shape, totals, list(function.args[count:]))
    builder.ret_void()
    parsed = llvm.parse_assembly(str(module))
    parsed.triple = row.triple
    parsed.verify()
    built = machine(row)
    passes = llvm.create_pass_builder(built, llvm.create_pipeline_tuning_options(speed_level=3))
    passes.getModulePassManager().run(parsed, passes)
    return str(built.emit_assembly(parsed))


@pytest.mark.parametrize("name", PROCESSORS)
def test_lanes_are_those_of_the_widest_vector(name: str) -> None:
    assert vector_lanes(PROCESSORS[name].features) == LANES_OF[name]


@pytest.mark.parametrize(
    ("name", "emit", "count", "shape"),
    TILES,
    ids=[f"{name}-{emit.__name__}-{m}x{v}" for name, emit, _, (m, v) in TILES],
)
def test_a_tile_becomes_whole_vector_instructions(
    name: str, emit: Callable[..., list[ir.Value]], count: int, shape: tuple[int, int]
) -> None:
    row = PROCESSORS[name]
    text = assembly(row, emit, count, (*shape, vector_lanes(row.features)))
    for pattern, each in row.multiply:
        assert len(re.findall(pattern, text)) >= each * shape[0] * shape[1], pattern
    assert not re.search(r"\b(v?mulss|v?addss|vfmadd\d+ss|call|bl)\s", text)  # nothing scalar
    assert shape[0] * shape[1] < row.registers  # every sum stays in a register


# --- the host's tiles ----------------------------------------------------------------------------

BOUNDS = [(1.0, -np.inf, np.inf), (1.0, 0.0, np.inf), (1.0, 0.0, 0.7), (0.25, -np.inf, np.inf)]


@pytest.mark.parametrize("bounds", BOUNDS)
@pytest.mark.parametrize("tile", range(3))
def test_the_hosts_tiles_multiply_as_numpy_does(tile: int, bounds: tuple[float, ...]) -> None:
    positions, vectors = conv.TILES[tile]
    width, rng = vectors * LANES, np.random.default_rng(tile)
    channels, depth, count = 2 * width, 5, 2 * positions  # two panels, two tiles
    x = rng.standard_normal((3, count + 2, depth)).astype(np.float32)
    weights = rng.standard_normal((3, 3, depth, channels)).astype(np.float32)
    bias = rng.standard_normal(channels).astype(np.float32)
    packed, shift, panels = pack_panels(weights, bias, tile)
    lines = np.arange(3, dtype=np.int64) * x.strides[0]
    out = np.full((count + 1, channels), 77, np.float32)
    where = rng.permutation(count)  # positions need not be neighbours
    origins = x.ctypes.data + where.astype(np.int64) * x.strides[1]
    stores = out.ctypes.data + where.astype(np.int64) * out.strides[0]
    ahead = np.array([2, 64, 1 << 40], np.int64)  # lines that may lie anywhere
    ins = np.zeros(abi.INSTRUCTION_COLUMNS, np.int64)
    for column, value in {
        conv.AHEAD: ahead.ctypes.data,
        conv.DEPTH_BYTES: depth * 4,
        conv.PANELS: panels,
        conv.PANEL_BYTES: packed[0].nbytes,
        conv.WEIGHTS: packed.ctypes.data,
        conv.BIAS: shift.ctypes.data,
        conv.RUNS: lines.ctypes.data,
        conv.RUN_COUNT: 3,
        conv.RUN_LENGTH: 3 * depth,
    }.items():
        ins[column] = value
    arguments: tuple[Any, ...] = (*[ctypes.c_int64] * 4, *[ctypes.c_float] * 3)
    multiply = ctypes.CFUNCTYPE(None, *arguments)(conv.MULTIPLY_TILES[tile].address)
    multiply(ins.ctypes.data, origins.ctypes.data, stores.ctypes.data, count, *bounds)
    slope, low, high = bounds
    total = np.zeros((count, channels))
    for i, j in product(range(3), range(3)):
        total += x[i, j : j + count].astype(np.float64) @ weights[i, j].astype(np.float64)
    total += bias
    expected = np.clip(np.where(total < 0, total * slope, total), low, high)
    np.testing.assert_allclose(out[:-1], expected, rtol=0, atol=1e-4)
    assert (out[-1] == 77).all()


# --- activations ---------------------------------------------------------------------------------

MORE: dict[str, Callable[[NDArray[Any], Act], NDArray[Any]]] = {
    "reciprocal": lambda x, _: 1 / x,
    "log": lambda x, _: np.log(x),
    "prelu": lambda x, act: np.where(x < 0, x * act.a, x),
}
NUMBERS = {
    "leaky": (0.1, 0.0),
    "clip": (-0.5, 6.0),
    "hardsigmoid": (0.2, 0.5),
    "elu": (1.3, 0.0),
    "prelu": (0.3, 0.0),
}
SPECIAL = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e4, -1e4, 3e38, -3e38, 88.0, -88.0, 1e-30, -1e-30]


def apply(function: Native, values: Floats, a: float, b: float, slopes: Floats) -> Floats:
    result = values.copy()
    arguments = (ctypes.c_int64, ctypes.c_int64, ctypes.c_float, ctypes.c_float, ctypes.c_int64)
    call = ctypes.CFUNCTYPE(None, *arguments)(function.address)
    call(result.ctypes.data, result.size, a, b, slopes.ctypes.data)
    return result


def expected_of(kind: str, values: Floats) -> Floats:
    act = Act(kind, *NUMBERS.get(kind, (0.0, 0.0)))
    with np.errstate(all="ignore"):
        exact = (ACTS | MORE)[kind](values.astype(np.float64), act)
        return np.asarray(exact, np.float32)


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_an_activation_is_what_its_definition_says(kind: str) -> None:
    values = np.linspace(-20, 20, 4001, dtype=np.float32)
    a, b = NUMBERS.get(kind, (0.0, 0.0))
    got = apply(ACTIVATIONS[kind], values, a, b, np.full_like(values, a))
    np.testing.assert_allclose(got, expected_of(kind, values), rtol=2e-6, atol=1e-6)


# exp holds its argument within -87.3 .. 88.3, so it never reaches infinity, and what divides by it
# never reaches the limit at the far end: kind -> the special values that are off, and what comes
AT_LIMITS: dict[str, dict[float, float]] = {
    "exp": dict.fromkeys((np.inf, 1e4, float(np.float32(3e38))), 2.2294826e38),
    "silu": {-np.inf: -np.inf, float(np.float32(-3e38)): -1.3456037},
    "mish": {-np.inf: -np.inf, float(np.float32(-3e38)): -3.6577299},
}


@pytest.mark.parametrize("kind", ACTIVATIONS)
def test_special_values_are_those_of_the_definition(kind: str) -> None:
    values = np.array(SPECIAL, np.float32)
    a, b = NUMBERS.get(kind, (0.0, 0.0))
    got = apply(ACTIVATIONS[kind], values, a, b, np.full_like(values, a))
    expected = expected_of(kind, values)
    for at, value in enumerate(values):
        expected[at] = AT_LIMITS.get(kind, {}).get(float(value), expected[at])
    np.testing.assert_allclose(got, expected, rtol=2e-6, atol=1e-6)
    assert np.isnan(got[0])


# --- the change gate's plain kernels -------------------------------------------------------------


def some_bytes(rng: np.random.Generator, width: int) -> NDArray[np.uint8]:
    return rng.integers(0, 256, width, np.uint8)


def flags(rng: np.random.Generator, width: int) -> NDArray[np.uint8]:
    return rng.choice(np.array([0, 1, 3], np.uint8), width)


def shorts(rng: np.random.Generator, width: int) -> NDArray[np.int16]:
    return rng.integers(-1200, 1200, width, np.int16)


def rows(rng: np.random.Generator, width: int) -> NDArray[np.uint8]:
    return rng.integers(0, 2, (5, width), np.uint8)


def pixels(rng: np.random.Generator, width: int) -> NDArray[np.uint8]:
    return rows(rng, 3 * width)


GATE: dict[str, tuple[Callable[[np.random.Generator, int], NDArray[Any]], ...]] = {
    "same": (some_bytes, some_bytes),
    "differs": (pixels, pixels, rows, lambda rng, _: flags(rng, 5)),
    "enter": (some_bytes, some_bytes, shorts, shorts),
    "leave": (shorts, shorts),
    "add": (shorts, shorts),
    "magnitude": (some_bytes, some_bytes, some_bytes),
    "patch": (shorts, shorts, shorts, shorts, shorts, some_bytes),
    "beyond": (lambda r, w: some_bytes(r, 3 * w), some_bytes, flags),
    "squeeze": (flags, flags),
    "join": (flags, flags, flags, flags),
    "clear": (shorts,),
    "any_on": (flags,),
    "cool": (flags,),
}
"""Its arguments by name of the kernel, which may write to any of them."""


@pytest.mark.parametrize("name", GATE)
@pytest.mark.parametrize("width", [3, 37, 600])
def test_a_gate_kernel_is_the_same_uncompiled(name: str, width: int) -> None:
    rng = np.random.default_rng(width)
    compiled = [make(rng, width) for make in GATE[name]]
    plain = [np.copy(argument) for argument in compiled]
    before = [np.copy(argument) for argument in compiled]
    kernel: Any = getattr(change_gate, name)
    assert kernel(*compiled) == kernel.py_func(*plain)
    for one, other in zip(compiled, plain, strict=True):
        np.testing.assert_array_equal(one, other)
    if name not in ("same", "any_on") and width > 3:
        changed = (not np.array_equal(a, b) for a, b in zip(before, compiled, strict=True))
        assert any(changed), "the kernel writes something"
