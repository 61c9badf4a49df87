import pytest
import torch
import torch.nn.functional as F

from lascaux.errors import BadClasses, BadInput, BadText
from lascaux.images.preprocess import normalise, pixels
from lascaux.tasks.evidence import ClassEvidence, EvidenceWeights
from lascaux.tasks.features import image_features, text_features
from lascaux.tasks.prototypes import close_gap, prototypes


def unit_text(model, text):
    ids = model.tokenizer([text], context_length=model.config.context_length)
    with torch.no_grad():
        return F.normalize(model.encode_text(ids), dim=-1)[0]


def unit_picture(model, picture):
    how = model.config.preprocessing
    x, _ = pixels([picture], how)
    with torch.no_grad():
        return F.normalize(model.encode_image(normalise(x, how.mean, how.std)), dim=-1)[0]


def test_a_named_class_is_the_normalised_mean_of_its_normalised_prompts(colour_clip):
    templates = ("a photo of a {}.", "the colour {}", "{}")
    found = prototypes(colour_clip, ["red", "blue"], templates)
    for row, name in zip(found, ("red", "blue"), strict=True):
        each = [unit_text(colour_clip, t.replace("{}", name)) for t in templates]
        torch.testing.assert_close(row, F.normalize(torch.stack(each).mean(0), dim=0))


def test_synonyms_count_alike_in_one_mean(colour_clip):
    found = prototypes(colour_clip, [("red", "yellow", "black")], "plain")
    each = [unit_text(colour_clip, name) for name in ("red", "yellow", "black")]
    torch.testing.assert_close(found[0], F.normalize(torch.stack(each).mean(0), dim=0))


def test_descriptions_are_encoded_without_templates(colour_clip):
    only = ClassEvidence("x", names=(), descriptions=("something red",))
    found = prototypes(colour_clip, [only], "imagenet-7")
    torch.testing.assert_close(found[0], unit_text(colour_clip, "something red"))


def test_example_pictures_give_the_normalised_mean_of_their_embeddings(colour_clip, picture):
    examples = tuple(picture("red", i) for i in range(5))
    only = ClassEvidence("x", names=(), pictures=examples)
    found = prototypes(colour_clip, [only], batch_size=2)
    each = [unit_picture(colour_clip, example) for example in examples]
    torch.testing.assert_close(found[0], F.normalize(torch.stack(each).mean(0), dim=0))


def test_a_mixture_is_the_normalised_weighted_sum_of_its_kinds(colour_clip, picture):
    entry = ClassEvidence("red", descriptions=("something red",), pictures=(picture("red"),))
    weights = EvidenceWeights(names=1.0, descriptions=0.5, pictures=2.0)
    found = prototypes(colour_clip, [entry], "plain", weights=weights)
    expected = (
        unit_text(colour_clip, "red")
        + 0.5 * unit_text(colour_clip, "something red")
        + 2 * unit_picture(colour_clip, picture("red"))
    )
    torch.testing.assert_close(found[0], F.normalize(expected, dim=0))


def test_a_kind_of_weight_zero_is_left_out(colour_clip, picture):
    entry = ClassEvidence("red", pictures=(picture("blue"),))
    found = prototypes(colour_clip, [entry], "plain", weights=EvidenceWeights(pictures=0.0))
    torch.testing.assert_close(found[0], unit_text(colour_clip, "red"))
    with pytest.raises(BadClasses, match="no evidence of positive weight"):
        prototypes(colour_clip, ["red"], weights=EvidenceWeights(names=0.0))


def test_more_texts_than_a_batch_give_the_same_as_each_alone(colour_clip):
    names = [f"red {i}" for i in range(600)]
    together = prototypes(colour_clip, names, "plain")
    for place in (0, 255, 256, 599):
        torch.testing.assert_close(
            together[place], unit_text(colour_clip, names[place]), rtol=1e-4, atol=1e-5
        )


def test_progress_tells_of_every_stage_to_its_end(colour_clip, picture):
    seen = []
    entry = ClassEvidence("red", descriptions=("something",), pictures=(picture("red"),) * 3)
    prototypes(colour_clip, [entry], "simple", batch_size=2, progress=lambda *now: seen.append(now))
    assert seen == [
        ("names", 1, 1), ("descriptions", 1, 1), *(("examples", done, 3) for done in (1, 2, 3))
    ]  # fmt: skip


def test_too_long_texts_are_averaged_over_their_chunks(colour_clip):
    text = "something red and " * 20
    length = colour_clip.config.context_length
    rows = torch.tensor(colour_clip.tokenizer.encode_chunks(text, context_length=length))
    assert len(rows) > 2
    with torch.no_grad():
        each = F.normalize(colour_clip.encode_text(rows), dim=-1)
    found = text_features(colour_clip, ["red", text, "blue"], "average")
    torch.testing.assert_close(found[1], F.normalize(each.mean(0), dim=0))
    torch.testing.assert_close(found[2], unit_text(colour_clip, "blue"))


def test_too_long_texts_can_be_refused(colour_clip):
    with pytest.raises(BadText):
        prototypes(colour_clip, ["red " * 40], too_long="error")


def test_a_broken_example_is_left_out_with_a_warning(colour_clip, picture):
    mixed = ClassEvidence("red", names=(), pictures=(picture("red"), b"no picture"))
    with pytest.warns(UserWarning, match="example of 'red' is left out"):
        found = prototypes(colour_clip, [mixed])
    torch.testing.assert_close(found[0], unit_picture(colour_clip, picture("red")))


def test_a_class_of_broken_examples_alone_is_refused(colour_clip):
    broken = ClassEvidence("red", names=(), pictures=(b"no picture",))
    with (
        pytest.warns(UserWarning, match="left out"),
        pytest.raises(BadClasses, match="no example picture of class 'red'"),
    ):
        prototypes(colour_clip, [broken])


def test_a_model_without_a_tokenizer_is_refused_for_names_but_not_for_examples(
    colour_clip, picture
):
    tokenizer, colour_clip.tokenizer = colour_clip.tokenizer, None
    try:
        with pytest.raises(BadInput, match="no tokenizer"):
            prototypes(colour_clip, ["red"])
        prototypes(colour_clip, [ClassEvidence("x", names=(), pictures=(picture("red"),))])
    finally:
        colour_clip.tokenizer = tokenizer


def test_a_model_in_training_is_used_in_evaluation_and_stays_in_training(colour_clip):
    quiet = prototypes(colour_clip, ["red"])
    colour_clip.train()
    try:
        torch.testing.assert_close(prototypes(colour_clip, ["red"]), quiet)
        assert colour_clip.training
    finally:
        colour_clip.eval()


def test_pictures_moved_over_the_gap_no_longer_win_by_being_pictures():
    g = torch.Generator().manual_seed(1)
    content = F.normalize(torch.randn(6, 64, generator=g), dim=-1)
    picture_side, text_side = F.normalize(torch.randn(2, 64, generator=g), dim=-1)
    as_picture = F.normalize(0.5 * content + picture_side, dim=-1)
    as_text = F.normalize(0.5 * content + text_side, dim=-1)
    # Classes 0 to 2 have names alone, 3 to 5 examples alone.
    texts, shown = as_text.clone(), as_picture.clone()
    texts[3:], shown[:3] = 0, 0
    seen = F.normalize(as_picture + 0.02 * torch.randn(6, 64, generator=g), dim=-1)
    assert (seen @ F.normalize(texts + shown, dim=-1).T).argmax(1).min() >= 3
    moved = close_gap(shown, texts, picture_side)
    assert (moved[:3] == 0).all()
    assert (seen @ F.normalize(texts + moved, dim=-1).T).argmax(1).tolist() == [0, 1, 2, 3, 4, 5]


def test_image_features_leave_failures_to_the_caller(colour_clip, picture):
    features, failures = image_features(
        colour_clip, [picture("red"), b"", picture("blue")], "photo"
    )
    assert features.shape == (2, 24)
    assert [place for place, _ in failures] == [1]
    nothing, failures = image_features(colour_clip, [b""], "photo")
    assert nothing.shape == (0, 24)
    assert len(failures) == 1
