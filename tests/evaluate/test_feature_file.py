import copy

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from lascaux.errors import BadInput, Unsupported
from lascaux.evaluate.feature_file import picture_features


@pytest.fixture
def shots():
    draw = np.random.default_rng(2)
    return [Image.fromarray(draw.integers(0, 256, (40, 36, 3), np.uint8)) for _ in range(11)]


class Counting(list):
    """Pictures that count how often one was asked for."""

    asked = 0

    def __getitem__(self, place):
        self.asked += 1
        return super().__getitem__(place)


ABOUT = {"weights": "a", "data": "b"}


def test_a_finished_file_is_an_ordinary_safetensors_file(random_clip, shots, tmp_path):
    file = tmp_path / "f.safetensors"
    rows, failures = picture_features(
        random_clip, shots, "official", batch_size=4, keep=file, about=ABOUT
    )
    assert failures == {}
    with safe_open(file, "pt") as opened:
        assert torch.equal(opened.get_tensor("features"), rows)
        assert opened.metadata() == {"format": "lascaux-features-1", **ABOUT}
    assert [entry.name for entry in tmp_path.iterdir()] == ["f.safetensors"]
    torch.testing.assert_close(rows.norm(dim=1), torch.ones(11))


@pytest.mark.parametrize("cut", [0, 1, 64 * 3, 64 * 4, 64 * 5 + 17, 64 * 10])
def test_a_stopped_run_goes_on_to_the_same_bits(random_clip, shots, tmp_path, cut):
    whole, part = tmp_path / "whole", tmp_path / "part"
    arguments = {"batch_size": 4, "about": ABOUT}
    rows, _ = picture_features(random_clip, shots, "official", keep=whole, **arguments)
    head = whole.stat().st_size - rows.numel() * 4
    part.write_bytes(whole.read_bytes()[: head + cut])
    left = Counting(shots)
    again, _ = picture_features(random_clip, left, "official", keep=part, **arguments)
    assert torch.equal(again, rows)
    assert part.read_bytes() == whole.read_bytes()
    assert left.asked == 11 - cut // 64 // 4 * 4


def test_nothing_is_encoded_again_once_all_is_there(random_clip, shots, tmp_path):
    file = tmp_path / "f"
    rows, _ = picture_features(random_clip, shots, "official", keep=file, about=ABOUT)
    idle = Counting(shots)
    again, _ = picture_features(random_clip, idle, "official", keep=file, about=ABOUT)
    assert torch.equal(again, rows)
    assert idle.asked == 0


def test_what_could_not_be_read_is_tried_again(random_clip, shots, tmp_path):
    file = tmp_path / "f"
    broken = [*shots[:2], b"no picture", *shots[3:]]
    rows, failures = picture_features(
        random_clip, broken, "official", batch_size=4, keep=file, about=ABOUT
    )
    assert list(failures) == [2]
    assert not rows[2].any()
    again, failures = picture_features(
        random_clip, broken, "official", batch_size=4, keep=file, about=ABOUT
    )
    assert list(failures) == [2]
    mended, failures = picture_features(
        random_clip, shots, "official", batch_size=4, keep=file, about=ABOUT
    )
    assert failures == {}
    assert mended[2].any()
    with safe_open(file, "pt") as opened:
        assert torch.equal(opened.get_tensor("features"), mended)
    assert torch.equal(again[3:], mended[3:])


def test_rows_that_are_no_embeddings_are_made_again(random_clip, shots, tmp_path):
    file = tmp_path / "f"
    rows, _ = picture_features(random_clip, shots, "official", keep=file, about=ABOUT)
    whole = bytearray(file.read_bytes())
    damaged = whole.copy()
    damaged[-64 * 3 : -64 * 2] = b"\xff" * 64
    damaged[-64:] = bytes(64)
    file.write_bytes(damaged)
    again, failures = picture_features(random_clip, shots, "official", keep=file, about=ABOUT)
    assert failures == {}
    torch.testing.assert_close(again, rows)
    assert np.frombuffer(file.read_bytes()[-64:], np.float32).any()


def test_embeddings_that_are_not_finite_are_no_answers(random_clip, shots, tmp_path):
    broken = copy.deepcopy(random_clip)
    torch.nn.init.constant_(broken.image.project.weight, float("nan"))
    with pytest.raises(Unsupported, match=r"picture 0 is not finite in torch\.float32"):
        picture_features(broken, shots, "official", keep=tmp_path / "f", about=ABOUT)


def test_a_file_of_something_else_is_refused_and_left_as_it_is(random_clip, shots, tmp_path):
    file = tmp_path / "f"
    picture_features(random_clip, shots, "official", keep=file, about=ABOUT)
    before = file.read_bytes()
    for about, reason in (({**ABOUT, "weights": "c"}, "other weights"), ({"weights": "a"}, "run")):
        with pytest.raises(BadInput, match=reason):
            picture_features(random_clip, shots, "official", keep=file, about=about)
    with pytest.raises(BadInput, match="other number of pictures"):
        picture_features(random_clip, shots[:5], "official", keep=file, about=ABOUT)
    assert file.read_bytes() == before
    for content in (b"", b"a letter to my aunt", b"\x10\0\0\0\0\0\0\0" + b'{"a": 1}        '):
        file.write_bytes(content)
        with pytest.raises(BadInput, match="holds no features of pictures; name another"):
            picture_features(random_clip, shots, "official", keep=file, about=ABOUT)
        assert file.read_bytes() == content


def test_progress_tells_of_every_picture(random_clip, shots):
    seen = []
    picture_features(
        random_clip, shots, "official", batch_size=4, progress=lambda *now: seen.append(now)
    )
    assert seen == [(count, 11) for count in range(1, 12)]
