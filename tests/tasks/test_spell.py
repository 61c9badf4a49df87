import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image

import lascaux
from lascaux.errors import BadInput, BadPicture, BrokenFile, Unsupported
from lascaux.images.preprocess import pixels
from lascaux.tasks import Failed, Speller, Spelling, read_spellings, write_spellings
from lascaux.tasks.results import as_json
from lascaux.tasks.tiles import decode_tiled, encode_tiled, seams
from lascaux.weights.fingerprint import weights_hash
from tokenisers import Tones, tiny_tokeniser

KINDS = ("vqgan", "dvae", "discrete-vae")


def drawn(seed=0, size=(50, 40)):
    rng = np.random.Generator(np.random.PCG64([seed]))
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


@pytest.fixture(scope="module", params=KINDS)
def saved(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / request.param
    lascaux.save(tiny_tokeniser(request.param), folder)
    return folder


@pytest.fixture(scope="module")
def speller(saved):
    return Speller(saved, batch_size=2)


@pytest.fixture(scope="module")
def vqgan():
    return tiny_tokeniser("vqgan")


def test_ids_are_those_of_the_model_for_its_published_square(speller):
    model, picture = speller.tokeniser.model, drawn()
    spelling = speller.spell(picture)
    x, _ = pixels([picture], model.config.preprocessing)
    with torch.no_grad():
        ids = model.encode(model.normalise(x))
    assert list(spelling.ids) == ids[0].tolist()
    assert len(set(spelling.ids)) > 1
    assert spelling.grid == model.grid(x) == (8, 8)
    assert (spelling.codes, spelling.weights) == (model.codes, weights_hash(model))
    assert spelling.model == str(speller.tokeniser.name)
    assert spelling.bits == pytest.approx(64 * math.log2(model.codes))


def test_what_was_spelt_is_unspelt_to_what_the_model_decodes(speller):
    model = speller.tokeniser.model
    found = speller.reconstruct(drawn())
    ids = torch.tensor([found.spelling.ids])
    with torch.no_grad():
        x = model.denormalise(model.decode_ids(ids, found.spelling.grid)).clamp(0, 1)
    expected = (x[0] * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
    assert np.array_equal(np.asarray(found.picture), expected)
    assert speller.unspell(found.spelling).tobytes() == found.picture.tobytes()
    assert found.seen.size == found.picture.size == (32, 32)
    assert found.bits_per_pixel == pytest.approx(found.spelling.bits / 1024)
    assert found.seams is None


def test_a_picture_is_spelt_alike_alone_and_among_others(speller):
    pictures = [drawn(seed) for seed in range(5)]
    together = list(speller.spell_many(pictures))
    assert [replace(one, source="") for one in together] == [
        replace(speller.spell(picture), source="") for picture in pictures
    ]


def test_broken_pictures_fail_in_their_places(speller, tmp_path):
    for number in range(4):
        drawn(number).save(tmp_path / f"{number}.png")
    (tmp_path / "1.png").write_bytes(b"no picture")
    (tmp_path / "2.png").write_bytes(b"")
    found = list(speller.reconstruct_many(tmp_path))
    assert [isinstance(one, Failed) for one in found] == [False, True, True, False]
    assert found[1].source == str(tmp_path / "1.png")
    assert found[3].spelling.source == str(tmp_path / "3.png")
    with pytest.raises(BadPicture, match="not a picture"):
        speller.spell(tmp_path / "1.png")
    with pytest.raises(BadInput, match="several pictures"):
        speller.spell([drawn()])


def test_another_size_gives_another_grid_and_only_multiples_are_taken(vqgan):
    assert Speller(vqgan, size=48).spell(drawn()).grid == (12, 12)
    with pytest.raises(BadInput, match="multiples of 4: take 48"):
        Speller(vqgan, size=50)


def test_a_whole_picture_is_read_in_tiles(vqgan):
    speller, picture = Speller(vqgan, tile=True), drawn(size=(91, 58))
    found = speller.reconstruct(picture)
    whole = picture.crop((1, 1, 89, 57))  # what is over is cut off on both sides
    assert found.seen.tobytes() == whole.tobytes()
    assert found.spelling.grid == (14, 22)
    x = torch.from_numpy(np.array(whole)).permute(2, 0, 1)[None].float() / 255
    ids, grid = encode_tiled(vqgan, vqgan.normalise(x), speller.tokeniser.tiles)
    assert list(found.spelling.ids) == ids[0].tolist()
    back = vqgan.denormalise(decode_tiled(vqgan, ids, grid, speller.tokeniser.tiles)).clamp(0, 1)
    assert found.seams == seams(back, 4, speller.tokeniser.tiles)
    assert speller.unspell(found.spelling).tobytes() == found.picture.tobytes()


def test_a_whole_picture_that_is_one_tile_has_no_borders(vqgan):
    speller = Speller(vqgan, tile=True, size=20)
    found = speller.reconstruct(drawn(size=(60, 40)))
    assert found.seen.size == (28, 20)
    assert found.seams is None
    with pytest.raises(BadPicture, match="at least 4 on each side"):
        Speller(vqgan, tile=True).spell(drawn(size=(30, 3)))


def test_tokens_without_places_have_no_grid_no_tiles_and_one_size():
    speller = Speller(Tones())
    found = speller.reconstruct(drawn())
    assert found.spelling.grid is None
    assert len(found.spelling.ids) == 16
    assert speller.unspell(found.spelling).tobytes() == found.picture.tobytes()
    with pytest.raises(Unsupported, match="no places"):
        Speller(Tones(), tile=True)
    with pytest.raises(BadInput, match="16 pixels alone"):
        Speller(Tones(), size=32)
    with pytest.raises(BadInput, match="have no places"):
        speller.unspell(replace(found.spelling, grid=(4, 4)))
    with pytest.raises(BadInput, match=r"15 ids; .* has 16"):
        speller.unspell(replace(found.spelling, ids=found.spelling.ids[:15]))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ids": (0,) * 63 + (10**30,)}, f"ids from 0 to {10**30}; .* from 0 to 23"),
        ({"ids": (0,) * 63 + (-1,)}, "ids from -1 to 0"),
        ({"ids": (0,) * 63}, "63 tokens for a grid of 8 x 8"),
        ({"ids": ()}, "no ids"),
        ({"grid": None}, "without a grid"),
        ({"grid": (-8, -8)}, "64 tokens for a grid"),
        ({"weights": "f" * 64}, "mean something else: take the model that gave them"),
    ],
)
def test_ids_that_cannot_be_this_models_are_refused_in_words(vqgan, change, message):
    speller = Speller(vqgan)
    spelling = speller.spell(drawn())
    with pytest.raises(BadInput, match=message):
        speller.unspell(replace(spelling, **change))


def test_ids_of_other_weights_of_the_same_sizes_are_refused(vqgan):
    spelling = Speller(tiny_tokeniser("vqgan", seed=1)).spell(drawn())
    with pytest.raises(BadInput, match="these ids were spelt by a model with weights"):
        Speller(vqgan).unspell(spelling)


def test_models_that_spell_no_pictures_are_refused(vqgan):
    with pytest.raises(Unsupported, match="no encode and no decode_ids and no codes"):
        Speller(torch.nn.Linear(2, 2))
    with pytest.raises(Unsupported, match="reads no RGB pictures"):
        Speller(type(vqgan)(replace(vqgan.config, in_channels=1, out_channels=1)))
    empty = Tones()
    empty.codes = 0
    with pytest.raises(Unsupported, match="without codes"):
        Speller(empty)


@pytest.mark.parametrize("suffix", [".json", ".safetensors"])
@pytest.mark.parametrize("count", [1, 3])
def test_files_of_ids_give_back_what_was_written(speller, tmp_path, suffix, count):
    spellings = list(speller.spell_many([drawn(seed) for seed in range(count)]))
    write_spellings(spellings, tmp_path / f"ids{suffix}")
    assert read_spellings(tmp_path / f"ids{suffix}") == spellings


@pytest.mark.parametrize(("codes", "size"), [(1 << 16, 2), ((1 << 16) + 1, 4)])
def test_binary_ids_take_two_bytes_up_to_65536_codes_and_four_beyond(tmp_path, codes, size):
    def written(length):
        ids = tuple(codes - 1 - n for n in range(length))
        spelling = Spelling("a.png", "m", "0" * 64, codes, None, ids)
        write_spellings([spelling], tmp_path / "ids.safetensors")
        assert read_spellings(tmp_path / "ids.safetensors") == [spelling]
        return (tmp_path / "ids.safetensors").stat().st_size

    # The head has the length, too, and is padded to multiples of 8 bytes.
    assert written(9000) - written(5000) == 4000 * size


def test_a_json_file_says_what_is_needed_to_read_it(speller, tmp_path):
    spelling = speller.spell(drawn())
    write_spellings([spelling], tmp_path / "ids.json")
    content = json.loads((tmp_path / "ids.json").read_text(encoding="utf-8"))
    assert content == {"format": "lascaux-ids-1"} | json.loads(json.dumps(as_json(spelling)))
    assert {"model", "weights", "codes", "grid", "ids"} < set(content)


GOOD = {"source": "", "model": "m", "weights": "0", "codes": 4, "grid": [1, 2], "ids": [0, 3]}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "is no JSON"),
        ("[" * 100_000, "is no JSON"),
        ("[]", "holds no ids"),
        ("[3]", "is no object"),
        (json.dumps(GOOD | {"ids": [0, 1.5]}), "1.5 is among the ids"),
        (json.dumps(GOOD | {"ids": [True]}), "True is among the ids"),
        (json.dumps(GOOD | {"ids": 7}), "ids is 7; expected a list"),
        (json.dumps(GOOD | {"grid": [0, 2]}), r"grid is \[0, 2\]"),
        (json.dumps(GOOD | {"grid": "2"}), "grid is '2'"),
        (json.dumps({**GOOD, "weights": None}), "weights is None; expected a text"),
        (json.dumps(GOOD | {"format": "lascaux-ids-9"}), "format 'lascaux-ids-9'"),
    ],
)
def test_files_that_are_none_of_ids_are_refused(tmp_path, content, message):
    (tmp_path / "ids.json").write_text(content, encoding="utf-8")
    with pytest.raises((BrokenFile, Unsupported), match=message):
        read_spellings(tmp_path / "ids.json")


def test_safetensors_that_are_none_of_ids_are_refused(tmp_path):
    from safetensors.numpy import save_file

    path = tmp_path / "ids.safetensors"
    save_file({"a": np.zeros(3)}, path)
    with pytest.raises(BrokenFile, match="no whole file of ids"):
        read_spellings(path)
    write_spellings([Spelling("", "m", "0", 4, None, (1, 2))], path)
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BrokenFile, match="no whole file of ids"):
        read_spellings(path)
    with pytest.raises(BadInput, match=r"named .json or .safetensors"):
        read_spellings(tmp_path / "ids.txt")
    with pytest.raises(BadInput, match="there is no file"):
        read_spellings(tmp_path / "absent.json")
