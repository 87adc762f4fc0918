"""What holds for all tests."""

from stillframe import cache_dir

# Decided once for each process: tests that name another cache folder use the kernels that the
# user's own has, instead of compiling all of them again.
cache_dir.kernel_folder()
