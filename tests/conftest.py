"""What holds for all tests."""

import gc
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from stillframe import cache_dir

# a busy machine must not fail a test: no example has a deadline
settings.register_profile("stillframe", deadline=None)
settings.load_profile("stillframe")

# Decided once for each process: tests that name another cache folder use the kernels that the
# user's own has, instead of compiling all of them again.
cache_dir.kernel_folder()

BYTE_CODE = "PYTHONPYCACHEPREFIX"
"""Where Python keeps compiled modules, if not beside them."""
FOLDER = pytest.StashKey[str]()
TESTS = Path(__file__).parent
SLOWEST_FIRST = (
    "pipeline/filter/test_filter_streams.py",
    "sample_videos/test_scenes.py",
    "reuse/runtime/test_engine.py",
    "pipeline/cli/test_hang.py",
    "pipeline/cli/test_run.py",
    "reuse/runtime/test_attention.py",
    "reuse/memory/test_rematerialize.py",
    "pipeline/cli/test_cli.py",
    "test_package.py",
    "pipeline/sinks/test_sink.py",
)
"""Files that take longest begin, so that all workers end at about the same time: each runs whole
files (`--dist=loadfile`), in this order (`--no-loadscope-reorder`)."""


def pytest_configure(config: pytest.Config) -> None:
    """Where Python may not write compiled modules, each process that a test starts would compile
    all of stillframe again. These processes share a temporary folder for them instead. pytest's own
    workers do not use it: they would compile what lies compiled beside its source."""
    if not os.environ.get("PYTHONDONTWRITEBYTECODE"):
        return
    shared = getattr(config, "workerinput", {}).get(BYTE_CODE)
    folder = shared or tempfile.mkdtemp(prefix="stillframe-tests-")
    if not shared:
        config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
        config.stash[FOLDER] = folder
    if shared or not config.getoption("numprocesses", None):
        os.environ[BYTE_CODE] = folder
        del os.environ["PYTHONDONTWRITEBYTECODE"]


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Before a worker starts."""
    if FOLDER in node.config.stash:
        node.workerinput[BYTE_CODE] = node.config.stash[FOLDER]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    rank = {TESTS / name: at for at, name in enumerate(SLOWEST_FIRST)}
    absent = [str(path) for path in rank if not path.is_file()]
    assert not absent, f"SLOWEST_FIRST: expected files of tests, got {absent}"
    items.sort(key=lambda item: rank.get(item.path, len(rank)))


def pytest_collection_finish() -> None:
    """Thousands of collected tests are no garbage. Where many tests ask for a collection of all
    objects, each would walk through them again."""
    gc.collect()
    gc.freeze()
