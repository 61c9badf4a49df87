import io
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import lascaux
from imaginers import (
    CODES,
    SIDE,
    WORDS,
    tiny_clip,
    tiny_clip_gen,
    tiny_dalle,
    tiny_dalle_clip,
)
from lascaux.errors import (
    BadInput,
    BadPicture,
    BadText,
    GenerationFailed,
    UnknownModel,
    Unsupported,
    WrongHash,
)
from lascaux.generate.sampling import Sampling
from lascaux.images.labelled import read_label, write_labelled
from lascaux.tasks.features import image_features, text_features
from lascaux.tasks.imagine import Imaginer, RedrawnOtherwise, repeated
from lascaux.tasks.imagined import label_of
from lascaux.tasks.options import ImagineOptions
from lascaux.tasks.results import Picture, as_json
from lascaux.tasks.tokenisers import image_tokeniser
from lascaux.tasks.wishes import on_the_arc, wish_of
from lascaux.tasks.writers import TextCut
from lascaux.text import TextCutWarning
from tokenisers import tiny_tokeniser

SENTENCE = "a red apple on the table"
each = pytest.mark.parametrize("kind", ["clip_gen", "dalle"])


@pytest.fixture(scope="module")
def imaginers() -> dict[str, Imaginer]:
    return {"clip_gen": clip_gen(), "dalle": Imaginer(tiny_dalle())}


def clip_gen() -> Imaginer:
    return Imaginer(tiny_clip_gen(), tokeniser=tiny_tokeniser("vqgan"), clip=tiny_clip())


def how(**changes) -> ImagineOptions:
    return ImagineOptions(**{"n": 3, "seed": 5, **changes})


def drawn(imaginer: Imaginer, sentence=SENTENCE, options=None, **more) -> list[Picture]:
    return list(imaginer.imagine(sentence, options=options or how(), **more))


def pixels(picture: Picture) -> bytes:
    assert picture.image.size == (SIDE, SIDE)
    return picture.image.tobytes()


def ids(picture: Picture) -> list[int]:
    return picture.record["ids"]


def photo(seed: int = 0) -> Image.Image:
    rng = np.random.Generator(np.random.PCG64([seed]))
    return Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8)).resize((60, 50))


@each
def test_a_picture_depends_on_its_seed_and_not_on_its_batch(imaginers, kind):
    imaginer = imaginers[kind]
    all_at_once = drawn(imaginer, options=how(n=5))
    assert [picture.seed for picture in all_at_once] == [5, 6, 7, 8, 9]
    assert len({pixels(picture) for picture in all_at_once}) == 5
    in_pairs = drawn(imaginer, options=how(n=5, batch_size=2))
    alone = [drawn(imaginer, options=how(n=1, seed=seed))[0] for seed in range(5, 10)]
    for one, two, three in zip(all_at_once, in_pairs, alone, strict=True):
        assert ids(one) == ids(two) == ids(three)
        assert pixels(one) == pixels(two) == pixels(three)


@each
def test_what_is_asked_for_matters(imaginers, kind):
    imaginer = imaginers[kind]
    first, other = (drawn(imaginer, text)[0] for text in (SENTENCE, "a boat on the blue sea"))
    assert ids(first) != ids(other)
    assert (first.prompt, first.score, first.weights) == (SENTENCE, None, imaginer.weights)


@each
def test_a_file_repeats_its_picture_exactly(imaginers, kind, tmp_path):
    imaginer = imaginers[kind]
    options = how(temperature=0.8, top_k=9, top_p=0.9, complete_text=kind == "dalle")
    prime = photo(4)
    for number, picture in enumerate(drawn(imaginer, "a boat", options, prime=prime)):
        path = tmp_path / f"{number}.png"
        write_labelled(picture.image, path, label_of(picture))
        again = imaginer.repeat(path)
        assert pixels(again) == pixels(picture) == Image.open(path).tobytes()
        assert replace(again, image=picture.image) == picture


def test_guidance_is_repeated_too_and_moves_a_dalle(imaginers, tmp_path):
    plain, guided = (
        drawn(imaginers["dalle"], options=how(guidance=scale))[0] for scale in (1.0, 4.0)
    )
    assert ids(plain) != ids(guided)
    write_labelled(guided.image, tmp_path / "a.png", label_of(guided))
    assert pixels(imaginers["dalle"].repeat(tmp_path / "a.png")) == pixels(guided)


def test_a_clip_gen_that_learnt_the_null_condition_is_guided_as_its_config_says(tmp_path):
    def ids_by(asked: float | None, **fields) -> list[int]:
        model = tiny_clip_gen(null_condition=True, **fields)
        imaginer = Imaginer(model, tokeniser=tiny_tokeniser("vqgan"), clip=tiny_clip())
        picture = drawn(imaginer, options=how(guidance=asked))[0]
        write_labelled(picture.image, tmp_path / "a.png", label_of(picture))
        assert pixels(imaginer.repeat(tmp_path / "a.png")) == pixels(picture)
        return ids(picture)

    assert ids_by(None) == ids_by(1.0) != ids_by(4.0)
    assert ids_by(None, guidance=4.0) == ids_by(4.0)
    assert ids_by(1.0, guidance=4.0) == ids_by(1.0)


def test_guidance_of_a_clip_gen_moves_its_logits_from_those_of_zeros():
    model = tiny_clip_gen(null_condition=True)
    imaginer = Imaginer(model, tokeniser=tiny_tokeniser("vqgan"), clip=tiny_clip())
    picture = drawn(imaginer, options=how(guidance=3.0, top_k=1))[0]
    row = imaginer.writer.conditions(wish_of("a boat"), how()).given[0]
    so_far = torch.tensor([ids(picture)])
    with torch.no_grad():
        plain, null = (model(so_far[:, :-1], each) for each in (row, torch.zeros_like(row)))
    assert torch.equal((null + 3 * (plain - null)).argmax(-1), so_far)


def test_other_weights_do_not_repeat_a_picture(imaginers, tmp_path):
    picture = drawn(imaginers["clip_gen"])[0]
    write_labelled(picture.image, tmp_path / "a.png", label_of(picture))
    with pytest.raises(WrongHash, match="with weights"):
        imaginers["dalle"].repeat(tmp_path / "a.png")
    other = Imaginer(tiny_clip_gen(), tokeniser=tiny_tokeniser("vqgan", seed=1), clip=tiny_clip())
    with pytest.raises(WrongHash, match="a tokeniser of weights"):
        other.repeat(tmp_path / "a.png")


def test_codes_that_come_out_otherwise_are_told_and_the_files_own_are_decoded(imaginers):
    picture = drawn(imaginers["clip_gen"])[0]
    label = json.loads(json.dumps(label_of(picture)))
    label["record"]["ids"][7] = (label["record"]["ids"][7] + 1) % CODES
    with pytest.warns(RedrawnOtherwise, match="code 7 "):
        again = imaginers["clip_gen"].repeat("a.png", label)
    assert ids(again) == label["record"]["ids"]
    assert pixels(again) != pixels(picture)


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("seed", "5"),
        ("settings", None),
        ("record.ids", [1, 2]),
        ("record.ids", [CODES] * 16),
        ("record.primed", 16),
        ("record.conditions", "no base64"),
        ("record.conditions", "AAAA"),
        ("settings.temperature", 0),
    ],
)
def test_damaged_labels_are_refused(imaginers, place, value):
    label = json.loads(json.dumps(label_of(drawn(imaginers["clip_gen"])[0])))
    *path, last = place.split(".")
    inner = label
    for name in path:
        inner = inner[name]
    inner[last] = value
    with pytest.raises(BadPicture):
        imaginers["clip_gen"].repeat("a.png", label)


def test_the_best_are_kept_in_order(imaginers):
    imaginer, clip = imaginers["clip_gen"], tiny_clip()
    everyone = drawn(imaginer, options=how(n=7))
    rows, _ = image_features(clip, [picture.image for picture in everyone], "photo")
    scores = rows @ text_features(clip, [SENTENCE])[0]
    order = scores.argsort(descending=True, stable=True)[:3]
    kept = drawn(imaginer, options=how(n=7, keep=3, batch_size=2))
    assert [picture.seed - 5 for picture in kept] == order.tolist()
    assert [p.score for p in kept] == pytest.approx(scores[order].tolist(), abs=1e-5)
    for picture in kept:
        assert pixels(picture) == pixels(everyone[picture.seed - 5])
    assert all(picture.score is None for picture in drawn(imaginer))


@pytest.mark.parametrize("ranking", [tiny_clip, tiny_dalle_clip])
def test_a_dalles_pictures_are_ordered_by_any_clip(ranking):
    imaginer = Imaginer(tiny_dalle(), rerank=ranking())
    everyone = drawn(imaginer, options=how(n=4))
    assert sorted(picture.seed for picture in everyone) == [5, 6, 7, 8]
    scores = [picture.score or 0.0 for picture in everyone]
    assert scores == sorted(scores, reverse=True)
    assert len(set(scores)) > 1
    best = drawn(imaginer, options=how(n=4, keep=1))
    assert [picture.seed for picture in best] == [everyone[0].seed]


def test_the_small_clip_sees_what_it_scores_by_itself():
    dalle, clip = tiny_dalle(), tiny_dalle_clip()
    picture = drawn(Imaginer(dalle, rerank=clip), options=how(n=1))[0]
    x = torch.from_numpy(np.array(picture.image)).permute(2, 0, 1)[None] / 255
    with torch.no_grad():
        expected = clip.score(dalle.tokenizer.tokenize(SENTENCE, 6), x)
    assert picture.score == pytest.approx(float(expected), abs=1e-5)


def test_a_picture_is_imagined_from_its_embedding(imaginers):
    imaginer = imaginers["clip_gen"]
    found = drawn(imaginer, None, image=photo(1))
    row = image_features(tiny_clip(), [photo(1)], "photo")[0]
    begun = imaginer.writer.begin(
        replace(imaginer.writer.conditions(wish_of(SENTENCE), how()), given=row[None]),
        torch.zeros(0, dtype=torch.int64),
        imaginer.writer.sampling(how()),
    )
    written = imaginer.writer.write(begun, [5, 6, 7])
    assert written is not None
    assert [ids(picture) for picture in found] == written.ids.tolist()
    assert found[0].settings["image"] == "picture 1"
    assert found[0].prompt == ""
    file = io.BytesIO()
    photo(1).save(file, "PNG")
    file.seek(0)  # what can be read but once
    assert ids(drawn(imaginer, None, image=file)[0]) == ids(found[0])


def test_the_way_between_two_wishes_begins_and_ends_with_them(imaginers):
    imaginer = imaginers["clip_gen"]
    first, last = wish_of(SENTENCE), wish_of(picture=photo(1))
    way = list(imaginer.between(first, last, options=how(n=2, steps=4)))
    assert [picture.seed for picture in way] == [5, 6] * 4
    assert [p.settings["share"] for p in way[::2]] == pytest.approx([0, 1 / 3, 2 / 3, 1])
    from_text = drawn(imaginer, options=how(n=2))
    from_photo = drawn(imaginer, None, options=how(n=2), image=photo(1))
    assert [pixels(p) for p in way[:2]] == [pixels(p) for p in from_text]
    assert [pixels(p) for p in way[-2:]] == [pixels(p) for p in from_photo]
    again = imaginer.repeat("a.png", json.loads(json.dumps(label_of(way[3]))))
    assert pixels(again) == pixels(way[3])
    kept = list(imaginer.between(first, last, options=how(n=3, keep=1, steps=2)))
    assert [picture.settings["share"] for picture in kept] == [0, 1]


def test_the_arc_is_even_and_on_the_sphere():
    torch.manual_seed(0)
    a, b = F.normalize(torch.randn(2, 9), dim=-1)
    steps = [on_the_arc(a, b, step / 5) for step in range(6)]
    torch.testing.assert_close(torch.stack(steps).norm(dim=-1), torch.ones(6))
    turns = [float(steps[n] @ steps[n + 1]) for n in range(5)]
    assert turns == pytest.approx([turns[0]] * 5, abs=1e-6)
    assert torch.equal(steps[0], a)
    assert torch.equal(steps[5], b)
    near = F.normalize(a + 1e-6, dim=0)
    torch.testing.assert_close(on_the_arc(a, near, 0.5), a, rtol=0, atol=1e-5)
    assert torch.equal(on_the_arc(a, a, 0.3), a) or torch.allclose(on_the_arc(a, a, 0.3), a)
    with pytest.raises(BadInput, match="opposite"):
        on_the_arc(a, -a, 0.5)


@each
def test_priming_keeps_the_codes_of_the_first_rows(imaginers, kind):
    imaginer = imaginers[kind]
    tokeniser = image_tokeniser(tiny_tokeniser("vqgan"))
    square = photo(2).resize((SIDE, SIDE))
    x = torch.from_numpy(np.array(square)).permute(2, 0, 1)[None] / 255
    expected = tokeniser.encode(x)[0].tolist()
    for share, count in ((0.4375, 7), (0.5, 8), (0.0, 0)):
        found = drawn(imaginer, options=how(prime_share=share), prime=square)
        for picture in found:
            assert picture.record["primed"] == count
            assert ids(picture)[:count] == expected[:count]
        assert len({tuple(ids(picture)) for picture in found}) == 3


def test_a_dalle_completes_the_text_before_it_paints(imaginers):
    imaginer = imaginers["dalle"]
    found = drawn(imaginer, "a boat", how(n=4, complete_text=True))
    captions = [picture.caption or "" for picture in found]
    assert len(set(captions)) > 1
    for picture in found:
        assert picture.caption is not None
        assert picture.caption.startswith("a boat")
        assert set(picture.caption.split()) <= {*WORDS}
        alone = drawn(imaginer, "a boat", how(n=1, seed=picture.seed, complete_text=True))[0]
        assert (alone.caption, ids(alone)) == (picture.caption, ids(picture))
    full = drawn(imaginer, SENTENCE, how(complete_text=True))  # there is no room for more
    assert [ids(p) for p in full] == [ids(p) for p in drawn(imaginer)]


def test_published_settings_are_the_defaults(imaginers):
    assert imaginers["clip_gen"].writer.sampling(how()) == Sampling(top_k=CODES, top_p=0.95)
    # A tenth of 24 codes and 17 text classes together.
    assert imaginers["dalle"].writer.sampling(how()) == Sampling(top_k=4)
    chosen = imaginers["clip_gen"].writer.sampling(how(top_k=3, top_p=1.0, temperature=0.5))
    assert chosen == Sampling(top_k=3, top_p=1.0, temperature=0.5)


@each
def test_a_model_may_say_how_warm_it_is_drawn_from(imaginers, kind):
    writer = imaginers[kind].writer
    config = writer.model.config
    try:
        writer.model.config = replace(config, temperature=0.6)
        assert writer.sampling(how()).temperature == 0.6
        assert writer.sampling(how(temperature=1.0)).temperature == 1.0
    finally:
        writer.model.config = config
    with pytest.raises(BadInput, match="temperature 0"):
        replace(config, temperature=0.0)


@each
def test_bad_input_is_refused_before_anything_is_drawn(imaginers, kind, tmp_path):
    imaginer = imaginers[kind]
    (tmp_path / "text.png").write_text("no picture")
    for sentence, more, error, message in (
        ("", {}, BadText, "the sentence is empty"),
        (" \n", {}, BadText, "the sentence is empty"),
        (None, {}, BadInput, "nothing to imagine"),
        ("a", {"image": photo()}, BadInput, "both a sentence and a picture"),
        (None, {"image": tmp_path / "text.png"}, BadPicture, r"text\.png: not a picture"),
        ("a", {"prime": tmp_path / "none.png"}, BadPicture, r"none\.png: no file"),
        ("a", {"options": how(top_k=CODES + 1)}, BadInput, f"of {CODES} tokens"),
    ):
        with pytest.raises(error, match=message):
            imaginer.imagine(sentence, **more)


@pytest.mark.parametrize(
    "changes",
    [
        {"n": 0},
        {"n": 2, "keep": 3},
        {"keep": 0},
        {"seed": -1},
        {"seed": 1 << 63},
        {"temperature": 0.0},
        {"temperature": float("nan")},
        {"top_k": 0},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"guidance": float("inf")},
        {"prime_share": 1.0},
        {"steps": 1},
        {"batch_size": 0},
    ],
)
def test_impossible_options_are_refused(changes):
    with pytest.raises(BadInput, match=next(reversed(changes))):
        how(**changes)


@each
def test_a_sentence_of_ten_thousand_words_is_cut_and_that_is_told_or_refused(imaginers, kind):
    long = "a red boat on the sea " * 1667
    with pytest.warns((TextCut, TextCutWarning), match="tokens"):
        assert len(drawn(imaginers[kind], long)) == 3
    with pytest.raises(BadText):
        imaginers[kind].imagine(long, options=how(too_long="error"))


def test_each_kind_refuses_what_it_does_not_know(imaginers):
    with pytest.raises(Unsupported, match="leave guidance away"):
        imaginers["clip_gen"].imagine("a", options=how(guidance=3.0))
    with pytest.raises(Unsupported, match="cannot complete a text"):
        imaginers["clip_gen"].imagine("a", options=how(complete_text=True))
    with pytest.raises(Unsupported, match="reads sentences alone"):
        imaginers["dalle"].imagine(image=photo())
    with pytest.raises(Unsupported, match="reads sentences alone"):
        imaginers["dalle"].between(wish_of("a"), wish_of("boat"))
    with pytest.raises(BadInput, match="any CLIP; name one"):
        imaginers["dalle"].imagine("a", options=how(keep=1))
    with pytest.raises(Unsupported, match="reads the text tokens of a DALL-E"):
        Imaginer(
            tiny_clip_gen(), tokeniser=tiny_tokeniser("vqgan"), rerank=tiny_dalle_clip()
        ).imagine("a")


def test_models_that_do_not_belong_together_are_refused():
    with pytest.raises(Unsupported, match="a CLIP-GEN or a DALL-E"):
        Imaginer(tiny_clip())
    with pytest.raises(BadInput, match="which tokeniser it was trained with"):
        Imaginer(tiny_clip_gen())
    with pytest.raises(BadInput, match="writes 24 codes, and this Dvae has 20"):
        Imaginer(tiny_clip_gen(), tokeniser=tiny_tokeniser("dvae"))
    with pytest.raises(BadInput, match="which clip it was trained with"):
        Imaginer(tiny_clip_gen(), tokeniser=tiny_tokeniser("vqgan")).imagine("a")
    dalle = tiny_dalle()
    dalle.tokenizer = None
    with pytest.raises(BadInput, match="no text tokeniser"):
        Imaginer(dalle)


@each
def test_broken_weights_stop_with_the_step(kind):
    imaginer = clip_gen() if kind == "clip_gen" else Imaginer(tiny_dalle())
    torch.nn.init.constant_(imaginer.writer.model.head.bias, float("nan"))
    with pytest.raises(GenerationFailed, match="step 0 "):
        drawn(imaginer)


@each
def test_progress_is_told_and_stopping_leaves_whole_pictures(imaginers, kind):
    told: list[tuple[str, int, int]] = []
    options = how(n=5, batch_size=2)
    drawn(imaginers[kind], options=options, progress=lambda *each: told.append(each))
    assert told[-1] == ("codes", 5 * 16, 5 * 16)
    assert [done for _, done, _ in told] == sorted(done for _, done, _ in told)
    found = drawn(imaginers[kind], options=options, stop=lambda: len(told) < 0)
    assert len(found) == 5
    asked = iter(range(10_000))
    found = drawn(imaginers[kind], options=options, stop=lambda: next(asked) > 20)
    assert [picture.seed for picture in found] == [5, 6]


def test_parts_are_found_by_the_config_in_the_folder_or_as_they_are_named(tmp_path):
    expected = pixels(drawn(clip_gen())[0])
    lascaux.save(tiny_clip(), tmp_path / "clip")
    lascaux.save(tiny_tokeniser("vqgan"), tmp_path / "vqgan")
    by_name = tiny_clip_gen(str(tmp_path / "clip"), str(tmp_path / "vqgan"))
    lascaux.save(by_name, tmp_path / "named")
    lascaux.save(tiny_clip_gen("nowhere", "nowhere"), tmp_path / "whole")
    lascaux.save(tiny_clip(), tmp_path / "whole" / "clip")
    lascaux.save(tiny_tokeniser("vqgan"), tmp_path / "whole" / "tokeniser")
    lascaux.save(tiny_clip_gen(), tmp_path / "bare")
    parts = {"tokeniser": tmp_path / "vqgan", "clip": tmp_path / "clip"}
    for folder, given in (("named", {}), ("whole", {}), ("bare", parts)):
        assert pixels(drawn(Imaginer(tmp_path / folder, **given))[0]) == expected


def test_a_file_leads_to_its_models(tmp_path):
    lascaux.save(tiny_clip_gen(), tmp_path / "bare")
    lascaux.save(tiny_tokeniser("vqgan"), tmp_path / "vqgan")
    imaginer = Imaginer(tmp_path / "bare", tokeniser=tmp_path / "vqgan", clip=tiny_clip())
    picture = drawn(imaginer)[1]
    path = tmp_path / "a.png"
    write_labelled(picture.image, path, label_of(picture))
    assert pixels(repeated(path)) == pixels(picture)
    (tmp_path / "bare").rename(tmp_path / "moved")
    with pytest.raises(UnknownModel, match=r"a\.png says that it was made by this"):
        repeated(path)
    assert pixels(repeated(path, model=tmp_path / "moved")) == pixels(picture)


def test_results_are_json_and_files_say_how_they_were_made(imaginers, tmp_path):
    picture = drawn(imaginers["dalle"], "a boat", how(complete_text=True))[0]
    told = as_json(picture)
    assert set(told) == {"seed", "prompt", "model", "settings", "score", "weights", "caption"}
    assert told["settings"]["top_k"] == 4
    path = Path(tmp_path / "a.png")
    write_labelled(picture.image, path, label_of(picture))
    label = read_label(path, "imagine")
    assert label == json.loads(json.dumps(label_of(picture)))
    assert {*told, "verb", "lascaux", "record"} == set(label)
