"""What a run loads before its first result: modules are what it has to be waited for."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.hostile.models import network

LATER = (
    "models.architectures.architectures", "models.forms", "sample_videos.scenes",
    "sample_videos.encode", "pipeline.telemetry.prometheus",
)  # fmt: skip
"""Of our own, for what few runs do."""
SLOW = ("onnx", "google.protobuf", "ml_dtypes", "http.client", "ssl")
"""Of others, for reading networks and for downloads: what these found is in the cache."""
STATED = ("stillframe.models.card", "stillframe.pipeline.inference.profile", "yaml")
"""For what options and cards state of a model."""
CODE = """
import sys
from stillframe import sample_videos
from stillframe.pipeline.cli import execute_run
print(*(name for name in sys.modules))
sample_videos.SCENES
print(sample_videos.truth.__name__, callable(sample_videos.truth), *sample_videos.NAMES)
"""


def test_a_run_loads_only_what_all_runs_need() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True, check=True)
    loaded, scenes = (line.split() for line in done.stdout.splitlines())
    for name in LATER:
        assert not [each for each in loaded if each.startswith(f"stillframe.{name}")], name
    assert "prometheus_client" not in loaded
    assert scenes[:2] == ["truth", "True"]  # the function, not the module of its name
    assert {"plaza", "sports2d_demo"} <= set(scenes)


START = """
import sys
from pathlib import Path
from stillframe.models.catalog import MODELS
from stillframe.models.model import Model
from stillframe.pipeline.cli import execute_run
from stillframe.pipeline.cli.run_request import RunRequest
request = RunRequest()
assert request.card() is None
request.settings()
Model.at("net", Path(sys.argv[1]), MODELS["centerface"].form, (32, 32))
print(*sys.modules)
"""


def test_a_model_that_was_cleaned_before_loads_no_onnx(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STILLFRAME_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "net.onnx"
    file.write_bytes(network().SerializeToString())
    command = [sys.executable, "-c", START, str(file)]

    def loaded() -> set[str]:
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        return set(done.stdout.split())

    assert {"onnx"} <= loaded()  # cleaned now
    assert not loaded() & {*SLOW, *STATED}
