import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import lascaux
from lascaux.cli.main import main
from lascaux.data.world.boxed import boxed_scenes
from lascaux.errors import Unsupported
from lascaux.evaluate import ochre_styled, ochre_tokeniser
from lascaux.evaluate.ochre_tokeniser import judge_all, recognised
from lascaux.models.styled_vq import StyledVq, StyledVqConfig
from lascaux.models.vqgan import VqGan, VqGanConfig
from tokeniser import MeanTokens

TINY = StyledVqConfig(
    image_size=64,
    patch_size=16,
    attributes=4,
    width=16,
    heads=2,
    mlp_width=16,
    plain_layers=1,
    expert_layers=1,
    latent_width=4,
    codes=0,
    decoder_width=16,
    decoder_heads=2,
    decoder_mlp_width=16,
    decoder_layers=1,
    pixel_width=4,
    pixel_kernel=3,
    pixel_groups=2,
)


def styled() -> StyledVq:
    torch.manual_seed(0)
    model = StyledVq(TINY)
    model.adopt(torch.randn(16, 4), mean=torch.randn(4, 4))
    return model


def named(report) -> dict[str, float]:
    return {figure.name: figure.value for figure in report.figures}


def test_a_tokeniser_is_measured_by_the_box_and_by_the_judge(tmp_path: Path):
    report = ochre_tokeniser.evaluate(
        MeanTokens(256, size=64, factor=2), 24, sheet=tmp_path / "sheet.png"
    )
    found = named(report)
    assert found["bits of a picture"] == 32 * 32 * 8
    assert found["drawn: judge names the object"] > 0.9
    # It is fine, but grey.
    assert found["reconstructed: judge names the background"] < 0.5
    apart = found["PSNR in the object's box"] - found["thumbnail, PSNR in the box"]
    assert found["better in the box by"] == pytest.approx(apart)
    assert found["same code"] == 1, "a code says what is in its patch alone"
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.size == (2 * 12 * 64, 2 * 2 * 64)
    coarse = named(ochre_tokeniser.evaluate(MeanTokens(256, size=64, factor=16), 24))
    assert coarse["PSNR in the object's box"] < found["PSNR in the object's box"]
    assert coarse["reconstructed: judge names the object"] < 0.2


def test_what_stands_elsewhere_moves_codes_of_convolutions_and_none_of_ochre_vq():
    assert named(ochre_tokeniser.evaluate("ochre-vq", 24))["same code"] == 1.0
    torch.manual_seed(0)
    small = {"codes": 200, "code_width": 4, "latent_width": 4, "image_size": 64, "width": 8}
    config = VqGanConfig(**small, multiples=(1, 1, 2, 2), blocks=1, attention_sizes=(), groups=4)
    model = VqGan(config).eval()
    torch.nn.init.normal_(model.codebook.weight)
    assert named(ochre_tokeniser.evaluate(model, 24))["same code"] < 0.9


def test_codes_that_do_not_fall_on_pixels_are_not_compared():
    found = named(ochre_tokeniser.evaluate(MeanTokens(256, size=128, factor=1), 2))
    assert "same code" not in found
    assert "codes used" in found


def test_scenes_are_enlarged_to_the_size_that_a_tokeniser_takes():
    report = ochre_tokeniser.evaluate(MeanTokens(256, size=128, factor=4), 6)
    same = ochre_tokeniser.evaluate(MeanTokens(256, size=64, factor=2), 6)
    a, b = named(report), named(same)
    assert a["bits of a picture"] == b["bits of a picture"]
    assert a["PSNR in the object's box"] == pytest.approx(b["PSNR in the object's box"], abs=1.5)


def test_codes_of_places_of_their_own_are_counted_at_each():
    torch.manual_seed(0)
    own = {"coordinates": (1, 2, 3, 4), "shrunk_size": 8, "distance": "euclidean"}
    model = StyledVq(replace(TINY, **own, codes=8)).eval()
    torch.nn.init.normal_(model.codebook)
    report = ochre_styled.evaluate(model, 12)
    (used,) = (figure for figure in report.figures if figure.name == "codes used")
    # Nothing is learnt: all pictures have the same code at a place.
    assert used.value == 4 / 32
    assert used.of == 32
    assert named(report)["perplexity"] == pytest.approx(1.0)


def test_all_attributes_are_the_whole_and_an_exchanged_one_changes_it(tmp_path: Path):
    model = styled()
    report = ochre_styled.evaluate(model, 16, strip=tmp_path / "strip.png")
    found, curve = named(report), report.details["prefixes"]
    assert [one["attributes"] for one in curve] == [1, 2, 3, 4]
    assert curve[-1]["box_psnr"] == pytest.approx(found["PSNR in the object's box"], abs=0.05)
    assert [one["attribute"] for one in report.details["exchanges"]] == [0, 1, 2, 3]
    assert max(one["pixels"] for one in report.details["exchanges"]) > 0
    assert 0 <= found["search by sequence of 4 codes: nearest has the same background"] <= 1
    with Image.open(tmp_path / "strip.png") as image:
        strip = np.asarray(image)
    assert strip.shape == (8 * 64, 5 * 64, 3)
    first = boxed_scenes("test", ochre_tokeniser.SEED, 1).pictures[0].permute(1, 2, 0).numpy()
    assert (strip[:64, :64] == first).all()


def test_attributes_of_other_tokenisers_are_refused(tmp_path: Path):
    with pytest.raises(Unsupported, match="this benchmark is of a Styled VAE-VQ"):
        ochre_styled.evaluate(MeanTokens(256, size=64), 4)
    with pytest.raises(Unsupported, match="it has no codebook"):
        ochre_styled.evaluate(StyledVq(replace(TINY, codes=0)), 4)


def test_the_judge_names_what_is_drawn():
    scenes = boxed_scenes("test", 3, 40)
    judge = lascaux.load("ochre-judge")
    right = recognised(scenes.scenes, judge_all(judge, scenes.pictures.float() / 255))
    assert sum(right["object"]) >= 38
    assert sum(right["background"]) == 40


def test_the_command_prints_a_report(tmp_path: Path, capsys):
    model = lascaux.save(styled(), tmp_path / "model")
    strip = tmp_path / "strip.png"
    words = ["evaluate", "ochre-styled", "--model", str(model), "--strip", str(strip), "--json"]
    assert main([*words, "--scenes", "0"]) == 2
    assert "--scenes is 0" in capsys.readouterr().err
    assert main([*words, "--scenes", "8"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["benchmark"] == "ochre-styled"
    assert len(told["prefixes"]) == 4
    assert strip.is_file()
