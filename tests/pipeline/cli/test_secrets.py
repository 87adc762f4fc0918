"""No command writes the credentials of a source: not to a stream, a file or a traceback."""

import copy
import csv
import io
import json
import pickle
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from stillframe.pipeline import cli
from stillframe.pipeline.media.redaction import MaskedAddress, mask, unmasked
from stillframe.pipeline.studies.bench import placement
from stillframe.pipeline.studies.bench.case import Case
from stillframe.pipeline.studies.bench.condition import Condition
from tests import networks
from tests.hostile import media, servers

SECRETS = ("s3cret", "t0ken")
REFUSED = "rtsp://user:s3cret@127.0.0.1:9/x?token=t0ken"

COMMANDS: dict[str, Callable[[str, str], list[str]]] = {
    "run": lambda model, spec: [
        "run", spec, "--model", model, "--reuse", "layer", "--explain-placement",
        "--jsonl", "run.jsonl", "--out", "run.mkv",
        "--summary-json", "run.json", "--metrics-json", "metrics.json", "--retry", "0.5", "--force",
    ],
    "run --config": lambda model, spec: ["run", "--config", _config(spec), "--model", model],
    "filter": lambda _, spec: ["filter", spec, "--effect", "none"],
    "probe": lambda _, spec: ["probe", spec, "--timeout", "5"],
    "probe --json": lambda _, spec: ["probe", spec, "--json", "--timeout", "5"],
    "explain": lambda model, spec: ["explain", model, spec, "--heatmap", "heat.png"],
    "explain --json": lambda model, spec: ["explain", model, spec, "--json"],
    "sweep": lambda model, spec: [
        "sweep", spec, "--model", model, "--only", "off", "--only", "exact", "--min-quality", "0",
        "--json", "sweep.json", "--csv", "sweep.csv", "--report", "sweep.html",
    ],
    "tune": lambda model, spec: [
        "tune", spec, "--model", _layered(model), "-o", "profile.json", "--log", "tune.jsonl",
        "--max-frames", "12", "--quality", "0.1",
    ],
    "tune --held-out": lambda model, spec: [
        "tune", "clip.mp4", "--held-out", spec, "--model", _layered(model), "-o", "held.json",
        "--max-frames", "12", "--quality", "0.1",
    ],
    "bench": lambda model, spec: [
        "bench", model, "--clip", spec, "--max-frames", "4", "--no-memory", "--json", "bench.json",
    ],
    "bench placement": lambda model, spec: [
        "bench", "placement", "--model", model, "--clip", spec, "--json", "placement.json",
    ],
}  # fmt: skip
ENDS_WELL = sorted(set(COMMANDS) - {"filter"})  # which takes no network


def _layered(model: str) -> str:
    """A model whose layers keep values, which tuning needs."""
    return str(Path(model).with_name("painter.onnx"))


def _config(spec: str) -> str:
    Path("run.yaml").write_text(json.dumps({"source": spec, "max_frames": 2, "retry": "0"}))
    return "run.yaml"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("models")
    networks.painter(folder / "painter.onnx")
    return str(networks.negative(folder / "negative.onnx", 64, 96))


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    return media.clip(tmp_path_factory.mktemp("clips") / "clip.mp4", 12).read_bytes()


@pytest.fixture
def spec(film: bytes) -> Iterator[str]:
    """A film behind an address with a password and a token."""
    pages = {"/clip.mp4?token=t0ken": servers.http_answer(film, "video/mp4")}
    with servers.Server(servers.http_pages(pages)) as server:
        yield f"http://user:s3cret@127.0.0.1:{server.port}/clip.mp4?token=t0ken"


@pytest.fixture
def run(
    tmp_path: Path,
    film: bytes,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[list[str]], int]:
    """Runs a command line in a folder of its own; fails where a secret is in what it wrote."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(cli.DEBUG, "")
    monkeypatch.setattr(placement, "questions", _questions)
    (tmp_path / "clip.mp4").write_bytes(film)

    def run(arguments: list[str]) -> int:
        capfd.readouterr()
        code = cli.status(arguments)
        written = {"the streams": "".join(capfd.readouterr())}
        for path in tmp_path.rglob("*"):
            if path.is_file() and path.name != "run.yaml":
                written[path.name] = path.read_bytes().decode(errors="replace")
        assert written["the streams"], "expected some output to search"
        for where, text in written.items():
            for secret in SECRETS:
                assert secret not in text, f"{secret} in {where}: {text}"
        return code

    return run


def _questions(model: str, clip: str, *more: Any) -> dict[str, Any]:
    """In place of the 25 conditions: what they would carry of the clip."""
    condition = Condition("alone", model, clip, 1.0)
    more[-2](f"{condition}")
    return {"rows": {"alone": {"condition": asdict(condition)}}, "condition": condition.to_dict()}


@pytest.mark.parametrize("command", ENDS_WELL)
def test_a_run_writes_no_credentials(
    command: str, model: str, spec: str, run: Callable[[list[str]], int]
) -> None:
    assert run(COMMANDS[command](model, spec)) == 0


@pytest.mark.parametrize("debug", [[], ["--debug"]], ids=["", "--debug"])
@pytest.mark.parametrize("command", sorted(COMMANDS))
def test_a_source_that_does_not_answer_shows_no_credentials(
    command: str,
    debug: list[str],
    model: str,
    run: Callable[[list[str]], int],
) -> None:
    assert run([*debug, *COMMANDS[command](model, REFUSED)]) == 3


@pytest.mark.parametrize(
    "arguments",
    [
        [REFUSED],
        ["run", "a.mp4", REFUSED],
        ["probe", "--clip", REFUSED],
        ["probe", f"--clip={REFUSED}"],
        ["probe", "a.mp4", "rtsp://user:s3cret 's3cret@camera/x"],
        ["run", "a.mp4", "user:s3cret@camera/x"],
        ["run", "--every", REFUSED],
        ["run", "--out", "x.mkv", "--model", REFUSED],
        ["run", "--out", "user:s3cret@nowhere/x.mkv"],
        ["run", "--config", REFUSED],
    ],
)
def test_an_address_in_the_wrong_place_shows_no_credentials(
    arguments: list[str], run: Callable[[list[str]], int]
) -> None:
    assert run(arguments) != 0
    assert run(["--debug", *arguments]) != 0


def test_a_broken_configuration_shows_no_credentials(
    tmp_path: Path, run: Callable[[list[str]], int]
) -> None:
    for text in (f"source: {REFUSED}: [", f"source: [{REFUSED}]", f"{REFUSED}: 1"):
        (tmp_path / "run.yaml").write_text(text)
        assert run(["run", "--config", "run.yaml"]) == 2


def test_a_masked_address_is_masked_however_it_is_printed() -> None:
    address = MaskedAddress(REFUSED)
    shown = "rtsp://127.0.0.1:9/x"
    table = io.StringIO()
    csv.writer(table).writerow([address])
    for text in (
        str(address), f"{address}", f"{address!r}", f"{address:>60}", "%s" % address,  # noqa: UP031
        address + "", "".join([address]), json.dumps({"clip": address}), table.getvalue(),
        repr(Case("m", REFUSED)), str(Case("m", REFUSED)), repr(vars(Exception(address))),
    ):  # fmt: skip
        assert "s3cret" not in text
        assert "t0ken" not in text
    assert address == shown
    for same in (address, MaskedAddress(address), copy.deepcopy(address)):
        assert same.unmasked() == unmasked(same) == REFUSED
    assert unmasked(pickle.loads(pickle.dumps(address))) == REFUSED
    assert unmasked("a.mp4") == unmasked(Path("a.mp4")) == "a.mp4"


def test_text_that_quotes_an_address_is_masked() -> None:
    text = f"cannot open '{REFUSED}' or http://a:s3cret@b/c, see https://example.org/page"
    assert mask(text) == (
        "cannot open 'rtsp://127.0.0.1:9/x' or http://b/c, see https://example.org/page"
    )
    assert mask("wrong password: s3cret\n  for user", [REFUSED]) == (
        "wrong password: ***\n  for ***"
    )
