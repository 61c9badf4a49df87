"""Captions as rows of ids that begin with the text and end with zeros, whatever encodes them.

DALLE-pytorch's four ways: YouTokenToMe's pairs, any `tokenizer.json` of Hugging Face, Chinese
BERT's word pieces (Devlin et al. 2018, arXiv:1810.04805), and CLIP's pairs without its markers.
"""

import json
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import torch
from jaxtyping import Int
from tokenizers import (
    AddedToken,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from torch import Tensor

from lascaux.errors import BadInput, BadText, BrokenFile
from lascaux.text.clip_bpe import ClipTokenizer
from lascaux.text.youtokentome import YouTokenToMe

_CLIP_FILES = ("bpe_simple_vocab_16e6.txt.gz", "bpe_simple_vocab_16e6.txt")
_FILES = ("tokenizer.json", *_CLIP_FILES, "tokenizer.bpe", "vocab.txt")
_BERT_MARKS = ("[UNK]", "[SEP]", "[PAD]", "[CLS]", "[MASK]")


class ClipPairs:
    """CLIP's byte pairs."""

    def __init__(self, clip: ClipTokenizer) -> None:
        self.clip = clip
        self.vocabulary_size = clip.vocabulary_size

    def encode(self, text: str) -> list[int]:
        """The ids of a text, without markers."""
        return self.clip.encode(text)[0]

    def decode(self, ids: Iterable[int], ignored: Collection[int] = ()) -> str:
        """The text of ids, each word with a blank behind it, as published.

        Both markers are left out. DALLE-pytorch means that, too; a misprint (40407) makes it drop
        a word instead of the end.
        """
        left_out = {self.clip.start_id, self.clip.end_id, *ignored}
        return self.clip.decode([each for each in ids if each not in left_out])

    def write(self, folder: Path) -> None:
        """Writes tokenizer.json."""
        self.clip.save(folder / "tokenizer.json")


class RustEncoder:
    """Whatever a `tokenizer.json` describes; its own markers are not added."""

    def __init__(self, rust: Tokenizer, *, spells_markers: bool = False) -> None:
        """Take a tokeniser of the library.

        Args:
            rust: it is changed.
            spells_markers: decoding gives markers in the text, too.
        """
        # As published (tokenizer.py, HugTokenizer).
        rust.post_processor = processors.ByteLevel(trim_offsets=True)
        rust.no_padding()
        rust.no_truncation()
        self._rust, self._spells_markers = rust, spells_markers
        self.vocabulary_size = rust.get_vocab_size()

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        return self._rust.encode(text).ids

    def decode(self, ids: Iterable[int], ignored: Collection[int] = ()) -> str:
        """The text of ids."""
        kept = [each for each in ids if each not in ignored]
        return self._rust.decode(kept, skip_special_tokens=not self._spells_markers)

    def write(self, folder: Path) -> None:
        """Writes tokenizer.json."""
        self._rust.save(str(folder / "tokenizer.json"))


class WordPieces(RustEncoder):
    """BERT's words and pieces of words; Chinese characters stand alone."""

    def __init__(self, words: Sequence[str], *, lowercase: bool = False) -> None:
        """Build from the lines of vocab.txt; case matters to `bert-base-chinese`."""
        vocabulary = {word: number for number, word in enumerate(words)}
        if "[UNK]" not in vocabulary or len(vocabulary) != len(words):
            raise BrokenFile("no vocabulary of BERT: [UNK] is missing, or a word occurs twice")
        # The library's argument is called max_input_chars_per_word; BERT's is 100 as well.
        rust = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
        rust.normalizer = normalizers.BertNormalizer(
            clean_text=True, handle_chinese_chars=True, strip_accents=None, lowercase=lowercase
        )
        rust.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
        rust.decoder = decoders.WordPiece(prefix="##", cleanup=True)
        marks = [AddedToken(each, special=True) for each in _BERT_MARKS if each in vocabulary]
        rust.add_special_tokens(marks)
        super().__init__(rust, spells_markers=True)
        self._words = list(words)
        self._lowercase = lowercase

    def write(self, folder: Path) -> None:
        """Writes vocab.txt, and beside it what is done with capitals if it is not the usual."""
        if self._lowercase:
            super().write(folder)
        else:
            text = "".join(f"{word}\n" for word in self._words)
            (folder / "vocab.txt").write_text(text, encoding="utf-8")


Encoder = YouTokenToMe | ClipPairs | RustEncoder


class CaptionTokenizer:
    """Texts as rows of ids, filled with 0, and back."""

    def __init__(self, encoder: Encoder) -> None:
        self.encoder = encoder

    @property
    def vocabulary_size(self) -> int:
        """How many ids there are."""
        return self.encoder.vocabulary_size

    def tokenize(
        self, texts: str | Sequence[str], length: int, *, truncate: bool = False
    ) -> Int[Tensor, "b n"]:
        """One row of ids per text: its tokens, then zeros.

        Args:
            texts: one text or several.
            length: of a row.
            truncate: cuts what is too long; else it is refused.

        Raises:
            BadText: not a text, one without any token, or one that is too long.
        """
        texts = [texts] if isinstance(texts, str) else texts
        rows = torch.zeros(len(texts), length, dtype=torch.int64)
        for number, text in enumerate(texts):
            if not isinstance(text, str):
                raise BadText(f"text {number} is a {type(text).__name__}; expected a str")
            ids = self.encoder.encode(text)
            if not ids:
                raise BadText(f"text {number} is empty ({text[:40]!r}); say what is to be seen")
            if len(ids) > length and not truncate:
                raise BadText(
                    f"text {number} has {len(ids)} tokens, and {length} can be read: "
                    f"{text[:40]!r}...; shorten it, or have it cut with truncate=True"
                )
            ids = ids[:length]
            rows[number, : len(ids)] = torch.tensor(ids)
        return rows

    def decode(self, ids: Iterable[int] | Int[Tensor, " n"], ignored: Collection[int] = ()) -> str:
        """The text that ids spell, without those that fill.

        Args:
            ids: of one text.
            ignored: ids besides 0 that are left out.

        Raises:
            BadText: an id that there is not.
        """
        numbers = ids.tolist() if isinstance(ids, Tensor) else [int(each) for each in ids]
        out = {0, *ignored}
        for each in numbers:
            if each not in out and not 0 <= each < self.vocabulary_size:
                raise BadText(f"id {each}; expected 0 to {self.vocabulary_size - 1}")
        return self.encoder.decode(numbers, out)

    def save(self, folder: Path) -> None:
        """Write it into a folder, for `read_caption_tokenizer`."""
        self.encoder.write(folder)


def read_caption_tokenizer(path: str | Path) -> CaptionTokenizer:
    """The text tokeniser in a file, or in a folder with one; its content tells which it is.

    Read are models of YouTokenToMe (`.bpe`, `.model`), a `tokenizer.json`, BERT's `vocab.txt`, and
    CLIP's vocabulary in all forms that `ClipTokenizer.from_file` reads.

    Raises:
        BadInput: there is none.
        BrokenFile: it is damaged, or of no known kind.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        found = [path / name for name in _FILES if (path / name).is_file()]
        if not found and (path / "merges.txt").is_file():
            return CaptionTokenizer(ClipPairs(ClipTokenizer.from_file(path)))
        if not found:
            raise BadInput(f"no text tokeniser in {path}; expected one of {', '.join(_FILES)}")
        path = found[0]
    if not path.is_file():
        raise BadInput(f"no text tokeniser at {path}; expected a file or a folder")
    if path.suffix == ".json":
        return CaptionTokenizer(_of_json(path))
    if path.read_bytes()[:2] == b"\x1f\x8b":
        return CaptionTokenizer(ClipPairs(ClipTokenizer.from_file(path)))
    return CaptionTokenizer(_of_text(path))


def _of_json(path: Path) -> Encoder:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        model = content["model"]
        if model.get("type", "BPE") == "BPE" and model.get("end_of_word_suffix") == "</w>":
            return ClipPairs(ClipTokenizer.from_file(path))
        return RustEncoder(Tokenizer.from_file(str(path)))
    except BrokenFile:
        raise
    except Exception as error:  # the library raises nothing narrower
        raise BrokenFile(f"{path} is no tokenizer.json: {error}") from error


def _of_text(path: Path) -> Encoder:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise BrokenFile(f"{path} is no text tokeniser that is known: {error}") from error
    header = text.partition("\n")[0]
    first = header.split()
    if len(first) == 2 and all(each.isdecimal() for each in first):
        return YouTokenToMe.from_file(path)
    words = text.removesuffix("\n").split("\n")  # other characters that end lines are words
    if "[UNK]" in words:
        settings = path.with_name("tokenizer_config.json")
        lowercase = settings.is_file() and json.loads(settings.read_text(encoding="utf-8"))
        return WordPieces(words, lowercase=bool(lowercase and lowercase.get("do_lower_case")))
    if "#version" in header:
        return ClipPairs(ClipTokenizer.from_file(path))
    raise BrokenFile(
        f"{path} is no text tokeniser that is known; expected a model of YouTokenToMe, a "
        "tokenizer.json, BERT's vocab.txt or CLIP's vocabulary"
    )
