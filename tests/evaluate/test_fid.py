from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from lascaux.data.sources import open_source
from lascaux.errors import BadInput, Unsupported
from lascaux.evaluate import fid
from lascaux.evaluate.extractors import extractor
from lascaux.evaluate.fid import evaluate, statistics_of
from lascaux.evaluate.frechet import Statistics, frechet_distance, read_statistics
from lascaux.models.inception import VARIANTS, Inception, StoredNorm
from lascaux.models.judge import Judge, JudgeConfig

TINY = replace(VARIANTS["inception-fid"], shrink=16, size=76)


@pytest.fixture(scope="module")
def inception() -> Inception:
    torch.manual_seed(5)
    model = Inception(TINY).eval()
    for module in model.modules():  # so that features do not fade with depth
        if isinstance(module, StoredNorm):
            module.running_var.fill_(0.1)
    return model


@pytest.fixture
def other(paint, tmp_path):
    return paint(tmp_path / "other", count=4, shift=40)


def value(report) -> float:
    (figure,) = report.figures
    return figure.value


def test_a_set_is_no_way_from_itself_and_some_from_another(inception, painted, other):
    assert value(evaluate(painted, painted, inception)) == pytest.approx(0, abs=1e-6)
    assert value(evaluate(painted, other, inception)) > 1e-3


@pytest.mark.parametrize(("block", "size"), [(3, None), (1, None), (3, 20)])
def test_the_figure_is_the_distance_of_the_features_of_resized_pictures(
    inception, painted, other, block, size
):
    def features(folder: Path) -> torch.Tensor:
        rows = []
        for path in sorted(folder.rglob("*.png")):
            picture = Image.open(path).convert("RGB")
            if size is not None:
                picture = picture.resize((size, size), Image.Resampling.BILINEAR)
            x = torch.from_numpy(np.array(picture)).permute(2, 0, 1)[None] / 255
            x = torch.nn.functional.interpolate(x, (76, 76), mode="bilinear")
            with torch.no_grad():
                rows.append(inception.encode_image(2 * x - 1, block))
        return torch.cat(rows)

    expected = frechet_distance(Statistics.of(features(painted)), Statistics.of(features(other)))
    found = evaluate(painted, other, inception, block=block, size=size, batch_size=5)
    assert value(found) == pytest.approx(expected, rel=1e-3)


def test_only_published_inception_s_last_features_make_fid(
    inception, painted, random_clip, monkeypatch
):
    for name, block in (("FID", 3), ("Fréchet distance of Inception features (48)", 2)):
        monkeypatch.setitem(VARIANTS, "inception-fid", TINY)
        report = evaluate(painted, painted, inception, block=block)
        assert report.figures[0].name == name
        assert report.benchmark == ("fid" if name == "FID" else "frechet")
    report = evaluate(painted, painted, random_clip)
    assert report.figures[0].name == "Fréchet distance of Clip features"
    assert "FID" not in report.to_json()
    assert "fid" not in report.to_json()


def test_a_report_says_what_the_figure_depends_on(inception, painted, other):
    report = evaluate(painted, other, inception, size=64, batch_size=8).as_json()
    assert len(report["weights_sha256"]) == 64
    settings = report["settings"]
    assert settings["first"]["pictures"] == 12
    assert settings["second"]["pictures"] == 16
    assert settings["first"]["fingerprint"] == open_source(painted).fingerprint
    assert settings["width"] == 128
    assert settings["preparing"] == '{"reading": "official", "resized_to": 76, "size": 64}'
    assert (settings["dtype"], settings["device"], settings["batch_size"]) == ("float32", "cpu", 8)
    assert report["figures"][0]["of"] == 12
    assert report["figures"][0]["note"] == "pictures: 12 and 16"


def test_few_pictures_are_warned_of(inception, painted, other):
    (first, second) = evaluate(painted, other, inception).details["warnings"]
    assert "12 pictures for 128 features" in first
    assert "16 pictures for 128 features" in second
    assert not evaluate(painted, other, inception, block=0).details["warnings"]


def test_neither_batches_nor_a_training_model_change_the_figure(
    inception, painted, other, random_clip
):
    for model in (inception, random_clip):
        whole = value(evaluate(painted, other, model))
        model.train()
        assert value(evaluate(painted, other, model, batch_size=1)) == pytest.approx(
            whole, rel=1e-3
        )
        assert model.training
        model.eval()


def test_pictures_that_cannot_be_read_are_left_out_and_listed(inception, painted, other):
    before = value(evaluate(painted, other, inception))
    (painted / "red" / "broken.png").write_bytes(b"no picture")
    report = evaluate(painted, other, inception, batch_size=3)
    assert value(report) == pytest.approx(before, rel=1e-3)
    (failure,) = report.details["failures"]
    assert failure["source"] == "red/broken.png"
    assert report.settings["first"]["pictures"] == 12


def test_statistics_are_kept_and_read_again(inception, painted, other, tmp_path, monkeypatch):
    kept = tmp_path / "kept.safetensors"
    before = value(evaluate(painted, other, inception, statistics=kept))
    told = read_statistics(kept)
    assert told.count == 12
    assert told.about["data"] == open_source(painted).fingerprint
    measured = []
    plain = fid.statistics_of

    def counted(source, *rest, **more):
        measured.append(source.path)
        return plain(source, *rest, **more)

    monkeypatch.setattr(fid, "statistics_of", counted)
    assert value(evaluate(painted, other, inception, statistics=kept)) == before
    assert value(evaluate(kept, other, inception)) == before
    assert measured == [other, other]
    with pytest.raises(BadInput, match=r"another run \(other data\)"):
        evaluate(other, painted, inception, statistics=kept)
    with pytest.raises(BadInput, match=r"another run \(other features\)"):
        evaluate(painted, other, inception, block=2, statistics=kept)
    with pytest.raises(BadInput, match="statistics already"):
        evaluate(kept, other, inception, statistics=kept)


def test_two_files_need_no_model(inception, painted, other, tmp_path):
    files = [tmp_path / "a.safetensors", tmp_path / "b.safetensors"]
    for folder, file in zip((painted, other), files, strict=True):
        evaluate(folder, painted, inception, statistics=file)
    report = evaluate(*files, "no-such-model")
    assert value(report) == value(evaluate(painted, other, inception))
    assert report.model == "Inception"
    assert len(report.weights_sha256) == 64


def test_an_npz_is_taken_at_its_word(inception, painted, other, tmp_path):
    kept = tmp_path / "kept.npz"
    before = value(evaluate(painted, other, inception, statistics=kept))
    report = evaluate(kept, other, inception)
    assert value(report) == before
    assert "does not tell of which model" in report.details["warnings"][-1]
    assert report.figures[0].note == "pictures: unknown and 16"
    alone = evaluate(kept, kept)
    assert alone.figures[0].name == "Fréchet distance of the statistics given"
    assert (alone.model, alone.figures[0].of) == ("not told", 0)
    with pytest.raises(BadInput, match="does not tell of which pictures"):
        evaluate(painted, other, inception, statistics=kept)


def test_features_made_otherwise_are_not_compared(
    inception, painted, random_clip, tmp_path, monkeypatch
):
    kept = tmp_path / "kept.safetensors"
    evaluate(painted, painted, inception, statistics=kept)
    with pytest.raises(BadInput, match="of their features weights is"):
        evaluate(kept, painted, random_clip)
    with pytest.raises(BadInput, match="of their features preparing is"):
        evaluate(kept, painted, inception, size=10)


def test_progress_goes_through_both_sets(inception, painted, other):
    seen = []
    evaluate(painted, other, inception, batch_size=10, progress=lambda *told: seen.append(told))
    assert seen == [(str(painted), 10, 12), (str(painted), 12, 12)] + [
        (str(other), done, 16) for done in (10, 16)
    ]


def test_what_cannot_be_measured_is_refused(inception, painted, tmp_path, random_clip):
    empty = tmp_path / "empty"
    empty.mkdir()
    Image.new("RGB", (9, 9)).save(empty / "one.png")
    (empty / "broken.png").write_bytes(b"no picture")
    with pytest.raises(BadInput, match=r"1 of 2 pictures .* can be read.*broken\.png"):
        evaluate(empty, painted, inception)
    for wrong in ({"batch_size": 0}, {"size": 0}, {"block": 4}):
        with pytest.raises(BadInput, match=next(iter(wrong))):
            evaluate(painted, painted, inception, **wrong)
    with pytest.raises(BadInput, match="block 2 is of an Inception"):
        evaluate(painted, painted, random_clip, block=2)
    with pytest.raises(BadInput, match="no folder"):
        evaluate(painted, painted, inception, statistics=tmp_path / "nowhere" / "k.safetensors")
    with pytest.raises(Unsupported, match="makes no features"):
        evaluate(painted, painted, Judge(JudgeConfig(objects=2, backgrounds=2)))


def test_pictures_of_several_sizes_need_one_where_a_model_does_not_resize(painted, tmp_path):
    torch.manual_seed(0)
    model = Inception(replace(TINY, size=None)).eval()
    with pytest.raises(BadInput, match="several sizes"):
        evaluate(painted, painted, model)
    assert evaluate(painted, painted, model, size=80, block=0).figures[0].value < 1e-6


def test_statistics_of_a_source_can_be_had_alone(random_clip, painted):
    found, failures = statistics_of(open_source(painted), extractor(random_clip))
    assert failures == {}
    assert found.count == 12
    assert found.mean.shape == (random_clip.config.embed_width,)
