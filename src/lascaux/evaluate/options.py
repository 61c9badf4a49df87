"""Options of benchmarks: frozen dataclasses from which command-line flags are derived.

Nothing heavy is imported here. Each field's metadata has its `help`.
"""

from dataclasses import dataclass, field
from typing import Literal

from lascaux.errors import BadInput
from lascaux.tasks.options import Dtype


@dataclass(frozen=True, kw_only=True)
class EvaluateClassifyOptions:
    """How zero-shot accuracy is measured.

    Raises:
        BadInput: a count below 1, or a negative seed.
    """

    model: tuple[str, ...] = field(
        default=("ochre-clip",),
        metadata={
            "metavar": "NAME",
            "help": "models, one after the other: names (`lascaux models`), folders or hub ids",
        },
    )
    published: bool = field(default=False, metadata={"help": "all nine models of OpenAI"})
    protocol: Literal["imagenet", "imagenetv2", "cifar10", "cifar100", "folder"] | None = field(
        default=None, metadata={"help": "if not given, found from the data"}
    )
    labels: str | None = field(
        default=None,
        metadata={
            "metavar": "FILE",
            "help": "of ImageNet's validation pictures in one folder: Kaggle's "
            "LOC_val_solution.csv or Caffe's val.txt",
        },
    )
    split: Literal["test", "train"] = field(default="test", metadata={"help": "of CIFAR"})
    classes: str | None = field(
        default=None,
        metadata={
            "metavar": "NAMES",
            "help": "other class names or further candidates: a published list, a file, or names "
            "with commas between them; if not given, those published with the data, or the "
            "folders' names",
        },
    )
    templates: str | None = field(
        default=None,
        metadata={
            "help": "prompt templates, as `lascaux classify` takes them; if not given, those "
            "published with the data, or the model's own",
        },
    )
    describe: str | None = field(
        default=None,
        metadata={
            "metavar": "FILE",
            "help": 'JSON of descriptions, {"cat": ["a small animal that purrs"]}, to compare '
            "with names alone",
        },
    )
    examples: str | None = field(
        default=None,
        metadata={
            "metavar": "DIR",
            "help": "example pictures, a subfolder for each class, to compare with names alone",
        },
    )
    limit: int | None = field(
        default=None, metadata={"help": "pictures at most, drawn by the seed"}
    )
    seed: int = field(default=0, metadata={"help": "of that draw"})
    reading: Literal["official", "photo"] = field(
        default="official",
        metadata={"help": "how files are read; published figures rest on official"},
    )
    features: str | None = field(
        default=None,
        metadata={
            "metavar": "FILE",
            "help": "keep the pictures' embeddings there as they are made; the same command goes "
            "on where it was stopped (of several models each gets a file of its own, FILE with "
            "the model's name)",
        },
    )
    device: str = field(default="cpu", metadata={"help": "cpu, cuda, cuda:1, mps"})
    dtype: Dtype = field(default="float32", metadata={"help": "number format of the model"})
    batch_size: int = field(default=32, metadata={"help": "pictures encoded at once"})

    def __post_init__(self) -> None:
        for name in ("batch_size", "limit"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise BadInput(f"{name} is {value}; it must be at least 1")
        if self.seed < 0:
            raise BadInput(f"seed is {self.seed}; it must be 0 or more")
        if self.published and self.model != ("ochre-clip",):
            raise BadInput("published names OpenAI's models, so model cannot be given too")


@dataclass(frozen=True, kw_only=True)
class EvaluateFidOptions:
    """How the distance of two sets of pictures is measured.

    Raises:
        BadInput: a count below 1.
    """

    model: str = field(
        default="inception-fid",
        metadata={
            "metavar": "NAME",
            "help": "whose features are compared: inception-fid makes FID; any CLIP may stand in, "
            "such as ochre-clip, and the figure is then not called so",
        },
    )
    block: Literal[0, 1, 2, 3] = field(
        default=3,
        metadata={"help": "of an Inception: 64, 192, 768 or 2048 features; the last makes FID"},
    )
    size: int | None = field(
        default=None,
        metadata={
            "metavar": "PIXELS",
            "help": "bring every picture to a square of so many first; AR-LDM measures at 64",
        },
    )
    reading: Literal["official", "photo"] = field(
        default="official",
        metadata={"help": "how files are read; published figures rest on official"},
    )
    statistics: str | None = field(
        default=None,
        metadata={
            "metavar": "FILE",
            "help": "keep DATA_A's mean and covariance there (.safetensors, or .npz as pytorch-fid "
            "has them); the same command reads them from a .safetensors that is there",
        },
    )
    device: str = field(default="cpu", metadata={"help": "cpu, cuda, cuda:1, mps"})
    dtype: Dtype = field(default="float32", metadata={"help": "number format of the model"})
    batch_size: int = field(default=32, metadata={"help": "pictures encoded at once"})

    def __post_init__(self) -> None:
        for name in ("batch_size", "size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise BadInput(f"{name} is {value}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class EvaluateReconstructOptions:
    """How it is measured what an image tokeniser keeps of pictures.

    Raises:
        BadInput: a count below 1, or a negative seed.
    """

    model: str = field(
        metadata={"help": "image tokeniser: a name (`lascaux models`), a folder or a hub id"}
    )
    size: int | None = field(
        default=None,
        metadata={
            "metavar": "PX",
            "help": "side of the squares; if not given, what the model was trained at",
        },
    )
    lpips: str | None = field(
        default=None,
        metadata={
            "metavar": "NAME",
            "help": "measure LPIPS with these weights: lpips-vgg16, a folder or a file",
        },
    )
    limit: int | None = field(
        default=None, metadata={"help": "pictures at most, drawn by the seed"}
    )
    seed: int = field(default=0, metadata={"help": "of that draw"})
    reading: Literal["photo", "official"] = field(
        default="photo",
        metadata={
            "help": "photo: turn as EXIF says, put alpha over white; "
            "official: as Pillow reads files"
        },
    )
    device: str = field(default="cpu", metadata={"help": "cpu, cuda, cuda:1, mps"})
    dtype: Dtype = field(default="float32", metadata={"help": "number format of the model"})
    batch_size: int = field(default=4, metadata={"help": "pictures that the model takes at once"})

    def __post_init__(self) -> None:
        for name in ("batch_size", "limit", "size"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise BadInput(f"{name} is {value}; it must be at least 1")
        if self.seed < 0:
            raise BadInput(f"seed is {self.seed}; it must be 0 or more")


@dataclass(frozen=True, kw_only=True)
class EvaluateImagineOptions:
    """How it is measured what models make of sentences.

    Raises:
        BadInput: a count below 1, or a negative seed.
    """

    model: tuple[str, ...] = field(
        default=("ochre-imagine",),
        metadata={
            "metavar": "NAME",
            "help": "CLIP-GENs and DALL-Es, one after the other: names (`lascaux models`), folders "
            "or hub ids",
        },
    )
    prompts: str | None = field(
        default=None,
        metadata={
            "metavar": "FILE",
            "help": "sentences, one on each line; if not given, those of the emoji world, "
            "whose pictures the judge looks at",
        },
    )
    split: Literal["test", "validation", "train"] = field(
        default="test",
        metadata={"help": "of the emoji world, whose sentences and true pictures are taken"},
    )
    reference: str | None = field(
        default=None,
        metadata={
            "metavar": "DATA",
            "help": "true pictures, to which the distance of the set is measured; of the emoji "
            "world they are drawn",
        },
    )
    features: str | None = field(
        default=None,
        metadata={
            "metavar": "NAME",
            "help": "whose features that distance compares: inception-fid makes FID; if not "
            "given, so, and of the emoji world ochre-clip, which needs no download",
        },
    )
    clip: str = field(
        default="ochre-clip",
        metadata={"help": "the CLIP that gives scores and chooses the best candidate"},
    )
    candidates: int = field(default=8, metadata={"help": "pictures made of each sentence"})
    limit: int | None = field(
        default=None,
        metadata={"help": "sentences at most; if not given, all, and 500 of the emoji world"},
    )
    seed: int = field(default=0, metadata={"help": "of the first picture"})
    temperature: float | None = field(
        default=None, metadata={"help": "as `lascaux imagine` takes it"}
    )
    top_k: int | None = field(
        default=None, metadata={"metavar": "K", "help": "as `lascaux imagine` takes it"}
    )
    top_p: float | None = field(default=None, metadata={"help": "as `lascaux imagine` takes it"})
    guidance: float | None = field(default=None, metadata={"help": "as `lascaux imagine` takes it"})
    device: str = field(default="cpu", metadata={"help": "cpu, cuda, cuda:1, mps"})
    dtype: Dtype = field(default="float32", metadata={"help": "number format of the models"})

    def __post_init__(self) -> None:
        for name in ("candidates", "limit"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise BadInput(f"{name} is {value}; it must be at least 1")
        if self.seed < 0:
            raise BadInput(f"seed is {self.seed}; it must be 0 or more")
