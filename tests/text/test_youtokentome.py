from pathlib import Path

import pytest

from lascaux.errors import BadInput, BadText, BrokenFile
from lascaux.text.youtokentome import YouTokenToMe
from words import MODEL

# What version 1.0.6 of the package makes of the texts, and back.
KNOWN = [
    ("a red cat", [20, 29, 23, 19], "a red cat"),
    ("  two   red\tcats ", [4, 19, 1, 29, 23, 19, 12], "t<UNK> red cats"),
    ("bananananas aaaa", [4, 8, 21, 21, 21, 21, 5, 12, 20, 5, 5, 5], "bananananas aaaa"),
    ("红色的猫 and a dog", [26, 16, 20, 6, 15, 20, 4, 15, 1], "红色的猫 and a d<UNK>"),
    ("☃☃ a☃b ☃", [4, 1, 20, 1, 8, 4, 1], "<UNK> a<UNK>b <UNK>"),
    ("▁a▁red▁cab", [20, 29, 23, 8], "a red cab"),
    ("", [], ""),
    ("ab\u00a0ab", [20, 8, 1, 5, 8], "ab<UNK>ab"),
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "words.bpe").write_text(MODEL)
    return tmp_path / "words.bpe"


@pytest.mark.parametrize(("text", "ids", "back"), KNOWN)
def test_texts_become_the_ids_that_the_package_gives(path: Path, text: str, ids: list, back: str):
    tokenizer = YouTokenToMe.from_file(path)
    assert tokenizer.vocabulary_size == 34
    assert tokenizer.encode(text) == ids
    assert tokenizer.encode(text) == ids  # the words are remembered now
    assert tokenizer.decode(ids, {0}) == back


def test_marks_are_spelt_out_unless_they_are_ignored(path: Path):
    tokenizer = YouTokenToMe.from_file(path)
    assert tokenizer.decode([2, 20, 0, 3]) == "<BOS> a<PAD><EOS>"
    assert tokenizer.decode([2, 20, 0, 3], {0, 2, 3}) == "a"
    with pytest.raises(BadText, match="id 34; expected 0 to 33"):
        tokenizer.decode([34])


def test_of_two_rules_for_a_pair_the_later_counts():
    characters = {"▁": 4, "a": 5}
    tokenizer = YouTokenToMe(characters, [(4, 5, 6), (4, 5, 7)], (1, 0, 2, 3))
    assert tokenizer.encode("a") == [7]


def test_a_very_long_word_is_encoded_in_time_that_grows_with_it(path: Path):
    assert len(YouTokenToMe.from_file(path).encode("banana" * 20_000)) == 80_001


def test_a_model_is_written_as_it_was_read(path: Path, tmp_path: Path):
    YouTokenToMe.from_file(path).save(tmp_path / "again.bpe")
    assert (tmp_path / "again.bpe").read_text() == MODEL


@pytest.mark.parametrize(
    ("content", "what"),
    [
        ("", "no whole model"),
        ("16 14\n1 2", "numbers where 80 are expected"),
        (MODEL.replace("16 14", "16 13", 1), "80 numbers where 77 are expected"),
        (MODEL.replace("4 5 20", "4 99 20"), "the rule 4 99 20 joins ids"),
        (MODEL.replace("9601 4", "9602 4"), "stands before every word"),
        (MODEL.replace("1 0 2 3", "1 0 2 5"), "id 5 is <EOS> and 'a'"),
        ("a b c", "no whole model"),
        (MODEL.replace("115", "99999999"), "no whole model"),
    ],
)
def test_a_damaged_file_is_refused_with_what_is_wrong(tmp_path: Path, content: str, what: str):
    (tmp_path / "bad.bpe").write_text(content)
    with pytest.raises(BrokenFile, match=what):
        YouTokenToMe.from_file(tmp_path / "bad.bpe")


def test_a_file_that_is_not_there_is_named(tmp_path: Path):
    with pytest.raises(BadInput, match=r"none\.bpe"):
        YouTokenToMe.from_file(tmp_path / "none.bpe")
