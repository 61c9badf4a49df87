"""CLIP's byte-pair encoder: a sentence becomes a row of token ids.

Radford et al. 2021, "Learning Transferable Visual Models From Natural Language Supervision",
arXiv 2103.00020; published as `SimpleTokenizer` and `bpe_simple_vocab_16e6.txt.gz`.

A vocabulary of v ids is laid out as published: 256 byte symbols, the same 256 ending a word,
v - 514 merges in the order in which they were learnt, the start marker, the end marker. Every byte
has an id, so no text is ever unknown.
"""

import html
import logging
import os
import re
import secrets
import warnings
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Literal, get_args

import ftfy
import torch
from jaxtyping import Int
from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
)
from torch import Tensor

from lascaux.errors import BadInput, BadText, BrokenFile
from lascaux.text.merging import count_words, learn_merges, short_names
from lascaux.text.vocabulary import (
    BYTE_OF,
    END,
    START,
    WORD_END,
    check_vocabulary,
    layout,
    read_vocabulary,
    spell,
)

logger = logging.getLogger(__name__)

TooLong = Literal["truncate", "error", "average"]

PUBLISHED_CONTEXT = 77  # tokens

# Characters of Unicode 16 to 18 that the regular expressions of `tokenizers` do not know yet.
_NEW_LETTERS = (
    "\u0558\u058b-\u058c\u088f\u0c5c\u0cdc\u208f\u209d-\u209f\ua7ce-\ua7cf\ua7d2\ua7d4\ua7dd\ua7e2"
    "\ua7f1\uab6c-\uab6d\U000107bb-\U000107bf\U00010940-\U00010959\U00010ec5-\U00010ec7"
    "\U00010ed9-\U00010eee\U00011b0a\U00011db0-\U00011ddb\U00011df1\U00016ea0-\U00016eb8"
    "\U00016ebb-\U00016ed3\U00016ff2-\U00016ff3\U000187f8-\U000187ff\U00018cd6-\U00018cda"
    "\U00018d09-\U00018d20\U00018d80-\U00018df2\U00018e00-\U00019191\U000191a0-\U000191d2"
    "\U0001b123-\U0001b128\U0001b168\U0001d6a6\U0001df1f-\U0001df24\U0001df2b-\U0001df81"
    "\U0001df90-\U0001df96\U0001dfcd-\U0001dfff\U0001e6c0-\U0001e6de\U0001e6e0-\U0001e6e2"
    "\U0001e6e4-\U0001e6e5\U0001e6e7-\U0001e6ed\U0001e6f0-\U0001e6f4\U0001e6fe-\U0001e6ff"
    "\U0002b73a-\U0002b73f\U0002b81e\U0002cea2-\U0002cead\U000323b0-\U00033479"
    "\U0003d000-\U0003fc3f"
)
_NEW_NUMBERS = (
    "\U00011de0-\U00011de9\U0001246f\U00012475-\U0001247f\U00012550-\U00012686\U00016ff4-\U00016ff6"
)
_LETTER, _NUMBER = rf"\p{{L}}{_NEW_LETTERS}", rf"\p{{N}}{_NEW_NUMBERS}"

# The published pattern ignores case. After lower-casing that still matters twice: the long s counts
# as an s, and U+0345, whose capital is a letter, matches neither "letter" nor "anything else".
_PIECES = (
    rf"<\|[sſ]tartoftext\|>|<\|endoftext\|>|'[sſ]|'t|'re|'ve|'m|'ll|'d"
    rf"|[{_LETTER}]+|[{_NUMBER}]|[^\s{_LETTER}{_NUMBER}\u0345]+"
)

# On such a text ftfy and html.unescape change nothing but blanks, which are joined afterwards.
_PLAIN = re.compile(r"[\t\n\x0c\r\x20-\x25\x27-\x7e]*")
_BLANKS = re.compile(r"\s+")


class TextCutWarning(UserWarning):
    """A text was longer than the context, and its end was left out."""


def clean(text: str) -> str:
    """The text as CLIP reads it: repaired, entities resolved, blanks joined, lower case."""
    if not _PLAIN.fullmatch(text):
        text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return _BLANKS.sub(" ", text.strip()).strip().lower()


@dataclass(frozen=True)
class _Pieces:
    """An encoded text without its markers, and where its tokens may be parted."""

    text: str  # cleaned
    ids: list[int]
    begins: list[int]  # index into `text` of each token's first character
    piece: list[int]  # which piece of the pattern each token belongs to

    def breaks(self, level: int) -> list[int]:
        """Tokens at which a new word (level 0), piece (1), character (2) or token (3) begins."""
        return [i for i in range(1, len(self.ids)) if level == 3 or self._breaks(i, level)]

    def _breaks(self, token: int, level: int) -> bool:
        if level == 2:
            return self.begins[token] != self.begins[token - 1]
        new_piece = self.piece[token] != self.piece[token - 1]
        return new_piece and (level == 1 or self.text[self.begins[token] - 1] == " ")


class ClipTokenizer:
    """Turns texts into rows of ids exactly as OpenAI's tokenizer does, and back.

    Make one with `from_file` or `train`. The merges are applied by the Rust library `tokenizers`;
    the cleaning of texts is always the one of `clean`, whatever a file read says of its own.
    """

    def __init__(
        self,
        merges: Sequence[tuple[str, str]],
        context_length: int = PUBLISHED_CONTEXT,
        vocabulary: dict[str, int] | None = None,
    ) -> None:
        """Build from merges in order of priority, over the published spelling of bytes.

        Args:
            merges: pairs of symbols, most urgent first.
            context_length: tokens in a row, both markers included.
            vocabulary: symbol -> id where it differs from the published layout.
        """
        _check_context(context_length)
        self.context_length = context_length
        self._merges = list(merges)
        self._vocabulary = dict(vocabulary or layout(a + b for a, b in self._merges))
        check_vocabulary(self._vocabulary, self._merges)
        self.start_id = self._vocabulary[START]
        self.end_id = self._vocabulary[END]
        self._rust = Tokenizer(
            models.BPE(vocab=self._vocabulary, merges=self._merges, end_of_word_suffix=WORD_END)
        )
        self._rust.pre_tokenizer = _pre_tokenizer()

    @property
    def vocabulary_size(self) -> int:
        """How many ids there are; a text tower needs that many embeddings."""
        return len(self._vocabulary)

    def __repr__(self) -> str:
        return (
            f"ClipTokenizer(vocabulary_size={self.vocabulary_size}, "
            f"context_length={self.context_length})"
        )

    def __call__(
        self,
        texts: str | Sequence[str],
        *,
        too_long: TooLong = "truncate",
        context_length: int | None = None,
    ) -> Int[Tensor, "b n"]:
        """One row of ids per text: start, the text, end, then zeros.

        Args:
            texts: one text or several.
            too_long: what happens to a text that does not fit. "truncate" cuts it, puts the end
                marker last, as published, and warns with a `TextCutWarning`; "error" refuses it.
                "average" cannot be answered with one row per text and refuses as well: take the
                rows of `encode_chunks` and average their normalised features.
            context_length: tokens in a row; by default the tokenizer's own.

        Raises:
            BadText: not a text, or too long where that was not to be cut.
        """
        if too_long not in get_args(TooLong):
            raise BadInput(f"too_long={too_long!r}; expected one of {', '.join(get_args(TooLong))}")
        length = self._length(context_length)
        texts = _texts(texts)
        rows = self.encode(texts)
        long = [i for i, row in enumerate(rows) if len(row) > length - 2]
        if long and too_long != "truncate":
            raise BadText(self._refusal(texts, rows, long, length, too_long))
        if long:
            self._warn(texts, rows, long, length)
        ids = torch.zeros(len(rows), length, dtype=torch.int64)
        for i, row in enumerate(rows):
            full = [self.start_id, *row[: length - 2], self.end_id]
            ids[i, : len(full)] = torch.tensor(full)
        return ids

    def encode(self, texts: str | Sequence[str]) -> list[list[int]]:
        """The ids of each text, without markers, padding or limit; one text gives one list too.

        Raises:
            BadText: one of them is not a `str`.
        """
        cleaned = [clean(_text(text, i)) for i, text in enumerate(_texts(texts))]
        encoded = self._rust.encode_batch_fast(cleaned, add_special_tokens=False)
        return [
            self._pieces(text).ids if START in text or END in text else row.ids
            for text, row in zip(cleaned, encoded, strict=True)
        ]

    def encode_chunks(self, text: str, context_length: int | None = None) -> list[list[int]]:
        """The whole of a text, however long, in as many rows as it needs.

        Rows are parted between words; a word that fills more than a row is parted at punctuation,
        or else between characters. Each row has both markers and is padded with zeros.
        A text that fits gives the one row that calling the tokenizer gives.
        """
        length = self._length(context_length)
        pieces = self._pieces(clean(_text(text, 0)))
        rows = []
        for start, stop in pairwise(_partition(pieces, length - 2)):
            row = [self.start_id, *pieces.ids[start:stop], self.end_id]
            rows.append(row + [0] * (length - len(row)))
        return rows

    def decode(self, ids: Iterable[int] | Int[Tensor, "n"]) -> str:
        """The text that the ids spell, as published: the end of every word is a blank.

        Markers are spelt out, and padding reads "!", whose id is 0. Bytes that are no UTF-8 become
        U+FFFD.

        Raises:
            BadText: an id that the vocabulary lacks.
        """
        symbols = []
        for number in ids.tolist() if isinstance(ids, Tensor) else ids:
            symbol = self._symbols.get(int(number))
            if symbol is None:
                raise BadText(f"id {number}; expected 0 to {self.vocabulary_size - 1}")
            symbols.append(symbol)
        data = bytes(BYTE_OF[character] for character in "".join(symbols))
        return data.decode("utf-8", errors="replace").replace(WORD_END, " ")

    @classmethod
    def from_file(cls, path: str | Path, context_length: int | None = None) -> "ClipTokenizer":
        """Read OpenAI's vocabulary, a `tokenizer.json`, or a folder.

        Args:
            path: `bpe_simple_vocab_16e6.txt.gz` (or unpacked), a `tokenizer.json` of CLIP, or a
                folder with `tokenizer.json`, or with `vocab.json` and `merges.txt`, or with
                OpenAI's file.
            context_length: tokens in a row; by default what the file says, else 77.

        Raises:
            BadInput: nothing there, or no vocabulary in it.
            BrokenFile: the file is damaged, or its vocabulary is of another kind than CLIP's.
        """
        path = Path(path)
        if not path.exists():
            raise BadInput(f"no tokenizer at {path}; expected a vocabulary file or a folder")
        if context_length is not None:
            _check_context(context_length)
        try:
            merges, vocabulary, recorded = read_vocabulary(path)
            return cls(merges, context_length or recorded or PUBLISHED_CONTEXT, vocabulary)
        except BadInput:
            raise
        except (BrokenFile, OSError, EOFError, ValueError, LookupError, AttributeError) as error:
            raise BrokenFile(f"{path} is not a readable CLIP vocabulary: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write a `tokenizer.json` that `from_file` reads back to an equal tokenizer.

        Markers, context length and padding are in it, so that other readers of the format give
        equal ids for ASCII text. The format cannot hold all of `clean` (repair of wrongly
        decoded text, entities); what it can hold is written, and `from_file` cleans in full.
        """
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        try:
            aside.write_text(self._portable().to_str(pretty=True), encoding="utf-8")
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)

    @classmethod
    def train(
        cls,
        texts: Iterable[str],
        vocabulary_size: int,
        context_length: int = PUBLISHED_CONTEXT,
        words: Iterable[str] = (),
    ) -> "ClipTokenizer":
        """Learn a vocabulary of the published form from texts in any language.

        The result depends on the arguments alone. Only pairs that occur twice or more are merged,
        so few texts give a vocabulary smaller than asked for: read its size off the result.

        Chinese and other scripts without blanks would give merges that run across words. They are
        parted at known words first, and learnt both as the end of a run and inside of one.

        Args:
            texts: each is cleaned first.
            vocabulary_size: at least 514, which is bytes and markers alone.
            context_length: tokens in a row, both markers included.
            words: known words of scripts without blanks. A text that is nothing but a name of at
                most four characters counts as one too, unless another word is within.

        Raises:
            BadInput: a vocabulary that cannot hold every byte.
        """
        if vocabulary_size < 514:
            raise BadInput(
                f"vocabulary_size={vocabulary_size}; expected at least 514: 256 bytes, the same at "
                "the end of a word, and two markers"
            )
        if isinstance(texts, str):
            raise BadText("one string; expected several texts to learn from")
        _check_context(context_length)
        splitter = pre_tokenizers.Split(Regex(_PIECES), behavior="removed", invert=True)
        known = {clean(_text(word, i)) for i, word in enumerate(words)}
        pieces: Counter[str] = Counter()
        alone: set[str] = set()
        for i, text in enumerate(texts):
            own = [piece for piece, _ in splitter.pre_tokenize_str(clean(_text(text, i)))]
            pieces.update(piece for piece in own if piece not in (START, END))
            if len(own) == 1:
                alone.add(own[0])
        counted = count_words(pieces, known | short_names(alone, known))
        spelt = {spell(word, ends): count for (word, ends), count in counted.items()}
        merges = learn_merges(spelt, vocabulary_size - 514)
        # Two merges may spell the same symbol: a+bc and ab+c.
        return cls(merges, context_length, layout(dict.fromkeys(a + b for a, b in merges)))

    @cached_property
    def _symbols(self) -> dict[int, str]:
        return {number: symbol for symbol, number in self._vocabulary.items()}

    def _length(self, context_length: int | None) -> int:
        if context_length is None:
            return self.context_length
        return _check_context(context_length)

    def _pieces(self, text: str) -> _Pieces:
        """Encode one cleaned text piece by piece; a marker typed in it becomes its own id."""
        ids, begins, piece = [], [], []
        assert self._rust.pre_tokenizer is not None
        for index, (spelling, (first, _)) in enumerate(
            self._rust.pre_tokenizer.pre_tokenize_str(text)
        ):
            if spelling in (START, END):
                numbers = [self._vocabulary[spelling]]
            else:
                numbers = [token.id for token in self._rust.model.tokenize(spelling)]
            at, byte = _character_of_byte(spelling), 0
            for number in numbers:
                ids.append(number)
                begins.append(first + at[byte])
                piece.append(index)
                byte += len(self._symbols[number])  # only the last ends in more than its bytes
        return _Pieces(text, ids, begins, piece)

    def _left_out(self, text: str, length: int) -> str:
        pieces = self._pieces(clean(text))
        return pieces.text[pieces.begins[length - 2] :]

    def _warn(
        self, texts: Sequence[str], rows: list[list[int]], long: list[int], length: int
    ) -> None:
        for i in long:
            logger.info("text %d cut; left out: %s", i, self._left_out(texts[i], length))
        first = long[0]
        others = f" (and {len(long) - 1} more texts were cut)" if len(long) > 1 else ""
        warnings.warn(
            f"text {first} has {len(rows[first]) + 2} tokens and {length} fit; left out: "
            f"{_shorten(self._left_out(texts[first], length))!r}{others}",
            TextCutWarning,
            stacklevel=3,
        )

    def _refusal(
        self,
        texts: Sequence[str],
        rows: list[list[int]],
        long: list[int],
        length: int,
        too_long: TooLong,
    ) -> str:
        first = long[0]
        advice = (
            'shorten it, or choose too_long="truncate" or "average"'
            if too_long == "error"
            else "one row cannot hold it: take the rows of encode_chunks and average their features"
        )
        return (
            f"text {first} ({_shorten(texts[first])!r}) has {len(rows[first]) + 2} tokens, markers "
            f"included; at most {length} fit; {advice}"
        )

    def _portable(self) -> Tokenizer:
        copy = Tokenizer(
            models.BPE(vocab=self._vocabulary, merges=self._merges, end_of_word_suffix=WORD_END)
        )
        copy.normalizer = normalizers.Sequence(
            [
                normalizers.NFC(),
                normalizers.Replace(Regex(r"\s+"), " "),
                normalizers.Strip(),
                normalizers.Lowercase(),
            ]
        )
        copy.pre_tokenizer = _pre_tokenizer()
        copy.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Replace(WORD_END, " ")])
        copy.add_special_tokens([AddedToken(m, normalized=False) for m in (START, END)])
        copy.post_processor = processors.TemplateProcessing(
            single=f"{START} $A {END}",
            special_tokens=[(START, self.start_id), (END, self.end_id)],
        )
        copy.enable_truncation(self.context_length)
        copy.enable_padding(length=self.context_length, pad_id=0, pad_token=self._symbols[0])
        return copy


def _check_context(context_length: int) -> int:
    if context_length < 3:
        raise BadInput(f"context_length={context_length}; expected at least 3: a token, 2 markers")
    return context_length


def _pre_tokenizer() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_PIECES), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )


def _texts(texts: object) -> Sequence[str]:
    if isinstance(texts, str):
        return [texts]
    if not isinstance(texts, Iterable) or isinstance(texts, bytes):
        raise BadText(f"a value of type {type(texts).__name__}; expected a str or several")
    return list(texts)


def _text(text: object, index: int) -> str:
    if not isinstance(text, str):
        raise BadText(f"text {index} is of type {type(text).__name__}; expected str")
    return text


def _shorten(text: str, length: int = 200) -> str:
    return text if len(text) <= length else text[: length - 1] + "…"


def _character_of_byte(spelling: str) -> list[int]:
    """For each byte of a piece, spelt in byte symbols, the index of the character it is part of."""
    at, index = [], -1
    for symbol in spelling:
        index += BYTE_OF[symbol] & 0xC0 != 0x80  # UTF-8: 10xxxxxx continues a character
        at.append(index)
    return at


def _partition(pieces: _Pieces, limit: int) -> list[int]:
    """Token indices at which rows of at most `limit` tokens begin, and the end of the last."""
    total = len(pieces.ids)
    if total <= limit:
        return [0, total]
    levels = [[*pieces.breaks(level), total] for level in range(4)]
    edges = [0]
    while total - edges[-1] > limit:
        edges.append(_next_edge(levels, edges[-1], limit))
    return [*edges, total]


def _next_edge(levels: list[list[int]], start: int, limit: int) -> int:
    for breaks in levels:
        within = [edge for edge in breaks if start < edge <= start + limit]
        # A unit that no row can hold is parted further, and then fills the rest of this row too.
        after = next(edge for edge in breaks if edge > (within[-1] if within else start))
        if within and after - within[-1] <= limit:
            return within[-1]
    return start + limit
