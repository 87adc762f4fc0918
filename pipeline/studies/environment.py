"""On what machine, and with which versions, figures were measured."""

import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from stillframe.pipeline.inference.backends import available_threads

PACKAGES = ("stillframe", "numpy", "numba", "onnxruntime", "openvino", "opencv-python-headless")


def machine() -> str:
    """The processor's name and how many of its threads may be used."""
    names = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    name = names[0] if names else platform.machine()
    return f"{name}, {available_threads()} CPUs, {platform.system()} {platform.release()}"


def versions() -> dict[str, str]:
    """Of Python and the packages that matter; those not installed are left out."""
    installed = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            installed[package] = version(package)
        except PackageNotFoundError:
            continue
    return installed
