"""Searching a folder of pictures by words, by pictures, or by both."""

import hashlib
import os
from collections.abc import Iterator, Sequence
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Float32

from lascaux.errors import BadInput, BadPicture
from lascaux.models.clip import Clip
from lascaux.tasks.features import Reading, image_features, load_clip, model_name, text_features
from lascaux.tasks.ledger import (
    Ledger,
    State,
    encode_pictures,
    picture_origin,
    state_of,
)
from lascaux.tasks.nearest import Nearest
from lascaux.tasks.options import SearchOptions
from lascaux.tasks.pictures import pictures_in, several, source_name
from lascaux.tasks.prototypes import Progress
from lascaux.tasks.results import Failed, Hit, HitScores, Updated
from lascaux.tasks.templates import read_templates
from lascaux.weights.download import cache_folder

# Of a query of length 1: cosines that vary less are equal, apart from rounding.
_EVEN = 1e-4


class Index:
    """The pictures of a folder, encoded once and found by words or by example.

    What was encoded is kept in a file outside the folder; `update` encodes only what is new or has
    changed, and can be interrupted at any time.

        index = lascaux.Index("photos")
        index.update()
        index.search("red boat")[0].path

    Attributes:
        folder: as it was given; paths of hits begin with it.
        file: where the vectors are kept.
        model: the CLIP that encodes.
    """

    def __init__(
        self,
        folder: str | Path,
        model: str | Path | Clip = "ochre-clip",
        *,
        file: str | Path | None = None,
        reading: Reading = "photo",
        device: str | torch.device = "cpu",
        dtype: str | torch.dtype = torch.float32,
        batch_size: int = 32,
        recursive: bool = True,
    ) -> None:
        """Load the model, and open the file of vectors if there is one; nothing is encoded.

        Args:
            folder: of pictures; it is never written to.
            model: a name, folder or hub id, or a CLIP.
            file: where vectors are kept; by default in `indexes` of the cache folder, one file for
                each folder, model and way of reading. A file that was given still serves when the
                folder has moved.
            reading: how picture files are read.
            device: where to compute; for a model given by name.
            dtype: of the weights; for a model given by name.
            batch_size: pictures encoded at once, and lost at most if the process is killed.
            recursive: whether subfolders belong to it; links to folders are not followed.

        Raises:
            BadInput: no folder, an impossible option, or an index of another folder.
            BrokenFile: the file is no index, or damaged.
            WrongHash: the file was made with other weights.
            WeightsError: the model cannot be found or loaded.
        """
        if batch_size < 1:
            raise BadInput(f"batch_size is {batch_size}; it must be at least 1")
        if reading not in ("photo", "official"):
            raise BadInput(f"reading is {reading!r}; expected 'photo' or 'official'")
        self.folder = os.path.expanduser(folder)
        if not os.path.isdir(self.folder):
            raise BadInput(f"{folder} is no folder; expected one that holds pictures")
        self._root = os.path.realpath(self.folder)
        self.model = load_clip(model, device, dtype)
        self._reading: Reading = reading
        self._batch_size = batch_size
        self._recursive = recursive
        origin = picture_origin(self.model, model_name(model), reading)
        if file is None:
            of = (origin.weights, origin.preprocessing, origin.dtype, str(recursive), "")
            what = "\0".join(of).encode()
            self.file = _default_file(what + os.fsencode(self._root))
        else:
            self.file = Path(file).expanduser()
        if self.file.is_dir() or (file is not None and not self.file.parent.is_dir()):
            raise BadInput(f"no index can be kept in {file}: expected a file in an existing folder")
        self._own_place = file is None
        self._ledger = Ledger(self.file, origin)
        self._require_same_folder()
        self._nearest: Nearest | None = None

    @classmethod
    def from_options(
        cls, folder: str | Path, options: SearchOptions, file: str | Path | None = None
    ) -> "Index":
        """The index that options describe."""
        return cls(
            folder,
            options.model,
            file=file,
            reading=options.reading,
            device=options.device,
            dtype=options.dtype,
            batch_size=options.batch_size,
            recursive=options.recursive,
        )

    def __len__(self) -> int:
        """How many pictures can be found, as of the last update."""
        return self._ledger.count()

    @property
    def failed(self) -> tuple[Failed, ...]:
        """Pictures that could not be read, as of the last update."""
        return tuple(Failed(self._path(key), reason) for key, reason in self._ledger.failed())

    def update(self, progress: Progress | None = None) -> Updated:
        """Encode new and changed pictures, and forget those that are gone.

        A picture has changed if its size or time of change is another. One that could not be read
        is not tried again until it changes. If this is interrupted, or killed, the next call goes
        on where it was.

        Args:
            progress: called with what is encoded, how many are done, and of how many.

        Raises:
            BadInput: no picture in the folder, none that can be read, or another process is
                updating this index.
        """
        found = dict(self._look())
        if not found:
            advice = "" if self._recursive else "; recursive=True looks into its subfolders too"
            raise BadInput(f"no pictures in {self.folder}{advice}")
        if self._own_place:
            self.file.parent.mkdir(parents=True, exist_ok=True)
        with self._ledger.writing() as writer:
            self._require_same_folder()
            known = self._ledger.known()
            if gone := known.keys() - found.keys():
                writer.drop(gone)
            writer.note("folder", _told(self._root))
            wanted = {
                key: (Path(os.fsdecode(os.path.join(os.fsencode(self._root), key))), state)
                for key, state in found.items()
                if known.get(key) != state
            }
            total = len(wanted)
            passing = encode_pictures(
                writer,
                self.model,
                wanted,
                self._reading,
                batch_size=self._batch_size,
                progress=(lambda n: progress("pictures", n, total)) if progress else lambda _: None,
            )
            # What is known of a picture that cannot be read just now may be of another content.
            if stale := [key for key, _ in passing if key in known]:
                writer.drop(stale)
        lost = dict(self._ledger.failed()) | dict(passing)
        failed = tuple(Failed(self._path(key), lost[key]) for key in sorted(lost))
        encoded = wanted.keys() - lost.keys()
        searchable = self._ledger.count()
        if not searchable:
            raise BadInput(
                f"none of the {len(found)} pictures in {self.folder} can be read; the first, "
                f"{failed[0].source}: {failed[0].reason}"
            )
        changed = len(encoded & known.keys())
        return Updated(searchable, len(encoded) - changed, changed, len(gone), failed)

    def search(
        self,
        words: str | Sequence[str] | None = None,
        *,
        like: Any = (),
        without: str | Sequence[str] = (),
        top: int = 12,
        templates: str | Path | Sequence[str] | None = None,
    ) -> list[Hit]:
        """The best pictures, best first, as of the last update.

        Asked for one text or one picture q, the score of a picture x is their cosine. Of anything
        else the cosines are first made comparable, since those of a text vary less over the
        pictures of a folder than those of a picture, which would weigh more in a sum. With s(u) =
        u / std(u·x), the deviation being over all x,

            v = s(Σ s(words_i)) + s(Σ s(like_j)) - s(Σ s(without_k))
            score(x) = s(v)·x - mean(s(v)·x)

        so that words, pictures and unwanted words count the same however many there are of each,
        and the score says how many standard deviations x lies above the mean of all pictures. It is
        one inner product. Beyond 16,384 pictures the deviations are those of every k-th.

        Args:
            words: one text or several.
            like: a picture, or several: anything that `read_picture` takes.
            without: what must not be seen, one text or several.
            top: how many pictures at most.
            templates: a set's name, a file or a list to put texts into, the mean being taken; by
                default texts are encoded as they are.

        Raises:
            BadInput: nothing to look for, an empty text, a `top` below 1, or nothing is encoded.
            BadPicture: a picture of `like` cannot be read.
            MissingExtra: faiss is not installed.
        """
        if isinstance(top, bool) or not isinstance(top, Integral) or top < 1:
            raise BadInput(f"top is {top!r}; it must be a whole number, at least 1")
        wanted, unwanted = _texts(words, "words"), _texts(without, "without")
        examples = [] if like is None else list(like) if several(like) else [like]
        if not wanted and not examples:
            raise BadInput("nothing to look for; give words, or a picture by like=")
        nearest = self._opened()
        query, offset, scores = _combined(
            self._text_rows(wanted, templates),
            self._picture_rows(examples),
            self._text_rows(unwanted, templates),
            nearest.sample,
        )
        identities, products = nearest.find(query, int(top))
        limit = 1.0 if scores == "cosine" else float("inf")
        hits = [
            Hit(self._path(key), max(-limit, min(limit, float(product) - offset)), scores)
            for key, product in zip(
                self._ledger.keys(identities.tolist()), products.tolist(), strict=True
            )
            if key is not None  # another process has dropped it just now
        ]
        return sorted(hits, key=lambda hit: (-hit.score, hit.path))

    def _opened(self) -> Nearest:
        """The vectors as they are in the file now."""
        version = self._ledger.version()
        if version is None:
            raise BadInput(
                f"no picture of {self.folder} is encoded yet; update the index first (the command "
                "does so unless --no-update is given)"
            )
        if self._nearest is None or self._nearest.version != version:
            self._nearest = Nearest.open(self._ledger, version)
        if not len(self._nearest):
            raise BadInput(f"no picture of {self.folder} is in {self.file}; update the index first")
        return self._nearest

    def _look(self) -> Iterator[tuple[bytes, State]]:
        """The pictures in the folder, relative to it, with their states."""
        beginning = len(os.path.join(self._root, ""))
        for path in pictures_in(self._root, recursive=self._recursive):
            yield os.fsencode(str(path)[beginning:]), state_of(path)

    def _path(self, key: bytes) -> str:
        return os.path.join(self.folder, os.fsdecode(key))

    def _require_same_folder(self) -> None:
        """Refuse to mistake one folder's index for another's; a folder may move, though."""
        before = self._ledger.about("folder")
        now = _told(self._root)
        if before is not None and before != now and os.path.isdir(before):
            raise BadInput(
                f"{self.file} is the index of {before}, which is still there; give {now} a file of "
                "its own"
            )

    def _text_rows(
        self, texts: list[str], templates: str | Path | Sequence[str] | None
    ) -> Float32[np.ndarray, "n e"]:
        chosen = ("{}",) if templates is None else read_templates(templates)
        rows = [
            F.normalize(
                text_features(self.model, [t.replace("{}", text) for t in chosen]).mean(0), dim=0
            )
            for text in texts
        ]
        return _stacked(rows, self.model.config.embed_width)

    def _picture_rows(self, pictures: list[Any]) -> Float32[np.ndarray, "n e"]:
        rows, failures = image_features(self.model, pictures, self._reading)
        for place, error in failures:
            raise BadPicture(f"{source_name(pictures[place], place)}: {error}") from error
        return _stacked(list(rows), self.model.config.embed_width)


def _combined(
    words: Float32[np.ndarray, "n e"],
    like: Float32[np.ndarray, "m e"],
    without: Float32[np.ndarray, "k e"],
    sample: Float32[np.ndarray, "s e"],
) -> tuple[Float32[np.ndarray, " e"], float, HitScores]:
    """The query as one vector, what to subtract from its products, and what these then are."""
    asked = np.concatenate((words, like, without))
    if len(asked) == 1 and not len(without):
        return asked[0], 0.0, "cosine"
    # Everything is linear in the queries: it is worked out on their cosines alone.
    cosines = sample @ asked.T

    lengths = np.linalg.norm(asked, axis=1)

    def standard(mixture: np.ndarray) -> np.ndarray:
        deviation = float((cosines @ mixture).std())
        # What is the same for all pictures must not count, nor its rounding be enlarged: that of
        # the parts, which may be much longer than what is left of them.
        even = deviation <= _EVEN * float(np.abs(mixture) @ lengths)
        return np.zeros_like(mixture) if even else mixture / deviation

    each = np.stack([standard(row) for row in np.eye(len(asked), dtype=np.float32)])
    kinds = np.split(each, np.cumsum((len(words), len(like))))
    positive, example, negative = (standard(kind.sum(axis=0)) for kind in kinds)
    mixture = standard(positive + example - negative)
    if not mixture.any() and any(part.any() for part in (positive, example, negative)):
        raise BadInput(
            "what is looked for and what must not be seen cancel out; ask for something else"
        )
    return mixture @ asked, float((cosines @ mixture).mean()), "deviations"


def _told(path: str) -> str:
    return os.fsencode(path).decode(errors="backslashreplace")


def _texts(given: str | Sequence[str] | None, name: str) -> list[str]:
    texts = [] if given is None else [given] if isinstance(given, str) else list(given)
    for text in texts:
        if not isinstance(text, str) or not text.strip():
            raise BadInput(f"{name} has {text!r}; expected texts that say what to look for")
    return texts


def _stacked(rows: Sequence[Float[torch.Tensor, " e"]], width: int) -> np.ndarray:
    return torch.stack(list(rows)).numpy() if len(rows) else np.zeros((0, width), np.float32)


def _default_file(what: bytes) -> Path:
    return cache_folder() / "indexes" / f"{hashlib.sha256(what).hexdigest()[:32]}.sqlite"
