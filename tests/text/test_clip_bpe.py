import gzip
import html
import json
import os
import pickle
import random
import re
import subprocess
import sys
import time
import warnings
from functools import cache
from itertools import pairwise
from pathlib import Path

import ftfy
import pytest
import regex
import torch
from jaxtyping import TypeCheckError
from safetensors.torch import load_file
from tokenizers import Tokenizer

from lascaux.errors import BadInput, BadText, BrokenFile
from lascaux.text import ClipTokenizer, TextCutWarning
from lascaux.text.clip_bpe import _PLAIN, _text, _texts, clean
from lascaux.text.merging import count_words, join, learn_merges, short_names
from lascaux.text.vocabulary import byte_symbols

ROOT = Path(__file__).resolve().parents[2]
CASE = ROOT / "tests" / "golden" / "clip" / "tokens"
VOCABULARY = Path(
    os.environ.get("LASCAUX_CLIP_VOCABULARY")
    or ROOT / "build" / "vocabulary" / "bpe_simple_vocab_16e6.txt.gz"
)
needs_vocabulary = pytest.mark.skipif(
    not VOCABULARY.exists(),
    reason=f"no {VOCABULARY}: run `make vocabulary`, or set LASCAUX_CLIP_VOCABULARY",
)

CAPTIONS = [
    "a photo of a red cat",
    "a photo of a green dog",
    "a drawing of a red dog at night",
    "two cats and a dog",
    "一张红色背景上的猫的图片",
    "一张绿色背景上的狗的图片",
    "一只猫和一只狗",
    "猫",
    "狗",
    "红色",
    "绿色",
] * 4


@cache
def openai() -> ClipTokenizer:
    return ClipTokenizer.from_file(VOCABULARY)


@cache
def small() -> ClipTokenizer:
    return ClipTokenizer.train(CAPTIONS, 700, 16)


class PlainTokenizer:
    """The published algorithm written out plainly: one regular expression, one loop over merges."""

    def __init__(self, merges, vocabulary):
        self.rank = {pair: i for i, pair in enumerate(merges)}
        self.vocabulary = vocabulary
        self.symbols = {}
        for i, symbol in enumerate(byte_symbols()):
            self.symbols[
                [*range(33, 127), *range(161, 173), *range(174, 256)][i]
                if i < 188
                else [*range(33), *range(127, 161), 173][i - 188]
            ] = symbol
        self.pattern = regex.compile(
            r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d"
            r"|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+",
            regex.IGNORECASE,
        )

    def clean(self, text):
        text = html.unescape(html.unescape(ftfy.fix_text(text))).strip()
        return regex.sub(r"\s+", " ", text).strip().lower()

    def encode(self, text):
        ids = []
        for piece in self.pattern.findall(self.clean(text)):
            if piece in ("<|startoftext|>", "<|endoftext|>"):
                ids.append(self.vocabulary[piece])
                continue
            word = [self.symbols[byte] for byte in piece.encode()]
            word[-1] += "</w>"
            while len(word) > 1:
                pairs = list(pairwise(word))
                best = min(pairs, key=lambda pair: self.rank.get(pair, float("inf")))
                if best not in self.rank:
                    break
                word = join(word, best)
            ids += [self.vocabulary[symbol] for symbol in word]
        return ids


@cache
def plain_openai() -> PlainTokenizer:
    lines = gzip.decompress(VOCABULARY.read_bytes()).decode().split("\n")[1:48895]
    merges = [tuple(line.split()) for line in lines]
    symbols = byte_symbols()
    names = [*symbols, *(s + "</w>" for s in symbols), *("".join(m) for m in merges)]
    names += ["<|startoftext|>", "<|endoftext|>"]
    return PlainTokenizer(merges, {name: i for i, name in enumerate(names)})


def plain_small() -> PlainTokenizer:
    return PlainTokenizer(small()._merges, small()._vocabulary)


SNIPPETS = [
    "<|startoftext|>", "<|endoftext|>", "<|ENDOFTEXT|>", "<|StartOfText|>",
    "<|endoftext", "|>", "<|\u017ftartoftext|>", "'s", "'S", "'\u017f", "'t", "'RE",
    "'ve", "'m", "'LL", "'d", "''", "’s", "don't", "12", "3.14", "٣", "Ⅳ", "½",
    "café", "cafe\u0301", "\u0345", "a\u0345b", "ᾳ", "Å", "İ", "ı", "I", "ẞ", "ß",
    "ﬁ", "\u017f", "K", "😀", "👩\u200d👩\u200d👧", "🇨🇳", "👍🏽", "❤️", "&amp;",
    "&amp;amp;", "&#39;", "&#0;", "&#28;", "&amp;#xD800;", "&amp;#64262;", "&nbsp;",
    "&notit;", "&", "<", "\x00", "\x0b", "\x0c", "\x1b[31m", "\x1c", "\x7f", "\x85",
    "\xa0", "\u2028", "\u3000", "\u200b", "\ufeff", "\ud800", "\udc00",
    "\ud83d\ude00", "Ã©", "â€œ", "’", "中文", "，", "ﾊﾝｶｸ", "한국어", "หวัส", "नमस्ते",
    "_", "-", "...", " ", "  ", "\t", "\n", "\r\n", "a", "Word", "{}", "\U0001e6c0",
    "�",
]  # fmt: skip


def random_texts(seed, count):
    draw = random.Random(seed)
    texts = []
    for _ in range(count):
        parts = []
        for _ in range(draw.randrange(1, 9)):
            kind = draw.random()
            if kind < 0.6:
                parts.append(draw.choice(SNIPPETS))
            elif kind < 0.75:
                parts.append("".join(chr(draw.randrange(32, 127)) for _ in range(5)))
            elif kind < 0.9:
                parts.append("".join(chr(draw.randrange(0x3000)) for _ in range(3)))
            else:
                parts.append(chr(draw.randrange(0x110000)))
        texts.append("".join(parts))
    return texts


@pytest.mark.parametrize("bad", [None, 3, b"cat"])
def test_what_is_neither_a_text_nor_several_is_refused(bad):
    with pytest.raises(BadText, match="expected a str or several"):
        _texts(bad)


@needs_vocabulary
def test_ids_and_decoded_texts_are_those_of_the_golden_case():
    config = json.loads((CASE / "manifest.json").read_text())["config"]
    expected = load_file(CASE / "tensors.safetensors")
    texts = config["texts"]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", TextCutWarning)
        full = openai()(texts)
        short = openai()(texts, context_length=config["short_context_length"])
    assert full.dtype == torch.int64
    assert torch.equal(full, expected["out.tokens"].long())
    assert torch.equal(short, expected["out.tokens_ctx16"].long())
    rows = openai().encode(texts)
    assert [len(row) + 2 for row in rows] == expected["out.full_length"].tolist()
    assert [openai().decode(row) for row in rows] == config["decoded"]
    for text, refused in zip(texts, expected["out.raises"].tolist(), strict=True):
        if refused:
            with pytest.raises(BadText, match="at most 77 fit"):
                openai()(text, too_long="error")
        else:
            assert openai()(text, too_long="error").shape == (1, 77)


@needs_vocabulary
@pytest.mark.parametrize("seed", range(4))
def test_random_texts_get_the_ids_of_the_plain_algorithm(seed):
    texts = random_texts(seed, 500)
    for text, row in zip(texts, openai().encode(texts), strict=True):
        assert row == plain_openai().encode(text), repr(text)
        assert openai()._pieces(clean(text)).ids == row, repr(text)


def test_random_texts_get_the_ids_of_the_plain_algorithm_in_a_trained_vocabulary():
    texts = random_texts(9, 300) + CAPTIONS
    plain = plain_small()
    for text, row in zip(texts, small().encode(texts), strict=True):
        assert row == plain.encode(text), repr(text)


def test_every_character_falls_into_the_published_piece():
    published = plain_small().pattern
    splitter = small()._rust.pre_tokenizer
    if regex.__version__ < "2026":
        pytest.skip("this release of regex knows fewer letters than the recorded one")
    for start in range(0, 0x110000, 4096):
        block = range(start, start + 4096)
        # Between two letters, so that it shows whether the character joins them.
        text = " ".join(f"a{chr(c)}b" for c in block if not 0xD800 <= c < 0xE000)
        ours = [text[a:b] for _, (a, b) in splitter.pre_tokenize_str(text)]
        assert ours == published.findall(text), f"in the block from {start:#x}"


def test_cleaning_of_plain_ascii_without_repair_equals_the_full_cleaning():
    draw = random.Random(3)
    plain = plain_small()
    alphabet = [chr(c) for c in range(128) if _PLAIN.fullmatch(chr(c))]
    assert len(alphabet) == 98
    texts = [a + b for a in alphabet for b in alphabet]
    texts += ["".join(draw.choices(alphabet, k=draw.randrange(40))) for _ in range(2000)]
    texts += ["<b>a</b> &lt", "100% a;b", "\r\n\r a \x0c\x0c b\t\t", "#38;", "\\x1b[31m"]
    for text in texts:
        assert clean(text) == plain.clean(text), repr(text)


def test_blanks_are_those_of_the_published_pattern_wherever_cleaning_leaves_them():
    characters = "".join(map(chr, range(0x110000)))
    differing = set(regex.findall(r"\s", characters)) ^ set(re.findall(r"\s", characters))
    assert differing
    for character in differing:
        assert ftfy.fix_text(f"a{character}b") == "ab"
        assert html.unescape(f"&#{ord(character)};") == ""


def test_lone_surrogates_read_as_replacement_characters():
    assert small().encode(["a\ud800b"]) == small().encode(["a\ufffdb"])


def test_one_text_and_a_list_of_one_give_the_same_row():
    assert torch.equal(small()("a red cat"), small()(["a red cat"]))
    assert small().encode("a red cat") == small().encode(["a red cat"])
    assert small()([]).shape == (0, 16)
    assert small()("").tolist() == [[small().start_id, small().end_id] + [0] * 14]


def test_a_cut_text_ends_in_the_end_marker_and_the_warning_shows_what_is_missing():
    text = "a red cat " * 5 + "and the last words"
    with pytest.warns(TextCutWarning, match="left out: .*and the last words") as caught:
        ids = small()(["a cat", text])
    assert ids[1, -1] == small().end_id
    assert ids[1, 1:-1].tolist() == small().encode([text])[0][:14]
    assert "text 1 has" in str(caught[0].message)


def test_one_warning_tells_of_all_cut_texts():
    with pytest.warns(TextCutWarning, match="and 2 more texts were cut") as caught:
        small()(["a red cat and a green dog " * 4] * 3)
    assert len(caught) == 1


def test_a_text_that_just_fits_is_not_cut():
    text = "cat dog " * 7
    assert len(small().encode([text])[0]) == 14
    assert small()(text, too_long="error")[0, -1] == small().end_id


@pytest.mark.parametrize(
    ("too_long", "advice"), [("error", "shorten"), ("average", "encode_chunks")]
)
def test_a_too_long_text_is_refused_with_advice(too_long, advice):
    with pytest.raises(BadText, match=advice):
        small()("a red cat " * 9, too_long=too_long)


def test_an_unknown_way_with_long_texts_is_refused():
    # Called from Python without type checks, the message is the library's own.
    with pytest.raises((BadInput, TypeCheckError), match="too_long"):
        small()("a", too_long="cut")


@pytest.mark.parametrize("bad", [None, 3, b"cat", ["cat"]])
def test_what_is_no_text_is_refused_by_its_type(bad):
    with pytest.raises(BadText, match=f"text 7 is of type {type(bad).__name__}; expected"):
        _text(bad, 7)


def _unpadded(rows, tokenizer):
    for row in rows:
        assert len(row) == tokenizer.context_length
        end = row.index(tokenizer.end_id)
        assert row[0] == tokenizer.start_id
        assert not any(row[end + 1 :])
        yield row[1:end]


@pytest.mark.parametrize("seed", range(20))
def test_chunks_hold_every_token_once_and_are_parted_between_words(seed):
    draw = random.Random(seed)
    words = ["cat", "red", "photo", "don't", "(night)", "dogs,", "drawing-of", "12", "猫和"]
    text = " ".join(draw.choices(words, k=60))
    chunks = list(_unpadded(small().encode_chunks(text), small()))
    assert [i for chunk in chunks for i in chunk] == small().encode([text])[0]
    single = {word: small().encode([word])[0] for word in words}
    left = text.split()
    for chunk in chunks:
        while chunk:
            word = single[left.pop(0)]
            assert chunk[: len(word)] == word
            chunk = chunk[len(word) :]
    assert not left


def test_chunks_are_as_few_as_whole_words_allow():
    rows = small().encode_chunks(" ".join(["cat"] * 29))
    assert [len(chunk) for chunk in _unpadded(rows, small())] == [14, 14, 1]


def test_a_word_longer_than_a_row_is_parted_between_characters():
    text = "a cat " + "鸟☃" * 3 + "鼠" * 30
    chunks = list(_unpadded(small().encode_chunks(text), small()))
    assert [i for chunk in chunks for i in chunk] == small().encode([text])[0]
    assert not any("\ufffd" in small().decode(chunk) for chunk in chunks)


def test_a_word_that_fits_a_row_is_moved_to_the_next_one_whole():
    word = "zqzqzqzqzqzq"
    assert 4 < len(small().encode([word])[0]) <= 14
    chunks = list(_unpadded(small().encode_chunks("cat " * 10 + word), small()))
    assert chunks[-1] == small().encode([word])[0]


def test_a_text_that_fits_has_one_chunk_equal_to_its_row():
    assert small().encode_chunks("a red cat") == small()("a red cat").tolist()
    assert small().encode_chunks("") == small()("").tolist()


def test_markers_typed_in_a_long_text_stay_whole_in_chunks():
    text = "cat <|endoftext|> " * 12
    rows = small().encode_chunks(text)
    tokens = [i for row in rows for i in row if i]
    assert tokens.count(small().end_id) == 12 + len(rows)


def test_decoding_takes_tensors_and_gives_blanks_at_word_ends():
    assert small().decode(small()("A red cat")[0][:5]) == "<|startoftext|>a red cat <|endoftext|>"
    assert small().decode([]) == ""


def test_decoding_half_a_character_gives_a_replacement_character():
    ids = small().encode(["☃"])[0]
    assert len(ids) == 3
    assert small().decode(ids[:1]) == "\ufffd"


@pytest.mark.parametrize("bad", [-1, 10**6])
def test_decoding_an_unknown_id_is_refused(bad):
    with pytest.raises(BadText, match="expected 0 to"):
        small().decode([bad])


def test_training_gives_the_same_vocabulary_in_every_process():
    program = (
        "from lascaux.text import ClipTokenizer; import json, sys;"
        "t = ClipTokenizer.train(json.load(sys.stdin), 700, 16); print(hash(0), t._merges)"
    )
    printed = set()
    for seed in ("1", "2"):
        environment = {**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(ROOT / "src")}
        finished = subprocess.run(
            [sys.executable, "-c", program],
            input=json.dumps(CAPTIONS),
            capture_output=True,
            text=True,
            env=environment,
            check=True,
        )
        printed.add(finished.stdout)
    assert len(printed) == 1


def test_training_covers_every_byte_so_that_any_text_comes_back():
    bare = ClipTokenizer.train([], 514, 16)
    assert bare.vocabulary_size == 514
    for text in ["hello", "鸟☃😀", "".join(map(chr, range(0xA1, 0x250)))]:
        assert bare.decode(bare.encode([text])[0]).replace(" ", "") == clean(text).replace(" ", "")


def test_training_makes_frequent_words_single_tokens_in_both_languages():
    for word in ["photo", "red", "cat", "dog", "猫", "狗", "红色", "绿色"]:
        assert len(small().encode([word])[0]) == 1, word
    assert [small().decode([i]) for i in small().encode(["红色的猫"])[0]] == ["红色", "的", "猫 "]


def test_training_takes_words_of_unspaced_scripts_that_no_text_holds_alone():
    texts = ["一张消防车的图片", "一张消防员的图片", "大消防车上的猫"] * 3
    plain = ClipTokenizer.train(texts, 900, 16)
    told = ClipTokenizer.train(texts, 900, 16, words=["消防车", "消防员"])
    assert len(plain.encode(["消防车"])[0]) > 1
    assert len(told.encode(["消防车"])[0]) == 1


def test_training_reaches_the_size_asked_for_and_not_more():
    assert ClipTokenizer.train(CAPTIONS, 530, 16).vocabulary_size == 530
    assert small().vocabulary_size <= 700


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [((["a"], 513, 16), "514"), ((["a"], 600, 2), "at least 3"), (("abc", 600, 16), "one string")],
)
def test_training_refuses_what_cannot_work(arguments, reason):
    with pytest.raises(BadInput, match=reason):
        ClipTokenizer.train(*arguments)


def test_learnt_merges_are_those_of_recounting_after_every_merge():
    draw = random.Random(5)
    words = {
        tuple(draw.choices("abcd", k=draw.randrange(1, 9))): draw.randrange(1, 5) for _ in range(60)
    }
    state, known, expected = dict(words), set(), []
    while len(known) < 40:
        counts = {}
        for symbols, count in state.items():
            for pair in pairwise(symbols):
                counts[pair] = counts.get(pair, 0) + count
        allowed = {p: c for p, c in counts.items() if c >= 2}
        if not allowed:
            break
        best = min(allowed, key=lambda pair: (-allowed[pair], pair))
        expected.append(best)
        known.add("".join(best))
        merged = {}
        for symbols, count in state.items():
            after = tuple(join(list(symbols), best))
            merged[after] = merged.get(after, 0) + count
        state = merged
    assert len(known) > 20
    assert learn_merges(words, len(known)) == expected


def test_only_short_names_without_other_words_count_as_words():
    alone = {"红色", "猫", "红色的猫", "消防车", "大消防车", "一张红的图片", "cat", "天坛"}
    assert short_names(alone, {"天坛"}) == {"红色", "猫", "消防车"}


def test_words_of_unspaced_scripts_count_inside_and_at_the_end():
    counts = count_words({"红色的猫": 2, "catalogue": 1}, {"红色", "红", "猫", "cat"})
    assert counts["红色", False] == counts["红色", True] == counts["猫", False] == 2
    assert counts["的", True] == 2
    assert counts["catalogue", True] == 1
    assert ("红", True) not in counts
    assert ("cat", True) not in counts


def test_a_saved_tokenizer_is_read_back_equal(tmp_path):
    small().save(tmp_path / "new" / "tokenizer.json")
    for source in (tmp_path / "new" / "tokenizer.json", tmp_path / "new"):
        again = ClipTokenizer.from_file(source)
        assert (again.context_length, again.vocabulary_size) == (16, small().vocabulary_size)
        assert (again.start_id, again.end_id) == (small().start_id, small().end_id)
        texts = random_texts(1, 100) + CAPTIONS
        assert again.encode(texts) == small().encode(texts)
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["tokenizer.json"]


def test_a_saved_tokenizer_gives_other_readers_the_same_rows_of_ascii_text(tmp_path):
    small().save(tmp_path / "tokenizer.json")
    other = Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    texts = ["A red cat", "  two\tdogs ", "it's 12", "a red cat and a green dog " * 3]
    with pytest.warns(TextCutWarning):
        expected = small()(texts).tolist()
    assert [row.ids for row in other.encode_batch(texts)] == expected
    assert other.decode(small().encode(["a red cat"])[0]) == "a red cat "


def _hub_tokenizer(folder, *, merges_as_pairs):
    """A tokenizer.json as the hub carries it for CLIP: a normaliser of its own, no limit."""
    merges = [list(m) if merges_as_pairs else " ".join(m) for m in openai()._merges]
    vocabulary = openai()._vocabulary
    content = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": 49406, "content": "<|startoftext|>", "special": True},
            {"id": 49407, "content": "<|endoftext|>", "special": True},
        ],
        "normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}]},
        "model": {
            "type": "BPE",
            "unk_token": "<|endoftext|>",
            "end_of_word_suffix": "</w>",
            "vocab": vocabulary,
            "merges": merges,
        },
    }
    (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")


@needs_vocabulary
@pytest.mark.parametrize("merges_as_pairs", [True, False])
def test_a_tokenizer_json_of_the_hub_gives_openai_ids(tmp_path, merges_as_pairs):
    _hub_tokenizer(tmp_path, merges_as_pairs=merges_as_pairs)
    texts = json.loads((CASE / "manifest.json").read_text())["config"]["texts"]
    read = ClipTokenizer.from_file(tmp_path)
    assert read.context_length == 77
    assert read.encode(texts) == openai().encode(texts)


@needs_vocabulary
def test_a_folder_with_vocabulary_and_merges_gives_openai_ids(tmp_path):
    (tmp_path / "vocab.json").write_text(json.dumps(openai()._vocabulary), encoding="utf-8")
    lines = ["#version: 0.2", *(" ".join(m) for m in openai()._merges), ""]
    (tmp_path / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text('{"model_max_length": 77}')
    texts = json.loads((CASE / "manifest.json").read_text())["config"]["texts"]
    assert ClipTokenizer.from_file(tmp_path).encode(texts) == openai().encode(texts)


@needs_vocabulary
def test_the_unpacked_vocabulary_reads_like_the_packed_one(tmp_path):
    (tmp_path / "vocabulary.txt").write_bytes(gzip.decompress(VOCABULARY.read_bytes()))
    read = ClipTokenizer.from_file(tmp_path / "vocabulary.txt")
    assert read._vocabulary == openai()._vocabulary
    assert read.vocabulary_size == 49408


def test_a_recorded_limit_of_another_folder_is_kept(tmp_path):
    small().save(tmp_path / "tokenizer.json")
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    content["truncation"] = None
    (tmp_path / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    for recorded, expected in [(32, 32), (10**30, 77)]:
        (tmp_path / "tokenizer_config.json").write_text(json.dumps({"model_max_length": recorded}))
        assert ClipTokenizer.from_file(tmp_path).context_length == expected
    assert ClipTokenizer.from_file(tmp_path, context_length=9).context_length == 9


def test_files_that_hold_no_such_vocabulary_are_refused_by_name(tmp_path):
    with pytest.raises(BadInput, match="no tokenizer at"):
        ClipTokenizer.from_file(tmp_path / "absent")
    with pytest.raises(BadInput, match="no tokenizer in"):
        ClipTokenizer.from_file(tmp_path)
    word_piece = {"model": {"type": "WordPiece", "vocab": {}}}
    for name, content in [
        ("cut.txt.gz", gzip.compress(b"#version\na b\n" * 100)[:30]),
        ("words.json", json.dumps(word_piece).encode()),
        ("broken.json", b'{"model": '),
        ("list.json", b"[]"),
        ("picture.txt", b"\xff\xd8\xff\xe0 no text"),
        ("letter.txt", b"Dear reader,\nthis is not a vocabulary.\n"),
        ("merges.txt", b"#version\na b\na b\n"),
        ("gap.json", json.dumps({"model": {"type": "BPE", "end_of_word_suffix": "</w>",
                                           "vocab": {"a": 0}, "merges": []}}).encode()),
    ]:  # fmt: skip
        (tmp_path / name).write_bytes(content)
        with pytest.raises(BrokenFile, match=re.escape(name)):
            ClipTokenizer.from_file(tmp_path / name)


def test_a_failed_save_leaves_nothing_behind(tmp_path, monkeypatch):
    def refuse(source, target):
        raise OSError("disk full")

    monkeypatch.setattr(os, "replace", refuse)
    with pytest.raises(OSError, match="disk full"):
        small().save(tmp_path / "tokenizer.json")
    assert list(tmp_path.iterdir()) == []


def test_a_tokenizer_survives_pickling():
    assert pickle.loads(pickle.dumps(small())).encode(CAPTIONS) == small().encode(CAPTIONS)


def test_ten_thousand_short_texts_take_well_under_a_few_seconds():
    texts = [f"a photo of a red cat number {i}" for i in range(10_000)]
    tokenizer = ClipTokenizer.train(CAPTIONS, 700, 32)
    started = time.process_time()
    tokenizer(texts)
    assert time.process_time() - started < 5


def test_texts_in_a_batch_do_not_change_each_other():
    texts = random_texts(2, 50)
    together = small().encode(texts)
    assert together == [small().encode([text])[0] for text in texts]
