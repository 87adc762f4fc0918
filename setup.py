"""Compiles the kernels of the reuse engine into the package; everything else is in pyproject.toml.

STILLFRAME_BUILD_KERNELS names the levels of processors, separated by spaces, or is `none`. By
default an editable install has the level of this host, and a wheel has all. What fails here leaves
kernels out: they are compiled when they are first used, as on processors of no level.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

SOURCE = Path(__file__).resolve().parent / "src"
KERNELS = Path("stillframe") / "reuse" / "kernels"
ALL = "x86-64-v3 x86-64-v4"
LIMIT_S = 1800


class BuildWithKernels(build_py):
    """Copies the modules, then compiles."""

    def run(self) -> None:
        super().run()
        levels = os.environ.get("STILLFRAME_BUILD_KERNELS", "" if self.editable_mode else ALL)
        if levels == "none":
            return
        package = SOURCE if self.editable_mode else Path(self.build_lib).resolve()
        paths = [str(SOURCE), os.environ.get("PYTHONPATH", "")]
        environment = {
            name: value for name, value in os.environ.items() if not name.startswith("NUMBA_")
        } | {"PYTHONPATH": os.pathsep.join(path for path in paths if path)}
        folder = package / KERNELS / "built"
        for level in levels.split():  # what an editable install compiled needs no second time
            compiled = SOURCE / KERNELS / "built" / level
            if compiled.is_dir() and not self.editable_mode:
                shutil.copytree(compiled, folder / level, dirs_exist_ok=True)
        command = [sys.executable, "-m", ".".join((*KERNELS.parts, "ahead")), str(folder)]
        try:
            subprocess.run(
                [*command, *levels.split()], env=environment, check=True, timeout=LIMIT_S
            )
        except (OSError, subprocess.SubprocessError) as error:
            print(f"kernels are not compiled ahead of time: {error}", file=sys.stderr)


setup(cmdclass={"build_py": BuildWithKernels})
