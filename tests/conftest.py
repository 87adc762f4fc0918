"""What holds for all tests."""

import gc
import os
import shutil
import tempfile
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


def pytest_collection_finish() -> None:
    """Thousands of collected tests are no garbage. Where many tests ask for a collection of all
    objects, each would walk through them again."""
    gc.collect()
    gc.freeze()
