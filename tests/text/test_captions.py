import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers, processors

from lascaux.errors import BadInput, BadText, BrokenFile
from lascaux.text.captions import CaptionTokenizer, read_caption_tokenizer
from lascaux.text.clip_bpe import ClipTokenizer
from words import MODEL

WORDS = [
    "[PAD]",
    "[UNK]",
    "[CLS]",
    "[SEP]",
    "[MASK]",
    "红",
    "色",
    "猫",
    "Cat",
    "cat",
    "##s",
    "a",
    ",",
]


def write(folder: Path, kind: str) -> Path:
    """A small tokeniser of each kind, as its publisher's file."""
    if kind == "yttm":
        path = folder / "words.model"
        path.write_text(MODEL)
    elif kind == "bert":
        path = folder / "vocab.txt"
        path.write_text("\n".join(WORDS) + "\n", encoding="utf-8")
    elif kind == "clip":
        path = folder / "tokenizer.json"
        ClipTokenizer.train(["a red cat", "a red cat"], 600).save(path)
    else:
        path = folder / "words.json"
        rust = Tokenizer(models.WordLevel({"[UNK]": 0, "a": 1, "cat": 2, "<s>": 3}, "[UNK]"))
        rust.pre_tokenizer = pre_tokenizers.Whitespace()
        rust.post_processor = processors.TemplateProcessing(
            single="<s> $A", special_tokens=[("<s>", 3)]
        )
        rust.enable_padding(length=7)
        rust.save(str(path))
    return path


def read(folder: Path, kind: str) -> CaptionTokenizer:
    return read_caption_tokenizer(write(folder, kind))


every = pytest.mark.parametrize("kind", ["yttm", "bert", "clip", "json"])


@every
def test_texts_are_filled_with_zeros_and_come_back(tmp_path: Path, kind: str):
    tokenizer = read(tmp_path, kind)
    ids = tokenizer.tokenize(["a cat", "a"], 8)
    assert ids.shape == (2, 8)
    assert ids[0, -1] == 0
    assert tokenizer.decode(ids[0]).strip() == "a cat"
    assert tokenizer.decode(ids[1]).strip() == "a"
    assert 0 < int(ids.max()) < tokenizer.vocabulary_size


@every
def test_a_saved_tokeniser_is_found_in_its_folder_and_gives_the_same_ids(tmp_path: Path, kind: str):
    tokenizer = read(tmp_path, kind)
    (tmp_path / "saved").mkdir()
    tokenizer.save(tmp_path / "saved")
    again = read_caption_tokenizer(tmp_path / "saved")
    texts = ["a cat, a red cat", "cats and 红猫"]
    assert again.vocabulary_size == tokenizer.vocabulary_size
    assert again.tokenize(texts, 40).tolist() == tokenizer.tokenize(texts, 40).tolist()


@every
def test_a_long_text_is_refused_or_cut(tmp_path: Path, kind: str):
    tokenizer = read(tmp_path, kind)
    whole = tokenizer.tokenize("a cat " * 10, 100)
    with pytest.raises(BadText, match=r"text 1 has \d+ tokens, and 5 can be read"):
        tokenizer.tokenize(["a", "a cat " * 10], 5)
    assert (tokenizer.tokenize("a cat " * 10, 5, truncate=True) == whole[:, :5]).all()


@every
def test_an_empty_text_is_refused(tmp_path: Path, kind: str):
    tokenizer = read(tmp_path, kind)
    with pytest.raises(BadText, match="text 0 is empty"):
        tokenizer.tokenize("  ", 5)


@every
def test_ids_that_fill_are_left_out_and_ids_that_there_are_not_refused(tmp_path: Path, kind: str):
    tokenizer = read(tmp_path, kind)
    ids = tokenizer.tokenize("a cat", 8)[0].tolist()
    more = tokenizer.vocabulary_size + 5  # what a DALL-E fills a text with
    assert tokenizer.decode([*ids, more], ignored={more}) == tokenizer.decode(ids)
    with pytest.raises(BadText, match=f"id {more}"):
        tokenizer.decode([more])


def test_word_pieces_part_chinese_characters_and_keep_case(tmp_path: Path):
    tokenizer = read(tmp_path, "bert")
    assert tokenizer.encoder.encode("红色猫, a Cat cats dog") == [5, 6, 7, 12, 11, 8, 9, 10, 1]
    assert tokenizer.encoder.encode("[MASK]a") == [4, 11]
    assert tokenizer.decode([5, 6, 9, 10, 12, 11, 2]) == "红 色 cats, a [CLS]"


def test_a_tokenizer_config_beside_it_says_whether_case_matters(tmp_path: Path):
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"do_lower_case": True}))
    tokenizer = read(tmp_path, "bert")
    assert tokenizer.encoder.encode("CAT") == [9]
    (tmp_path / "saved").mkdir()
    tokenizer.save(tmp_path / "saved")
    assert read_caption_tokenizer(tmp_path / "saved").encoder.encode("CAT") == [9]


def test_a_line_separator_may_be_a_word_of_its_own(tmp_path: Path):
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\n\u2028\na\n", encoding="utf-8")
    assert read_caption_tokenizer(tmp_path / "vocab.txt").vocabulary_size == 4


def test_a_tokenizer_json_adds_no_markers_and_no_padding_of_its_own(tmp_path: Path):
    tokenizer = read(tmp_path, "json")
    assert tokenizer.encoder.encode("a cat") == [1, 2]
    assert tokenizer.vocabulary_size == 4


def test_clip_s_markers_are_not_added_and_left_out(tmp_path: Path):
    tokenizer = read(tmp_path, "clip")
    clip = ClipTokenizer.from_file(tmp_path / "tokenizer.json")
    row = clip("a red cat")[0].tolist()
    ids = tokenizer.tokenize("a red cat", 77)[0].tolist()
    assert [clip.start_id, *ids[: row.index(clip.end_id) - 1]] == row[: row.index(clip.end_id)]
    assert tokenizer.decode(row) == "a red cat "


@pytest.mark.parametrize(
    ("name", "content", "what"),
    [
        ("tokenizer.json", b"{", "is no tokenizer.json"),
        ("tokenizer.json", b'{"a": 1}', "is no tokenizer.json"),
        ("words.bpe", b"\xff\xfe\x00", "no text tokeniser"),
        ("words.bpe", b"12 13\n1", "no whole model of YouTokenToMe"),
        ("vocab.txt", b"[PAD]\n[UNK]\na\na\n", "a word occurs twice"),
        ("notes.txt", b"some notes of mine\n", "is no text tokeniser that is known"),
    ],
)
def test_other_files_are_refused(tmp_path: Path, name: str, content: bytes, what: str):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(BrokenFile, match=what):
        read_caption_tokenizer(tmp_path / name)


def test_a_place_without_a_tokeniser_is_named(tmp_path: Path):
    with pytest.raises(BadInput, match=r"no text tokeniser in .*tokenizer\.bpe"):
        read_caption_tokenizer(tmp_path)
    with pytest.raises(BadInput, match="expected a file or a folder"):
        read_caption_tokenizer(tmp_path / "none")
