"""Kernels that are compiled before they are needed: for which processors, what is written, what is
loaded again."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stillframe.reuse.kernels import ahead, code_store, compiler, jit, processor

V3 = processor.LEVELS["x86-64-v3"]
V4 = processor.LEVELS["x86-64-v4"]


@pytest.mark.parametrize(
    ("features", "level"),
    [
        (V3, "x86-64-v3"),
        (V3 | {"sha", "vaes"}, "x86-64-v3"),
        (V4, "x86-64-v4"),
        (V3 - {"fma"}, None),
        (V3 | {"avx512f"}, None),  # its plans are made for wider vectors than level 3 has
        (frozenset({"neon"}), None),
        (frozenset(), None),
    ],
)
def test_the_level_of_a_processor(features: frozenset[str], level: str | None) -> None:
    assert processor.level_of(features) == level


def test_levels_have_names_of_features_that_llvm_knows() -> None:
    import llvmlite.binding as llvm

    known = set(llvm.get_host_cpu_features())
    if not known & {"sse2"}:
        pytest.skip("not an x86-64 processor")
    assert known >= V4


@pytest.mark.parametrize(
    ("settings", "applies"),
    [
        ({}, True),
        ({"NUMBA_OPT": "1"}, False),
        ({"NUMBA_CACHE_DIR": "/tmp", "NUMBA_NUM_THREADS": "2"}, True),
    ],
)
def test_settings_of_numba_put_code_of_others_aside(
    settings: dict[str, str], applies: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "_of_host", lambda: V3)
    monkeypatch.setattr(processor, "has_levels", lambda: True)
    for name in [name for name in os.environ if name.startswith("NUMBA_")]:
        monkeypatch.delenv(name)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    level = processor.level_of_host.__wrapped__()
    assert level == ("x86-64-v3" if applies else None)


def test_all_kernels_are_found() -> None:
    assert {"conv", "run_plan", "change_gate", "activation"} <= set(ahead.module_names())
    from stillframe.reuse.kernels import activation, conv

    natives = list(ahead.declared(conv))
    assert {id(each) for each in conv.MULTIPLY_TILES} <= {id(each) for each in natives}
    assert conv.convolve in natives
    assert {id(each) for each in activation.ACTIVATIONS.values()} <= {
        id(each) for each in ahead.declared(activation)
    }


@jit.native("int64(int64)")
def of_this_file(x):
    return x


@pytest.mark.parametrize("content", [None, b"", b"damaged", "whole"])
def test_only_what_is_not_there_is_compiled(
    content: bytes | str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    compiled = []
    monkeypatch.setattr(code_store, "linked", lambda symbol, object_file: 1)

    def machine_code(function: object, signature: str) -> tuple[str, bytes]:
        compiled.append(function)
        return "symbol", b"code"

    monkeypatch.setattr(compiler, "machine_code", machine_code)
    whole = code_store.packed("symbol", b"code")
    path = tmp_path / code_store.name(of_this_file.py_func, of_this_file.signature, "x86-64-v3")
    if content is not None:
        path.write_bytes(whole if isinstance(content, str) else content)
    assert ahead.compile_kernel(tmp_path, of_this_file, "x86-64-v3") == path.name
    assert path.read_bytes() == whole
    assert path.stat().st_mode & 0o777 == ahead.READABLE, "another user may run what root installed"
    assert bool(compiled) == (content != "whole")


def test_code_without_its_function_is_not_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_store, "linked", lambda symbol, object_file: 0)
    monkeypatch.setattr(compiler, "machine_code", lambda *_: ("symbol", b"code"))
    with pytest.raises(RuntimeError, match="has no function symbol"):
        ahead.compile_kernel(tmp_path, of_this_file, "x86-64-v3")
    assert not list(tmp_path.iterdir())


def test_a_set_is_complete_for_its_own_sources_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(code_store, "BUILT", tmp_path)
    monkeypatch.setattr(processor, "level_of_host", lambda: "x86-64-v3")
    assert not code_store.is_built()
    folder = tmp_path / "x86-64-v3"
    folder.mkdir()
    for name in ("ours.code", "of-other-sources.code"):
        (folder / name).touch()
    ahead.finish(folder, {"ours.code"})
    assert sorted(path.name for path in folder.iterdir()) == ["complete", "ours.code"]
    assert code_store.is_built()
    monkeypatch.setattr(code_store, "fingerprint", lambda file: "other sources")
    assert not code_store.is_built()
    monkeypatch.setattr(processor, "level_of_host", lambda: None)
    assert not code_store.is_built()


@pytest.mark.parametrize(
    ("arguments", "message"), [(["x86-64-v9"], "no level is called 'x86-64-v9'"), ([], None)]
)
def test_what_cannot_be_compiled_is_refused(
    arguments: list[str], message: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processor, "level_of_host", lambda: None)
    if message is None:
        ahead.main(tmp_path, arguments)
    else:
        with pytest.raises(SystemExit, match=message):
            ahead.main(tmp_path, arguments)
    assert not list(tmp_path.iterdir())
    monkeypatch.setattr(processor, "has_levels", lambda: False)
    with pytest.raises(SystemExit, match="compiled on x86_64"):
        ahead.main(tmp_path, ["x86-64-v3"])


COMPILES = """
import sys
from pathlib import Path
from stillframe.reuse.kernels import ahead
files = ahead.compile_module(Path(sys.argv[1]), "zero_pad")
assert len(files) == 1
"""
LOADS = """
import sys
from pathlib import Path
from stillframe.reuse.kernels import code_store, zero_pad
code_store.BUILT = Path(sys.argv[1])
code_store.kernel_folder = lambda: None
assert zero_pad.clear_zero_pad.address
print("numba" in sys.modules)
"""


@pytest.mark.parametrize("level", list(processor.LEVELS))
def test_what_is_compiled_for_a_level_is_loaded_on_its_processors(
    level: str, tmp_path: Path
) -> None:
    if not processor.has_levels():
        pytest.skip(f"code of a level is for {processor.SYSTEM}")
    clean = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")}
    for program, settings in ((COMPILES, processor.settings(level)), (LOADS, {})):
        ran = subprocess.run(
            [sys.executable, "-c", program, str(tmp_path)],
            env=clean | settings,
            capture_output=True,
            text=True,
            check=True,
        )
    assert ran.stdout == f"{level != processor.level_of_host()}\n"
