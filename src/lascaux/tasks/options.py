"""Options of the tasks: frozen dataclasses from which command-line flags are derived.

Nothing heavy is imported here, so that `--help` answers at once. Each field's metadata has its
`help`; `metavar` and `choices` are optional.
"""

from dataclasses import dataclass, field, fields
from typing import Any, Literal

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
        _require_positive(self, "top", "batch_size")
        for name in ("name_weight", "description_weight", "picture_weight"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise BadInput(f"{name} is {getattr(self, name)}; it must be 0 or more")


def _as_classify(name: str) -> Any:
    """The option of this name as `classify` has it, so that it means the same everywhere."""
    found = next(entry for entry in fields(ClassifyOptions) if entry.name == name)
    return field(default=found.default, metadata=found.metadata)


@dataclass(frozen=True, kw_only=True)
class SearchOptions:
    """How pictures are searched.

    Raises:
        BadInput: a count below 1.
    """

    model: str = _as_classify("model")
    templates: str | None = field(
        default=None,
        metadata={
            "help": "prompt templates to put the words into, as of classify; if not given, words "
            "are encoded as they are",
        },
    )
    top: int = field(default=12, metadata={"help": "pictures listed"})
    reading: Literal["photo", "official"] = _as_classify("reading")
    recursive: bool = field(default=True, metadata={"help": "look into subfolders as well"})
    device: str = _as_classify("device")
    dtype: Dtype = _as_classify("dtype")  # noqa: RUF009  # it gives a field
    batch_size: int = _as_classify("batch_size")

    def __post_init__(self) -> None:
        _require_positive(self, "top", "batch_size")


@dataclass(frozen=True, kw_only=True)
class EmbedOptions:
    """How pictures, or texts, are turned into vectors.

    Raises:
        BadInput: a count below 1.
    """

    model: str = _as_classify("model")
    reading: Literal["photo", "official"] = _as_classify("reading")
    too_long: Literal["truncate", "error", "average"] = _as_classify("too_long")
    recursive: bool = _as_classify("recursive")
    device: str = _as_classify("device")
    dtype: Dtype = _as_classify("dtype")  # noqa: RUF009  # it gives a field
    batch_size: int = _as_classify("batch_size")

    def __post_init__(self) -> None:
        _require_positive(self, "batch_size")


def _require_positive(options: Any, *names: str) -> None:
    for name in names:
        if getattr(options, name) < 1:
            raise BadInput(f"{name} is {getattr(options, name)}; it must be at least 1")


@dataclass(frozen=True, kw_only=True)
class SourceOptions:
    """How a source of records is read."""

    kind: str | None = field(
        default=None,
        metadata={
            "help": "layout: folder, classes, captioned, csv, tsv, jsonl, json, coco, parquet, "
            "webdataset, pack or prepared; if not given, it is recognised"
        },
    )
    pictures: str | None = field(
        default=None,
        metadata={"metavar": "DIR", "help": "where the pictures of a table or of COCO are"},
    )
    picture_column: str | None = field(
        default=None, metadata={"help": "of a table, if it is not a usual one"}
    )
    caption_column: str | None = field(default=None, metadata={"help": "likewise of captions"})


@dataclass(frozen=True, kw_only=True)
class CheckOptions:
    """What counts as unusual in a set of pictures.

    Raises:
        BadInput: a count out of its range.
    """

    smallest: int = field(
        default=64, metadata={"metavar": "PX", "help": "shorter sides below this are tiny"}
    )
    extreme: float = field(
        default=4.0, metadata={"help": "longer sides beyond this many shorter ones are extreme"}
    )
    near: int = field(
        default=2,
        metadata={"help": "bits of 64 in which near-duplicates' difference hashes may differ"},
    )
    workers: int = field(default=2, metadata={"help": "processes; 0 reads in this one"})

    def __post_init__(self) -> None:
        for name, least, most in (("smallest", 1, 1 << 20), ("near", 0, 8), ("workers", 0, 1024)):
            if not least <= getattr(self, name) <= most:
                raise BadInput(f"{name} is {getattr(self, name)}; expected {least} to {most}")
        if not self.extreme >= 1:
            raise BadInput(f"extreme is {self.extreme}; expected 1 or more")


@dataclass(frozen=True, kw_only=True)
class PackOptions:
    """How records are packed into Parquet files.

    Raises:
        BadInput: a count out of its range.
    """

    size: int | None = field(
        default=None,
        metadata={
            "metavar": "PX",
            "help": "make pictures smaller whose shorter side is longer, and write them as JPEG; "
            "if not given, files stay as they are",
        },
    )
    quality: int = field(default=92, metadata={"help": "of JPEG, where pictures are made smaller"})
    shard_size: int = field(default=4096, metadata={"metavar": "N", "help": "records of a file"})
    workers: int = field(
        default=2, metadata={"help": "processes, a file each; 0 works in this one"}
    )

    def __post_init__(self) -> None:
        for name, least, most in (
            ("quality", 1, 100),
            ("shard_size", 1, 1 << 24),
            ("workers", 0, 1024),
        ):
            if not least <= getattr(self, name) <= most:
                raise BadInput(f"{name} is {getattr(self, name)}; expected {least} to {most}")
        if self.size is not None and self.size < 1:
            raise BadInput(f"size is {self.size}; expected at least 1")


@dataclass(frozen=True, kw_only=True)
class PrepareOptions:
    """How the answers of a frozen model are computed once for all epochs.

    Raises:
        BadInput: a value out of its range.
    """

    model: str = _as_classify("model")
    views: int = field(
        default=1,
        metadata={
            "metavar": "K",
            "help": "of each picture: one as the model was published to see it, and K - 1 cut-outs "
            "by chance",
        },
    )
    seed: int = field(default=0, metadata={"help": "of the cut-outs"})
    augment_area: tuple[float, float] = field(
        default=(0.9, 1.0),
        metadata={"metavar": "X", "help": "a cut-out's share of the picture, from and to"},
    )
    augment_flip: float = field(
        default=0.5, metadata={"help": "the chance of a cut-out to be mirrored"}
    )
    numbers: Literal["float16", "float32"] = field(
        default="float16", metadata={"help": "number format that embeddings are written in"}
    )
    reading: Literal["photo", "official"] = _as_classify("reading")
    device: str = _as_classify("device")
    dtype: Dtype = _as_classify("dtype")  # noqa: RUF009  # it gives a field
    batch_size: int = field(default=32, metadata={"help": "pictures that the model takes at once"})
    shard_size: int = field(default=1024, metadata={"metavar": "N", "help": "records of a file"})
    workers: int = field(
        default=2,
        metadata={"help": "processes that read while the model works; 0 reads in this one"},
    )

    def __post_init__(self) -> None:
        for name, least, most in (
            ("views", 1, 1 << 10),
            ("seed", 0, (1 << 63) - 1),
            ("augment_flip", 0, 1),
            ("batch_size", 1, 1 << 20),
            ("shard_size", 1, 1 << 24),
            ("workers", 0, 1024),
        ):
            if not least <= getattr(self, name) <= most:
                raise BadInput(f"{name} is {getattr(self, name)}; expected {least} to {most}")
        low, high = self.augment_area
        if not 0 < low <= high <= 1:
            raise BadInput(f"augment_area is {low} {high}; expected 0 < from <= to <= 1")


@dataclass(frozen=True, kw_only=True)
class MakeCodebookOptions:
    """How a codebook is made by k-means.

    Raises:
        BadInput: a count below 1.
    """

    model: str = field(metadata={"help": "a Styled VAE-VQ of stage one: a folder, name or hub id"})
    codes: int = field(metadata={"metavar": "N", "help": "how many"})
    rounds: int = field(default=50, metadata={"help": "of k-means, at most, in each start"})
    restarts: int = field(default=1, metadata={"help": "starts, of which the best is kept"})
    start: Literal["sample", "k-means++"] = field(
        default="sample",
        metadata={"help": "from features drawn all alike, or by k-means++, to 16,384 codes"},
    )
    seed: int = field(default=0, metadata={"help": "of the first start"})
    device: str = _as_classify("device")
    dtype: Dtype = _as_classify("dtype")  # noqa: RUF009  # it gives a field
    batch_size: int = field(default=32, metadata={"help": "pictures that the model takes at once"})
    workers: int = field(
        default=2,
        metadata={"help": "processes that read while the model works; 0 reads in this one"},
    )

    def __post_init__(self) -> None:
        for name in ("codes", "rounds", "restarts", "batch_size"):
            if getattr(self, name) < 1:
                raise BadInput(f"{name} is {getattr(self, name)}; it must be at least 1")


_TILE_HELP = (
    "for large pictures: the whole one in overlapping tiles of the model's own size, at its own "
    "resolution or with --size at that; else its middle square is taken"
)


@dataclass(frozen=True, kw_only=True)
class SpellOptions:
    """How pictures become ids, and pictures again.

    Raises:
        BadInput: a count below 1.
    """

    model: str = field(
        default="ochre-vq",
        metadata={"help": "image tokeniser: a name (`lascaux models`), a folder or a hub id"},
    )
    size: int | None = field(
        default=None,
        metadata={
            "metavar": "PX",
            "help": "what the shorter side becomes; if not given, what the model was trained at",
        },
    )
    tile: bool = field(default=False, metadata={"help": _TILE_HELP})
    reading: Literal["photo", "official"] = _as_classify("reading")
    recursive: bool = _as_classify("recursive")
    device: str = _as_classify("device")
    dtype: Dtype = _as_classify("dtype")  # noqa: RUF009  # it gives a field
    batch_size: int = field(default=4, metadata={"help": "pictures that the model takes at once"})

    def __post_init__(self) -> None:
        _require_positive(self, "batch_size")
        if self.size is not None:
            _require_positive(self, "size")


@dataclass(frozen=True, kw_only=True)
class UnspellOptions:
    """How ids become pictures."""

    model: str | None = field(
        default=None,
        metadata={"help": "the image tokeniser that gave the ids; if not given, as the file says"},
    )
    tile: bool = field(default=False, metadata={"help": "decode large grids in overlapping tiles"})
    device: str = _as_classify("device")
    dtype: Dtype = _as_classify("dtype")  # noqa: RUF009  # it gives a field


@dataclass(frozen=True, kw_only=True)
class ImagineOptions:
    """How pictures are made of sentences or of pictures.

    Raises:
        BadInput: a value out of its range, or more pictures to be kept than made.
    """

    model: str | None = field(
        default=None,
        metadata={
            "help": "a CLIP-GEN or a DALL-E: a name (`lascaux models`), a folder or a hub id; if "
            "not given, ochre-imagine, and with --from the one that the file names"
        },
    )
    n: int = field(default=1, metadata={"help": "pictures made of each sentence or picture"})
    seed: int = field(
        default=0, metadata={"metavar": "S", "help": "of the first; the others have S + 1, ..."}
    )
    keep: int | None = field(
        default=None,
        metadata={"metavar": "K", "help": "order the pictures by a CLIP, and keep the best K"},
    )
    rerank: str | None = field(
        default=None,
        metadata={
            "metavar": "MODEL",
            "help": "the CLIP that orders them; if not given, the one that a CLIP-GEN reads",
        },
    )
    temperature: float | None = field(
        default=None,
        metadata={
            "help": "below 1 likelier pictures, above 1 unlikelier ones; if not given, as the "
            "model says, and 1 if it does not"
        },
    )
    top_k: int | None = field(
        default=None,
        metadata={
            "metavar": "K",
            "help": "choose each code among the K likeliest; if not given, as published: 500 for "
            "a CLIP-GEN, and for a DALL-E a tenth of all its tokens",
        },
    )
    top_p: float | None = field(
        default=None,
        metadata={
            "help": "choose among the likeliest that have this share together; if not given, as "
            "published: 0.95 for a CLIP-GEN, 1 for a DALL-E"
        },
    )
    guidance: float | None = field(
        default=None,
        metadata={
            "help": "above 1, closer to the sentence, by twice the work, for a model that has also "
            "learnt pictures without one; if not given, as the model says, and 1 if it does not"
        },
    )
    complete_text: bool = field(
        default=False,
        metadata={"help": "of a DALL-E: let it go on with the sentence, then paint the whole"},
    )
    prime_share: float = field(
        default=0.4375, metadata={"help": "how much of the picture of --prime is kept, from above"}
    )
    steps: int = field(
        default=8, metadata={"help": "from one end of --between to the other, both counted"}
    )
    too_long: Literal["truncate", "error"] = field(
        default="truncate",
        metadata={
            "help": "a sentence of more tokens than the model reads is cut, and that is told; or "
            "refused"
        },
    )
    tokeniser: str | None = field(
        default=None,
        metadata={"help": "whose codes the model writes; if not given, as the model says"},
    )
    clip: str | None = field(
        default=None,
        metadata={"help": "whose embeddings a CLIP-GEN reads; if not given, as the model says"},
    )
    reading: Literal["photo", "official"] = _as_classify("reading")
    device: str = _as_classify("device")
    dtype: Dtype = _as_classify("dtype")  # noqa: RUF009  # it gives a field
    batch_size: int = field(default=8, metadata={"help": "pictures made at once"})

    def __post_init__(self) -> None:
        _require_positive(self, "n", "batch_size")
        if self.keep is not None and not 1 <= self.keep <= self.n:
            raise BadInput(f"keep is {self.keep}; of n = {self.n} pictures, 1 to {self.n} are kept")
        if not 0 <= self.seed <= (1 << 63) - 1 - self.n:
            raise BadInput(f"seed is {self.seed}; expected 0 to 2^63 - 1 - n")
        if self.temperature is not None and not 0 < self.temperature < float("inf"):
            raise BadInput(f"temperature is {self.temperature}; expected a number above 0")
        if self.top_k is not None and self.top_k < 1:
            raise BadInput(f"top_k is {self.top_k}; it must be at least 1, or not given")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise BadInput(f"top_p is {self.top_p}; expected a share above 0 and up to 1")
        if self.guidance is not None and not abs(self.guidance) < float("inf"):
            raise BadInput(f"guidance is {self.guidance}; expected a finite number")
        if not 0 <= self.prime_share < 1:
            raise BadInput(f"prime_share is {self.prime_share}; expected 0 up to, and without, 1")
        if self.steps < 2:
            raise BadInput(f"steps is {self.steps}; both ends are steps, so it must be at least 2")


@dataclass(frozen=True, kw_only=True)
class PaintOptions:
    """How pictures are painted after maps, depth, classes or nothing.

    Raises:
        BadInput: a value out of its range.
    """

    model: str = field(
        default="ochre-map",
        metadata={"help": "a taming transformer: a name (`lascaux models`), a folder or a hub id"},
    )
    n: int = field(default=1, metadata={"help": "pictures of each condition"})
    seed: int = field(default=0, metadata={"help": "of the first; the next has the next number"})
    keep: float = field(
        default=0.5,
        metadata={"metavar": "SHARE", "help": "what of a picture to be completed stays, from top"},
    )
    temperature: float = field(
        default=1.0, metadata={"help": "the lower, the surer and the more alike"}
    )
    top_k: int | None = field(
        default=None,
        metadata={
            "metavar": "N",
            "help": "only so many of the likeliest codes; if not given as published: 100 after "
            "maps, depth and coordinates, else 250",
        },
    )
    top_p: float | None = field(
        default=None,
        metadata={"metavar": "SHARE", "help": "only the likeliest that have this share together"},
    )
    greedy: bool = field(default=False, metadata={"help": "always the likeliest code"})
    size: str | None = field(
        default=None,
        metadata={
            "metavar": "WxH",
            "help": "pixels of the picture; what it is painted after is scaled until it covers "
            "that, and its middle taken; if not given, the size of that, or what the model was "
            "trained at",
        },
    )
    scale_factor: float = field(
        default=1.0, metadata={"help": "what a picture is painted after is scaled by this, too"}
    )
    window: int | None = field(
        default=None,
        metadata={
            "metavar": "N",
            "help": "side in codes of the window that slides over large pictures; if not given, "
            "what the model was trained at",
        },
    )
    order: Literal["auto", "raster", "wavefront"] = field(
        default="auto",
        metadata={
            "help": "of a large picture's codes: one by one, or all at once that do not see each "
            "other, which gives the same and pays on a GPU; auto: wavefront on a GPU",
        },
    )
    label_shift: int | None = field(
        default=None,
        metadata={
            "metavar": "N",
            "help": "added to a map's numbers, where 255 counts as -1; if not given, 1 for models "
            "of 183 labels (COCO-Stuff's files count from 0), else 0",
        },
    )
    device: str = _as_classify("device")
    dtype: Dtype = _as_classify("dtype")  # noqa: RUF009  # it gives a field
    batch_size: int = field(default=4, metadata={"help": "pictures painted at once"})

    def __post_init__(self) -> None:
        _require_positive(self, "n", "batch_size")
        if self.window is not None:
            _require_positive(self, "window")
        if self.top_k is not None:
            _require_positive(self, "top_k")
        if not 0 <= self.seed <= (1 << 63) - self.n:
            raise BadInput(f"seed is {self.seed}; it must be a whole number from 0")
        if not 0 < self.keep < 1:
            raise BadInput(f"keep is {self.keep}; expected a share between 0 and 1, such as 0.5")
        for name in ("temperature", "scale_factor"):
            if not 0 < getattr(self, name) < float("inf"):
                raise BadInput(f"{name} is {getattr(self, name)}; it must be above 0")
        if self.top_p is not None and not 0 < self.top_p <= 1:
            raise BadInput(f"top_p is {self.top_p}; expected a share above 0 and up to 1")
        _ = self.sides

    @property
    def sides(self) -> tuple[int, int] | None:
        """Width and height in pixels, where the size says them.

        Raises:
            BadInput: it is no size.
        """
        if self.size is None:
            return None
        width, _, height = self.size.lower().replace("×", "x").partition("x")
        try:
            sides = int(width), int(height or width)
        except ValueError as error:
            raise BadInput(f"size is {self.size!r}; expected WxH, such as 512x256") from error
        if min(sides) < 1:
            raise BadInput(f"size is {self.size!r}; both sides must be at least 1")
        return sides


@dataclass(frozen=True, kw_only=True)
class AnimationOptions:
    """How a growing picture is shown.

    Raises:
        BadInput: a value out of its range.
    """

    fps: float = field(default=15.0, metadata={"help": "pictures a second"})
    update_every: int = field(
        default=50, metadata={"metavar": "N", "help": "codes between two pictures"}
    )

    def __post_init__(self) -> None:
        _require_positive(self, "update_every")
        if not 0 < self.fps <= 100:
            raise BadInput(f"fps is {self.fps}; expected above 0 and up to 100")
