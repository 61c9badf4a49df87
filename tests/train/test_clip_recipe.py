import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from torch import Tensor

import lascaux
from lascaux.cli.main import main
from lascaux.errors import BadInput, WrongHash
from lascaux.models.clip import Clip
from lascaux.text import ClipTokenizer
from lascaux.train.checkpoint import latest
from lascaux.train.estimate import estimate
from lascaux.train.loop import train
from lascaux.train.options import Running
from lascaux.train.recipe import Moment, Part
from lascaux.train.recipes import clip as recipes
from lascaux.train.recipes.clip import ClipTraining
from tiny import tiny_reader

COLOURS = {"red": (210, 30, 40), "green": (40, 160, 60), "blue": (30, 60, 200)}
QUICK = Running(threads=1, workers=0, validate_every=10)


@pytest.fixture(autouse=True)
def nothing_remembered():
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    for kept in (recipes._source, recipes._kept, recipes._pretrained, recipes._vocabulary):
        kept.cache_clear()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """36 plain pictures of three colours, with a caption each."""
    folder = tmp_path_factory.mktemp("data") / "colours"
    folder.mkdir()
    with (folder / "captions.jsonl").open("w") as table:
        for number in range(36):
            name = list(COLOURS)[number % 3]
            tone = tuple(min(255, part + number) for part in COLOURS[name])
            Image.new("RGB", (40, 40 + number), tone).save(folder / f"{number:02d}.png")
            caption = f"{('something', 'a wall', 'the colour')[number // 3 % 3]} {name}"
            table.write(json.dumps({"file_name": f"{number:02d}.png", "caption": caption}) + "\n")
    return folder


@pytest.fixture(scope="module")
def tiny_model(tmp_path_factory) -> Path:
    words = [f"a wall {name} something the colour" for name in COLOURS] * 3
    tokenizer = ClipTokenizer.train(words, 560, 20)
    torch.manual_seed(3)
    model = Clip(tiny_reader(tokenizer.vocabulary_size, context_length=20))
    model.tokenizer = tokenizer
    return lascaux.save(model, tmp_path_factory.mktemp("models") / "tiny")


def recipe(data: Path, tiny_model: Path, **changes) -> ClipTraining:
    settings = {
        "data": str(data),
        "model": str(tiny_model),
        "steps": 20,
        "batch_size": 12,
        "warmup_steps": 2,
        "learning_rate": 3e-3,
        "aside": 0.25,
        **changes,
    }
    return ClipTraining(**settings)


def state(folder: Path) -> dict[str, Tensor]:
    return lascaux.load(folder / "model").state_dict()


def losses(folder: Path) -> list[float]:
    told = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in told if "loss" in line]


@pytest.mark.parametrize("objective", ["info-nce", "sigmoid"])
def test_colours_are_learnt_and_the_model_is_one_to_load(
    data: Path, tiny_model: Path, tmp_path: Path, objective
):
    wanted = recipe(data, tiny_model, objective=objective, steps=40)
    assert train(wanted, tmp_path, QUICK)
    told = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    first, *_, last = [line for line in told if "validation_recall" in line]
    assert last["validation_recall"] > 0.5
    assert last["validation_loss"] < first["validation_loss"] + 0.1
    classifier = lascaux.Classifier(list(COLOURS), str(tmp_path / "model"), templates="a wall {}")
    for name, tone in COLOURS.items():
        assert classifier.classify(Image.new("RGB", (50, 50), tone)).labels[0].name == name


def test_a_stopped_run_on_files_ends_with_the_same_bits(
    data: Path, tiny_model: Path, tmp_path: Path
):
    wanted = recipe(data, tiny_model, area=0.5, flip=0.5)
    with_helper = replace(QUICK, workers=1)
    assert train(wanted, tmp_path / "whole", QUICK)
    assert not train(wanted, tmp_path / "parts", with_helper, stop_after=7)
    held = torch.load(latest(tmp_path / "parts"), weights_only=True)
    assert held["place"] == {"seed": 0, "epoch": 3, "position": 12, "world_size": 1}
    assert train(wanted, tmp_path / "parts", with_helper)
    a, b = state(tmp_path / "whole"), state(tmp_path / "parts")
    assert all(torch.equal(a[key], b[key]) for key in a)


def test_a_locked_tower_learns_what_a_frozen_one_learns_and_stays(
    data: Path, tiny_model: Path, tmp_path: Path
):
    locked = recipe(data, tiny_model, lock=True, exported="last")
    frozen = recipe(data, tiny_model, freeze=("clip.image",), area=1.0, exported="last")
    assert train(locked, tmp_path / "locked", QUICK)
    assert train(frozen, tmp_path / "frozen", QUICK)
    # Prepared embeddings are kept in float16.
    assert losses(tmp_path / "locked") == pytest.approx(losses(tmp_path / "frozen"), rel=2e-3)
    before, after = lascaux.load(tiny_model).state_dict(), state(tmp_path / "locked")
    changed = {key.partition(".")[0] for key in before if not torch.equal(before[key], after[key])}
    assert changed == {"text", "logit_scale"}


def test_features_prepared_before_are_taken_and_those_of_other_weights_refused(
    data: Path, tiny_model: Path, tmp_path: Path
):
    prepared = tmp_path / "prepared"
    assert main(["data", "prepare", str(data), str(prepared), "--model", str(tiny_model)]) == 0
    assert train(recipe(prepared, tiny_model), tmp_path / "run", QUICK)
    assert train(recipe(data, tiny_model, lock=True), tmp_path / "locked", QUICK)
    assert losses(tmp_path / "run") == losses(tmp_path / "locked")
    other = lascaux.load(tiny_model)
    torch.nn.init.normal_(other.image.project.weight)
    lascaux.save(other, tmp_path / "other")
    with pytest.raises(WrongHash, match="name that folder, or prepare with this model"):
        train(recipe(prepared, tmp_path / "other"), tmp_path / "refused", QUICK)


def test_chunks_give_the_gradient_of_the_whole_batch(data: Path, tiny_model: Path, tmp_path: Path):
    gradients = []
    for chunk in (0, 5):
        wanted = recipe(data, tiny_model, chunk=chunk)
        model = wanted.build()
        batch = next(iter(wanted.feed(Part(0, folder=tmp_path))))
        wanted.loss(model, batch, Moment(0)).value.backward()
        gradients.append({n: p.grad for n, p in model.named_parameters() if p.grad is not None})
    torch.testing.assert_close(gradients[0], gradients[1])


def test_from_nothing_a_vocabulary_is_learnt_and_saved(data: Path, tmp_path: Path):
    wanted = ClipTraining(
        data=str(data), steps=2, batch_size=8, vocabulary=540, validation=str(data)
    )
    assert train(wanted, tmp_path, QUICK)
    model = lascaux.load(tmp_path / "model")
    assert model.config.vocabulary_size == model.tokenizer.vocabulary_size <= 540


def test_every_published_architecture_is_a_size_to_begin_with(data: Path):
    for name in ("ViT-B/32", "RN50"):
        wanted = ClipTraining(data=str(data), architecture=name)
        with torch.device("meta"):
            assert sum(p.numel() for p in wanted.build().parameters()) > 50e6


def test_other_records_at_the_same_path_are_noticed(data: Path, tiny_model: Path, tmp_path: Path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    train(recipe(copy, tiny_model), tmp_path / "run", QUICK, stop_after=3)
    recipes._source.cache_clear()
    recipes._kept.cache_clear()
    table = copy / "captions.jsonl"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-3]))
    with pytest.raises(BadInput, match="made with other settings: records was"):
        train(recipe(copy, tiny_model), tmp_path / "run", QUICK)


def test_broken_pictures_are_left_out_and_counted(data: Path, tiny_model: Path, tmp_path: Path):
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    (copy / "05.png").write_bytes(b"no picture")
    (copy / "07.png").write_bytes((copy / "07.png").read_bytes()[:60])
    assert train(recipe(copy, tiny_model, aside=0.0), tmp_path / "run", QUICK)
    told = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert told[-1].get("skipped", told[-2].get("skipped")) == 2
    assert any(line.get("sign") == "records skipped" for line in told)


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda folder: None, "there is no file or folder"),
        (lambda folder: folder.mkdir(), "no pictures"),
        (lambda folder: pictures(folder), "has no captions"),
        (lambda folder: absent(folder), r"names 1 pictures .* that are not in"),
        (lambda folder: few(folder), "a batch of 12 is never filled by 2 records"),
    ],
)
def test_data_that_cannot_be_learnt_from_are_refused_in_words(
    make, reason, tiny_model: Path, tmp_path: Path
):
    make(tmp_path / "data")
    with pytest.raises(BadInput, match=reason):
        train(recipe(tmp_path / "data", tiny_model, aside=0.0), tmp_path / "run", QUICK)
    assert not (tmp_path / "run" / "checkpoints").exists()


def pictures(folder: Path) -> None:
    folder.mkdir()
    Image.new("RGB", (9, 9)).save(folder / "a.png")


def absent(folder: Path) -> None:
    pictures(folder)
    (folder / "captions.csv").write_text("file_name,caption\na.png,black\nb.png,white\n")


def few(folder: Path) -> None:
    pictures(folder)
    Image.new("RGB", (9, 9), "white").save(folder / "b.png")
    (folder / "captions.csv").write_text("file_name,caption\na.png,black\nb.png,white\n")


def test_settings_that_contradict_each_other_are_wrong_use(data: Path, tmp_path: Path, capsys):
    for words, reason in (
        ([], "--data is missing"),
        (["--data", str(data), "--lock"], "name it (--model)"),
        (["--data", str(data), "--architecture", "ViT-B/9"], "expected small, or RN50"),
        (["--data", str(data), "--batch-size", "10", "--accumulation", "3"], "does not divide"),
    ):
        assert main(["train", "clip", "--runs", str(tmp_path), *words]) == 2
        assert reason in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_an_estimate_writes_nothing_and_is_near_what_happens(
    data: Path, tiny_model: Path, tmp_path: Path
):
    wanted = recipe(data, tiny_model, lock=True)
    found = estimate(wanted, tmp_path / "run", QUICK)
    assert not (tmp_path / "run").exists()
    model = lascaux.load(tiny_model)
    image = sum(p.numel() for p in model.image.parameters())
    everything = sum(p.numel() for p in model.parameters()) + 1  # the sigmoid's bias, not trained
    assert sum(found.frozen.values()) == image + 1
    assert sum(found.trained.values()) == everything - image - 1
    assert found.memory["weights"] == 4 * everything
    assert found.memory["optimiser"] == 2 * found.memory["gradients"]
    assert found.records == 27
    assert found.epochs == pytest.approx(20 * 12 / 27)
    assert found.seconds > 0


def test_a_dry_run_of_a_run_that_stands_somewhere_counts_what_is_left(
    data: Path, tiny_model: Path, tmp_path: Path, capsys
):
    words = ["train", "clip", "--data", str(data), "--model", str(tiny_model), "--steps", "8"]
    words += ["--batch-size", "12", "--warmup-steps", "2", "--runs", str(tmp_path)]
    words += ["--threads", "1", "--workers", "0", "--aside", "0.25"]
    train(
        ClipTraining(data=str(data), model=str(tiny_model), steps=8, batch_size=12, warmup_steps=2,
                     aside=0.25),
        tmp_path / "clip-0", QUICK, stop_after=3,
    )  # fmt: skip
    assert main([*words, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["done"] == 3
    assert main([*words, "--dry-run"]) == 0
    told = capsys.readouterr().out
    assert "8 steps of 12, 3.6 epochs of 27, 3 are done" in told
    assert main(words) == 0
    assert (tmp_path / "clip-0" / "model" / "config.json").exists()
