"""What a run loads before its first result: modules are what it has to be waited for."""

import subprocess
import sys

LATER = (
    "models.architectures.architectures", "models.forms", "sample_videos.scenes",
    "sample_videos.encode", "pipeline.telemetry.prometheus",
)  # fmt: skip
"""Of our own, for what few runs do."""
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
