import numpy as np
import pytest
import torch
from PIL import Image

from lascaux.data.sources import open_source
from lascaux.errors import BadInput, Unsupported
from lascaux.evaluate.reconstruct import by_thumbnail, evaluate, fidelity, thumbnail_size
from lascaux.images.fidelity import psnr, ssim
from lascaux.models.lpips import Lpips, LpipsConfig
from lascaux.nn.quantise import perplexity
from lascaux.tasks.spell import Speller
from tokenisers import Tones, tiny_tokeniser


def drawn(seed, size=(50, 40)):
    rng = np.random.Generator(np.random.PCG64([seed]))
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


@pytest.fixture
def photos(tmp_path):
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        drawn(number).save(folder / f"{number}.png")
    (folder / "2.png").write_bytes(b"no picture")
    return folder


def named(report):
    return {figure.name: figure for figure in report.figures}


def tensor(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].double() / 255


@pytest.mark.parametrize("kind", ["vqgan", "dvae", "discrete-vae"])
def test_figures_are_means_over_the_pictures_that_can_be_read(photos, kind):
    model = tiny_tokeniser(kind)
    report = evaluate(photos, model, batch_size=2)
    found = [Speller(model).reconstruct(photos / f"{n}.png") for n in (0, 1, 3, 4)]
    figures = named(report)
    for name, measure in (("PSNR", psnr), ("SSIM", ssim)):
        each = [measure(tensor(one.seen), tensor(one.picture)).item() for one in found]
        # Pixels go by way of float32 in one place and not in the other.
        assert figures[name].value == pytest.approx(np.mean(each), abs=1e-5)
        assert figures[name].of == 4
    ids = torch.tensor([one.spelling.ids for one in found])
    assert figures["perplexity"].value == pytest.approx(
        perplexity(ids, model.codes).item(), rel=1e-5
    )
    assert figures["codes used"].value == len(ids.unique()) / model.codes
    assert figures["bits per pixel"].value == found[0].spelling.bits / 32**2
    assert [one["source"] for one in report.details["failures"]] == ["2.png"]
    worst = [one["psnr"] for one in report.details["worst"]]
    assert worst == sorted(worst)
    assert "LPIPS" not in figures


def test_the_baseline_is_a_thumbnail_of_at_most_as_many_bits(photos):
    figures = named(evaluate(photos, tiny_tokeniser("vqgan")))
    # 64 ids of log2(24) bits are 293; 3 x 3 pixels of 24 bits are 216, 4 x 4 would be 384.
    assert figures["thumbnail, bits per pixel"].note == "3 x 3 pixels of 24 bits"
    assert figures["thumbnail, bits per pixel"].value == 216 / 1024
    seen = [Speller(tiny_tokeniser("vqgan")).reconstruct(photos / f"{n}.png").seen for n in (0, 1)]
    small = [one.resize((3, 3), Image.Resampling.BICUBIC) for one in seen]
    again = [one.resize((32, 32), Image.Resampling.BICUBIC) for one in small]
    assert [by_thumbnail(one, 293.0).tobytes() for one in seen] == [one.tobytes() for one in again]


@pytest.mark.parametrize(
    ("size", "bits", "expected"),
    [
        ((256, 256), 2560, (10, 10)),  # f16 of 1024 codes
        ((256, 256), 13312, (23, 23)),  # f8 of 8192
        ((200, 100), 24 * 50, (10, 5)),
        ((64, 64), 3, (1, 1)),  # bits for no pixel at all
        ((8, 8), 10**6, (8, 8)),  # bits for more than the picture
    ],
)
def test_thumbnails_are_as_large_as_the_bits_pay_for(size, bits, expected):
    assert thumbnail_size(*size, float(bits)) == expected


def test_lpips_is_measured_with_the_weights_that_are_given(photos):
    torch.manual_seed(0)
    lpips = Lpips(LpipsConfig(widths=(4, 4, 4, 4, 4), depths=(1, 1, 1, 1, 1)))  # in train() mode
    model = tiny_tokeniser("vqgan")
    figures = named(evaluate(photos, model, lpips=lpips))
    lpips.eval()
    expected = []
    for number in (0, 1, 3, 4):
        one = Speller(model).reconstruct(photos / f"{number}.png")
        x, other = (2 * tensor(image).float() - 1 for image in (one.seen, one.picture))
        expected.append(lpips(x, other).item())
    assert figures["LPIPS"].value == pytest.approx(np.mean(expected), rel=1e-4)
    assert figures["thumbnail, LPIPS"].value > 0
    with pytest.raises(BadInput, match="LPIPS takes 16 or more"):
        evaluate(photos, model, lpips=lpips, size=12)


def test_any_source_is_measured_and_a_limit_draws_by_the_seed(photos):
    model = tiny_tokeniser("vqgan")
    (photos / "2.png").unlink()
    whole = evaluate(open_source(photos), model)
    one, same, other = (evaluate(photos, model, limit=2, seed=seed) for seed in (0, 0, 1))
    assert one.figures == same.figures != other.figures
    assert named(whole)["PSNR"].of == 4
    assert named(one)["PSNR"].of == 2
    assert whole.settings["data"] == one.settings["data"]


def test_equal_pictures_are_told_apart_from_near_ones():
    image = drawn(0)
    found = fidelity(image, image)
    assert found.psnr is None
    assert found.ssim == pytest.approx(1)
    assert fidelity(drawn(0, (8, 8)), drawn(1, (8, 8))).ssim is None


def test_tokens_without_places_are_measured_too(tmp_path):
    stripes = np.repeat(np.linspace(0, 240, 16).astype(np.uint8)[:, None, None], 16, axis=1)
    Image.fromarray(np.repeat(stripes, 3, axis=2)).save(tmp_path / "stripes.png")
    figures = named(evaluate(tmp_path, Tones()))
    assert figures["PSNR"].value == 100
    assert figures["PSNR"].note == "1 are equal and count as 100"
    assert figures["perplexity"].value == pytest.approx(16)


def test_what_cannot_be_measured_is_refused(photos, tmp_path):
    model = tiny_tokeniser("vqgan")
    with pytest.raises(BadInput, match="limit 0"):
        evaluate(photos, model, limit=0)
    empty = tmp_path / "broken"
    empty.mkdir()
    (empty / "a.png").write_bytes(b"x")
    with pytest.raises(BadInput, match=r"none of the 1 pictures .* the first: not a picture"):
        evaluate(empty, model)
    with pytest.raises(Unsupported, match="what is wanted here is an LPIPS"):
        evaluate(photos, model, lpips="ochre-judge")
