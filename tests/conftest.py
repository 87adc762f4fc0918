"""What holds for all tests."""

import gc

from hypothesis import settings

from stillframe import cache_dir

# a busy machine must not fail a test: no example has a deadline
settings.register_profile("stillframe", deadline=None)
settings.load_profile("stillframe")

# Decided once for each process: tests that name another cache folder use the kernels that the
# user's own has, instead of compiling all of them again.
cache_dir.kernel_folder()


def pytest_collection_finish() -> None:
    """Thousands of collected tests are no garbage. Where many tests ask for a collection of all
    objects, each would walk through them again."""
    gc.collect()
    gc.freeze()
