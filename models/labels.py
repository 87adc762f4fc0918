"""The names of classes, by the data set that a model was trained on."""

COCO: tuple[str, ...] = tuple(
    """
    person,bicycle,car,motorcycle,airplane,bus,train,truck,boat,traffic light,
    fire hydrant,stop sign,parking meter,bench,bird,cat,dog,horse,sheep,cow,
    elephant,bear,zebra,giraffe,backpack,umbrella,handbag,tie,suitcase,frisbee,
    skis,snowboard,sports ball,kite,baseball bat,baseball glove,skateboard,surfboard,tennis racket,
    bottle,wine glass,cup,fork,knife,spoon,bowl,banana,apple,sandwich,orange,
    broccoli,carrot,hot dog,pizza,donut,cake,chair,couch,potted plant,bed,
    dining table,toilet,tv,laptop,mouse,remote,keyboard,cell phone,microwave,oven,
    toaster,sink,refrigerator,book,clock,vase,scissors,teddy bear,hair drier,toothbrush
    """.replace("\n    ", "")
    .strip()
    .split(",")
)
"""The 80 classes of COCO, in the order that detectors number them."""

CDLA: tuple[str, ...] = (
    "text",
    "title",
    "figure",
    "figure_caption",
    "table",
    "table_caption",
    "header",
    "footer",
    "reference",
    "equation",
)
"""The 10 parts of a page in CDLA, a data set of document layouts."""

_UNUSED_CATEGORIES = frozenset({0, 12, 26, 29, 30, 45, 66, 68, 69, 71, 83})
_names = iter(COCO)
COCO_CATEGORIES: tuple[str, ...] = tuple(
    f"class {number}" if number in _UNUSED_CATEGORIES else next(_names) for number in range(91)
)
"""COCO's classes by the category numbers of its annotations, 0..90, some of which are not used."""
