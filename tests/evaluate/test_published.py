from collections import Counter

from lascaux.evaluate.published import official_name, official_names, published, published_of
from lascaux.weights.catalogue import ENTRIES


def test_every_model_has_its_figure_of_every_table():
    assert set(official_names()) < {entry.name for entry in ENTRIES}
    assert len(official_names()) == 9
    count = Counter((each.source, each.data, each.metric) for each in published())
    assert count == {
        **{("CLIP paper, table 11", d, "top-1"): 9 for d in ("imagenet", "cifar10", "cifar100")},
        **{("open_clip", d, "top-1"): 9 for d in ("imagenet", "imagenetv2", "cifar10", "cifar100")},
        **{("MegEngine port, half precision", "imagenetv2", m): 9 for m in ("top-1", "top-5")},
    }
    assert all(20 < each.value < 99 for each in published())


def test_figures_of_different_sources_agree_as_far_as_they_are_known_to():
    """A slip of a row or column would put them apart; small ResNets differ most, on CIFAR."""
    ours = {(each.source, each.data, each.model): each.value for each in published()}
    for (source, data, model), value in ours.items():
        if source == "CLIP paper, table 11":
            assert abs(value - ours["open_clip", data, model]) < 4.2, (data, model)


def test_figures_are_found_by_any_name_of_the_same_weights(tmp_path, monkeypatch):
    for name in ("ViT-B/32", "vit-b-32", "openai/clip-vit-base-patch32"):
        assert official_name(name) == "ViT-B/32"
        found = {(each.source, each.value) for each in published_of("cifar100", name)}
        assert found == {("CLIP paper, table 11", 65.1), ("open_clip", 64.23)}
    for name in ("ochre-clip", "laion/CLIP-ViT-B-32-laion2B-s34B-b79K", "nobody"):
        assert official_name(name) is None
        assert published_of("cifar100", name) == ()
    monkeypatch.chdir(tmp_path)
    (tmp_path / "RN50").mkdir()  # a folder is taken before a name
    assert official_name("RN50") is None
