"""ARCHITECTURES: every network that is built here, by name."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx

from stillframe.cache_dir import cache_folder
from stillframe.errors import ModelError
from stillframe.models.architectures.convolutional import Size, resnet50, style, vgg16
from stillframe.models.architectures.deimv2 import deimv2_pico
from stillframe.models.architectures.dfine import dfine_n
from stillframe.models.architectures.mobilenet import ssdlite
from stillframe.models.architectures.rfdetr import rfdetr_nano
from stillframe.models.architectures.rtdetr import rtdetr_r18
from stillframe.models.architectures.rvm import rvm
from stillframe.models.architectures.version import VERSION
from stillframe.models.architectures.vit import depth_anything_s, dinov2_s
from stillframe.models.architectures.yolo import yolo11n, yolo12n, yolo26n
from stillframe.models.weights.sealed import write_atomically

ARCHITECTURES: dict[str, Callable[..., onnx.ModelProto]] = {
    "resnet50": resnet50,
    "vgg16": vgg16,
    "style": style,
    "yolo11n": yolo11n,
    "yolo12n": yolo12n,
    "yolo26n": yolo26n,
    "rtdetr-r18": rtdetr_r18,
    "dfine-n": dfine_n,
    "deimv2-pico": deimv2_pico,
    "rfdetr-nano": rfdetr_nano,
    "depth-anything-s": depth_anything_s,
    "dinov2-s": dinov2_s,
    "rvm-mobilenetv3": rvm,
    "ssdlite-mobilenetv3": ssdlite,
}


def path(name: str, size: Size | None = None, **options: Any) -> Path:
    """The network's ONNX file in the cache, built if need be."""
    build = ARCHITECTURES.get(name)
    if build is None:
        raise ModelError(f"unknown architecture {name!r}: one of {', '.join(ARCHITECTURES)}")
    parts = [f"v{VERSION}", *(str(side) for side in size or ())]
    parts += [f"{key}-{value}" for key, value in sorted(options.items())]
    file = cache_folder() / "architectures" / f"{name}.{'.'.join(parts)}.onnx"
    if not file.exists():
        write_atomically(file, build(size, **options).SerializeToString())
    return file
