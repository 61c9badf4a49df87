import re
import subprocess
import sys

import pytest

from lascaux.errors import UnknownModel
from lascaux.weights.catalogue import ENTRIES, OPENAI_VOCABULARY, Entry, find, nearest
from lascaux.weights.kinds import KINDS


@pytest.mark.parametrize(
    ("written", "name"),
    [
        ("ViT-B/32", "ViT-B/32"),
        ("ViT-B-32", "ViT-B/32"),
        ("vit_b_32", "ViT-B/32"),
        ("ViT_B_32", "ViT-B/32"),
        ("ViT-B/32-openai", "ViT-B/32"),
        ("ViT-B-32-quickgelu", "ViT-B/32"),
        ("openai/ViT-B/32", "ViT-B/32"),
        ("clip-vit-b-32", "ViT-B/32"),
        ("vitl14", "ViT-L/14"),
        ("ViT-L/14@336px", "ViT-L/14@336px"),
        ("ViT_L_14_336px", "ViT-L/14@336px"),
        ("ViT-L-14-336", "ViT-L/14@336px"),
        ("ViT-L-14-336-quickgelu", "ViT-L/14@336px"),
        ("rn50X64", "RN50x64"),
        ("OCHRE_clip", "ochre-clip"),
        ("openai/clip-vit-base-patch32", "openai/clip-vit-base-patch32"),
        ("CLIP-ViT-H-14-laion2B-s32B-b79K", "laion/CLIP-ViT-H-14-laion2B-s32B-b79K"),
    ],
)
def test_a_model_is_found_as_people_write_it(written, name):
    assert find(written).name == name


def test_an_unknown_name_gives_the_nearest_ones():
    with pytest.raises(UnknownModel, match=r"'ViT-B/33'.*nearest: ViT-B/32.*lascaux models"):
        find("ViT-B/33")
    assert nearest("okre clip")[0] == "ochre-clip"
    with pytest.raises(UnknownModel):
        find("")


def test_the_nine_files_of_openai_carry_the_hash_in_their_address():
    official = [entry for entry in ENTRIES if entry.files and entry.model == "clip"]
    assert len(official) == 9
    for entry in official:
        (file,) = entry.files
        assert file.sha256
        assert re.fullmatch(r"[0-9a-f]{64}", file.sha256)
        assert file.url.split("/")[-2] == file.sha256
        assert file.name == entry.name.replace("/", "-").replace("@", "-") + ".pt"
        assert entry.tokenizer == (OPENAI_VOCABULARY,)
        assert entry.licence == "MIT"


def test_every_entry_comes_from_one_place_and_names_a_variant_that_exists():
    for entry in ENTRIES:
        assert sum(map(bool, (entry.files, entry.hub, entry.embedded))) == 1, entry.name
        assert entry.variant is None or entry.variant in KINDS[entry.model].variants, entry.name
        assert entry.licence
        assert entry.source


def test_no_two_entries_share_a_spelling():
    for entry in ENTRIES:
        for spelling in (entry.name, *entry.aliases):
            assert find(spelling) is entry


def test_an_embedded_model_knows_whether_its_folder_is_there(tmp_path, monkeypatch):
    entry = Entry(name="x", embedded="no-such-model", licence="MIT", source="here")
    assert entry.embedded_folder is not None
    assert entry.embedded_folder.parts[-2:] == ("ochre", "no-such-model")
    assert not entry.available
    assert find("RN50").available


def test_looking_models_up_does_not_import_torch():
    code = (
        "import sys, lascaux.weights.catalogue as c, lascaux.weights.download; c.find('RN50');"
        "sys.exit('torch' in sys.modules or 'huggingface_hub' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
