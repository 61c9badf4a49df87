"""Options of the tasks: frozen dataclasses from which command-line flags are derived.

Nothing heavy is imported here, so that `--help` answers at once. Each field's metadata has its
`help`; `metavar` and `choices` are optional.
"""

from dataclasses import dataclass, field
from typing import Literal

from lascaux.errors import BadInput

Dtype = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class ClassifyOptions:
    """How pictures are classified.

    Raises:
        BadInput: a count below 1, or a negative weight.
    """

    model: str = field(
        default="ochre-clip",
        metadata={"help": "model: a name (`lascaux models`), a folder or a hub id"},
    )
    templates: str | None = field(
        default=None,
        metadata={
            "help": "prompt templates: imagenet, imagenet-7, cifar, simple, plain, vanilla, the "
            "name of a class list, a file, or one template such as 'a photo of {}'; "
            "if not given, the model's own set",
        },
    )
    top: int = field(default=5, metadata={"help": "classes listed for each picture"})
    scores: Literal["softmax", "independent"] = field(
        default="softmax",
        metadata={
            "help": "softmax: shares of 1 among the classes; independent: the probability of each "
            "class apart, or the raw cosine where nothing is calibrated",
        },
    )
    reading: Literal["photo", "official"] = field(
        default="photo",
        metadata={
            "help": "photo: turn as EXIF says, put alpha over white; "
            "official: as the published code reads files",
        },
    )
    too_long: Literal["truncate", "error", "average"] = field(
        default="truncate",
        metadata={"help": "what to do with a text that is longer than the model reads"},
    )
    name_weight: float = field(default=1.0, metadata={"help": "weight of the class names"})
    description_weight: float = field(default=1.0, metadata={"help": "weight of descriptions"})
    picture_weight: float = field(default=1.0, metadata={"help": "weight of example pictures"})
    recursive: bool = field(default=False, metadata={"help": "look into subfolders as well"})
    device: str = field(default="cpu", metadata={"help": "cpu, cuda, cuda:1, mps"})
    dtype: Dtype = field(default="float32", metadata={"help": "number format of the model"})
    batch_size: int = field(default=32, metadata={"help": "pictures encoded at once"})

    def __post_init__(self) -> None:
        for name in ("top", "batch_size"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}; it must be at least 1")
        for name in ("name_weight", "description_weight", "picture_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise BadInput(f"{name} is {getattr(self, name)}; it must be 0 or more")
