"""The files that hold a vocabulary of CLIP's form, and how its ids are laid out."""

import gzip
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from lascaux.errors import BadInput, BrokenFile

START = "<|startoftext|>"
END = "<|endoftext|>"
WORD_END = "</w>"
PUBLISHED_MERGES = 49408 - 514  # the published file goes on after these; the rest is unused


def byte_symbols() -> list[str]:
    """The printable character that stands for a byte in a vocabulary file, in order of ids.

    Printable Latin-1 bytes stand for themselves and come first; the others are U+0100 and on.
    """
    return list(BYTE_OF)


def _byte_of_symbol() -> dict[str, int]:
    printable = [*range(ord("!"), ord("~") + 1), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in printable]
    symbols = {chr(byte): byte for byte in printable}
    return symbols | {chr(256 + i): byte for i, byte in enumerate(others)}


BYTE_OF = _byte_of_symbol()
SYMBOL_OF = {byte: symbol for symbol, byte in BYTE_OF.items()}


def spell(word: str, ends: bool) -> tuple[str, ...]:
    """A word as byte symbols; whether it ends there shows in the last one."""
    symbols = [SYMBOL_OF[byte] for byte in word.encode()]
    return (*symbols[:-1], symbols[-1] + WORD_END) if ends else tuple(symbols)


def layout(joined: Iterable[str]) -> dict[str, int]:
    """The published order of ids, for the symbols that the merges make."""
    symbols = byte_symbols()
    names = [*symbols, *(s + WORD_END for s in symbols), *joined, START, END]
    vocabulary = {name: i for i, name in enumerate(names)}
    if len(vocabulary) != len(names):
        raise BrokenFile("two merges give the same symbol; expected a new one from each")
    return vocabulary


def check_vocabulary(vocabulary: dict[str, int], merges: Sequence[tuple[str, str]]) -> None:
    """Raise BrokenFile unless every byte, marker and merge has an id, and ids have no gap."""
    symbols = byte_symbols()
    needed = [*symbols, *(s + WORD_END for s in symbols), START, END]
    needed += [symbol for a, b in merges for symbol in (a, b, a + b)]
    lacking = [symbol for symbol in needed if symbol not in vocabulary]
    if lacking:
        raise BrokenFile(
            f"the vocabulary lacks {len(lacking)} symbols of CLIP's form, first {lacking[0]!r}"
        )
    if sorted(vocabulary.values()) != list(range(len(vocabulary))):
        raise BrokenFile(f"the ids of the vocabulary are not 0 to {len(vocabulary) - 1}, each once")


def read_vocabulary(path: Path) -> tuple[list[tuple[str, str]], dict[str, int] | None, int | None]:
    """Merges, vocabulary where it is given apart, and the context length if it is recorded."""
    if path.is_dir():
        return _read_folder(path)
    if path.suffix == ".json":
        return _read_tokenizer_json(path)
    data = path.read_bytes()
    text = (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8")
    return _pairs(text.split("\n")[1 : 1 + PUBLISHED_MERGES]), None, None


def _read_folder(folder: Path) -> tuple[list[tuple[str, str]], dict[str, int] | None, int | None]:
    recorded = None
    settings = folder / "tokenizer_config.json"
    if settings.exists():
        length = json.loads(settings.read_text(encoding="utf-8")).get("model_max_length")
        # Folders without a limit record 1e30 here.
        recorded = length if isinstance(length, int) and length <= 100_000 else None
    if (folder / "tokenizer.json").exists():
        merges, vocabulary, own = _read_tokenizer_json(folder / "tokenizer.json")
        return merges, vocabulary, own or recorded
    if (folder / "vocab.json").exists() and (folder / "merges.txt").exists():
        vocabulary = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
        skip = 1 if lines[0].startswith("#version") else 0
        return _pairs(lines[skip:]), vocabulary, recorded
    for name in ("bpe_simple_vocab_16e6.txt.gz", "bpe_simple_vocab_16e6.txt"):
        if (folder / name).exists():
            return read_vocabulary(folder / name)
    raise BadInput(
        f"no tokenizer in {folder}; expected tokenizer.json, vocab.json with merges.txt, or "
        "bpe_simple_vocab_16e6.txt.gz"
    )


def _read_tokenizer_json(path: Path) -> tuple[list[tuple[str, str]], dict[str, int], int | None]:
    content: Any = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise BrokenFile("no `model` in it")
    model = content["model"]
    if model.get("type", "BPE") != "BPE" or model.get("end_of_word_suffix") != WORD_END:
        raise BrokenFile("another kind of tokenizer than CLIP's byte-pair encoder")
    merges = _pairs(m if isinstance(m, str) else " ".join(m) for m in model["merges"])
    vocabulary = dict(model["vocab"])
    vocabulary |= {t["content"]: t["id"] for t in content.get("added_tokens") or []}
    return merges, vocabulary, (content.get("truncation") or {}).get("max_length")


def _pairs(lines: Iterable[str]) -> list[tuple[str, str]]:
    pairs = []
    for line in lines:
        if not line.strip():
            continue
        left, right = line.split()
        pairs.append((left, right))
    return pairs
