"""Profiles: a share for each layer, tied to one model, read and refused in plain words."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from stillframe.errors import UsageError
from stillframe.models import zoo
from stillframe.pipeline.inference.backends import ReuseBackend
from stillframe.pipeline.inference.profile import RULE, Part, TuningProfile
from stillframe.pipeline.inference.runner import Runner
from stillframe.pipeline.inference.settings import Settings
from stillframe.reuse.frontend.fingerprint import fingerprint
from stillframe.reuse.gate.gate_settings import GateSettings
from stillframe.reuse.kernels import abi
from stillframe.reuse.plan.tolerance import Tolerance, measure
from stillframe.reuse.session import ReuseSession
from tests.reuse.test_session import frame, net

MODEL = net(heads=True, gate=True)


def tuning_profile(**other: object) -> TuningProfile:
    part = Part(
        clip="c", first=0, frames=9, role="check", kind="f1", quality=0.99, cost=0.3, work=0.2
    )
    values: dict[str, object] = {
        "stillframe": "0.1.0", "model": "net", "fingerprint": fingerprint(MODEL), "share": 0.1,
        "layers": {"d": 0.5}, "gate": GateSettings(pixel=3.0), "wanted": 0.98, "parts": (part,),
    }  # fmt: skip
    return TuningProfile.model_validate(values | other)


def test_a_profile_reads_as_it_was_written(tmp_path: Path) -> None:
    tuning_profile().write(tmp_path / "p.json")
    assert TuningProfile.read(tmp_path / "p.json") == tuning_profile()
    assert [each.name for each in tmp_path.iterdir()] == ["p.json"]


def test_a_session_takes_the_share_of_each_layer(tmp_path: Path) -> None:
    tuning_profile().write(tmp_path / "p.json")
    with ReuseSession(MODEL, tolerance=Tolerance.read(tmp_path / "p.json"), threads=1) as session:
        session.run(None, {"x": frame()})
        plan = session.plan
        sizes = measure(plan)
        assert "d" in plan.cutoffs
        assert len(plan.cutoffs) > 1
        for name, at in plan.cutoffs.items():
            share = 0.5 if name == "d" else 0.1
            threshold = (share * sizes[name]) ** 2 * plan.graph.shapes[name][2]
            assert plan.floats[at, abi.THRESHOLD] == pytest.approx(threshold, rel=1e-4)


def test_magnitudes_are_root_mean_squares() -> None:
    with ReuseSession(MODEL, tolerance=0.1, threads=1) as session:
        session.run(None, {"x": frame()})
        for name, size in measure(session.plan).items():
            values = session.plan.view(name).astype(np.float64)
            assert size == pytest.approx(np.sqrt(np.mean(values**2)), rel=1e-4)


def test_a_black_first_frame_does_not_decide_for_ever() -> None:
    """Each dense step may measure the layers anew; the first one after the first always does."""
    bright = frame()
    with ReuseSession(MODEL, tolerance=0.1, threads=1) as session:
        session.step({"x": np.zeros_like(bright)}, dense=True)
        dark = session.plan.floats[:, abi.THRESHOLD].copy()
        session.step({"x": bright}, dense=True)
        session.step({"x": bright}, dense=True)
        lit = session.plan.floats[:, abi.THRESHOLD].copy()
        session.reset()
    with ReuseSession(MODEL, tolerance=0.1, threads=1) as session:
        session.step({"x": bright}, dense=True)
        np.testing.assert_array_equal(session.plan.floats[:, abi.THRESHOLD], lit)
    assert (lit > dark).any()


def test_a_tolerance_can_be_set_between_steps() -> None:
    with ReuseSession(MODEL, tolerance=0.1, threads=1) as session:
        session.step({"x": frame()})
        before = session.plan.floats[:, abi.THRESHOLD].copy()
        session.tolerance = Tolerance(0.1, {"d": 0.3}).scaled(2)
        after = session.plan.floats[:, abi.THRESHOLD]
        for name, at in session.plan.cutoffs.items():
            factor = 6 if name == "d" else 2
            assert after[at] == pytest.approx(factor**2 * before[at], rel=1e-4)
        with pytest.raises(UsageError, match="an exact session is compiled otherwise"):
            session.tolerance = Tolerance(0.0)


def test_shares_of_0_pass_every_change_on() -> None:
    """Where all listed shares are 0 but the common one is not, listed layers stay exact."""
    with ReuseSession(MODEL, tolerance=0.5, threads=1) as session:
        names = session.plan.cutoffs
        session.tolerance = Tolerance(0.5, dict.fromkeys(names, 0.0))
        picture = frame()
        session.step({"x": picture})
        nudged = picture.copy()
        nudged[..., 4:7, 4:7] += 0.01
        ours = session.run(None, {"x": nudged})[0]
    with ReuseSession(MODEL, threads=1) as exact:
        exact.step({"x": picture})
        np.testing.assert_array_equal(ours, exact.run(None, {"x": nudged})[0])


def test_the_fingerprint_is_of_the_weights_and_not_of_the_size(tmp_path: Path) -> None:
    other = onnx.load_model_from_string(MODEL)
    other.graph.input[0].type.tensor_type.shape.dim[2].dim_value = 42
    other.doc_string = "exported again"
    assert fingerprint(other.SerializeToString()) == fingerprint(MODEL)
    weights = other.graph.initializer[0]
    values = numpy_helper.to_array(weights).copy()
    values.flat[0] += 1
    weights.CopyFrom(numpy_helper.from_array(values, weights.name))
    assert fingerprint(other.SerializeToString()) != fingerprint(MODEL)


def test_another_model_is_refused() -> None:
    with pytest.raises(UsageError, match=r"made for net, weights \w{12}; this model's are \w{12}:"):
        ReuseSession(net(), tolerance=tuning_profile().shares)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read it"),
        ("{", "expected a profile in JSON"),
        ("[]", "expected a profile from `stillframe tune`; all of it"),
        ("{}", "expected a profile from `stillframe tune`; stillframe: expected a value, got none"),
        (json.dumps({"rule": RULE + 1, "stillframe": "9.1"}), "made by stillframe 9.1: tune again"),
        ({"share": -1}, "share: expected 0 or more, got -1"),
        ({"layers": {"d": None}}, "layers.d: "),
        ({"surprise": 1}, "unknown key 'surprise'"),
        ({"gate": {"pixel": 1000}}, "pixel lies in"),
        ({"gate": {"stripes": 8}}, "stripes is no longer a setting: --max-age SECONDS"),
        ({"gate": {"max_age": 900}}, "max_age is no longer a setting: --max-age SECONDS"),
    ],
)
def test_what_is_no_profile_is_refused(tmp_path: Path, text: object, message: str) -> None:
    path = tmp_path / "p.json"
    if isinstance(text, dict):
        text = json.dumps(json.loads(tuning_profile().model_dump_json()) | text)
    if text is not None:
        path.write_text(str(text))
    with pytest.raises(UsageError) as caught:
        TuningProfile.read(path)
    assert message in str(caught.value)


def test_an_old_profile_whose_gate_had_no_refresh_is_read(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    values = json.loads(tuning_profile().model_dump_json())
    path.write_text(json.dumps(values | {"gate": values["gate"] | {"stripes": 0, "max_age": 0}}))
    assert TuningProfile.read(path) == tuning_profile()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (None, "cannot read it"),
        ("{", "expected a profile in JSON"),
        ("[]", "all of it: expected an object"),
        ("{}", "'share' is missing"),
        (json.dumps({"rule": RULE + 1, "stillframe": "9.1"}), "made by stillframe 9.1: tune again"),
        ({"share": -1}, "tolerance: expected a number >= 0, got -1"),
        ({"layers": {"d": None}}, "expected a profile from `stillframe tune`"),
        ({"layers": 3}, "expected a profile from `stillframe tune`"),
    ],
)
def test_a_tolerance_is_not_read_from_what_is_no_profile(
    tmp_path: Path, text: object, message: str
) -> None:
    path = tmp_path / "p.json"
    if isinstance(text, dict):
        text = json.dumps(json.loads(tuning_profile().model_dump_json()) | text)
    if text is not None:
        path.write_text(str(text))
    with pytest.raises(UsageError) as caught:
        Tolerance.read(path)
    assert message in str(caught.value)


def test_the_old_spelling_of_a_profile_still_works(tmp_path: Path) -> None:
    tuning_profile().write(tmp_path / "p.json")
    for profile in (tmp_path / "p.json", tuning_profile()):
        with (
            pytest.warns(DeprecationWarning, match=r"use tolerance=Tolerance\.read\(PATH\)"),
            ReuseSession(MODEL, profile=profile, threads=1) as session,
        ):
            assert session.tolerance == Tolerance(0.1, {"d": 0.5})


def test_a_tolerance_beside_a_profile_is_refused() -> None:
    with pytest.raises(UsageError, match="got both"):
        ReuseSession(MODEL, profile=tuning_profile(), tolerance=0.2)


def test_a_runner_takes_a_profile_and_refuses_one_of_another_model(tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(net((1, 3, 32, 48)))
    own = tuning_profile(fingerprint=fingerprint(path))
    model = zoo.load(str(path), task="tensors")
    settings = Settings(reuse="layer", profile=own)
    assert settings.gate == own.gate
    with Runner(model, settings) as runner:
        engine = runner.settings.make_backend(model.path)
        assert isinstance(engine, ReuseBackend)
        assert engine.session.tolerance == Tolerance(0.1, {"d": 0.5})
        engine.close()
    with pytest.raises(UsageError, match="was made for net"):
        Runner(model, Settings(reuse="layer", profile=tuning_profile()))
    with pytest.raises(UsageError, match="a profile is of reuse 'layer', got one with reuse 'off'"):
        Settings(reuse="off", profile=own)
