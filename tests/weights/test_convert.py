import json
import warnings

import pytest
import torch
from torch import nn

from lascaux.errors import BadInput, UnsafeFile, WrongKeys
from lascaux.models.clip import Clip
from lascaux.text.clip_bpe import ClipTokenizer
from lascaux.weights.catalogue import RemoteFile
from lascaux.weights.convert import convert
from lascaux.weights.download import sha256_of
from lascaux.weights.keymap import translate_back
from lascaux.weights.load import load
from lascaux.weights.maps.clip import CLIP_HUGGINGFACE, CLIP_OPENAI
from lascaux.weights.reading import read_tensors
from tiny import tiny

CONFIG = tiny(image_size=32, patch_size=16, vision_layers=2, text_layers=2, context_length=12)


@pytest.fixture(autouse=True)
def no_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("LASCAUX_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("LASCAUX_OFFLINE", "1")


@pytest.fixture(scope="module")
def published():
    """A tiny CLIP under OpenAI's names, matrices in half precision as in their files."""
    torch.manual_seed(1)
    state = translate_back(Clip(CONFIG).state_dict(), CLIP_OPENAI)
    state = {
        name: (x.half() if name.endswith("weight") and x.ndim == 2 else x).detach().clone()
        for name, x in state.items()
    }
    for name, number in (("input_resolution", 32), ("context_length", 12), ("vocab_size", 600)):
        state[name] = torch.tensor(number)
    return state


def answers(model):
    draw = torch.Generator().manual_seed(4)
    x = torch.randn(2, 3, 32, 32, generator=draw)
    ids = torch.tensor([[598, 5, 6, 599, 0, 0, 0, 0, 0, 0, 0, 0]])
    with torch.no_grad():
        return model(x, ids), model.encode_image(x)


def same_answers(one, other):
    """Equal weights to the bit; answers differ by where in memory a file's numbers lie."""
    ours, theirs = one.state_dict(), other.state_dict()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours | theirs)
    for a, b in zip(answers(one), answers(other), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-6)


def as_modules(state):
    """A tree of modules without code that holds tensors under dotted names."""
    root = nn.Module()
    for name, tensor in state.items():
        *parents, last = name.split(".")
        at = root
        for parent in parents:
            if not hasattr(at, parent):
                at.add_module(parent, nn.Module())
            at = getattr(at, parent)
        if tensor.is_floating_point():
            at.register_parameter(last, nn.Parameter(tensor, requires_grad=False))
        else:
            at.register_buffer(last, tensor)
    return root


def saved(state, path, form):
    if form == "torchscript":
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.script(as_modules(state)).save(path)
    elif form == "lightning":
        content = {f"model.{name}": tensor for name, tensor in state.items()}
        torch.save({"state_dict": content, "epoch": 1, "callbacks": {}}, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=form != "legacy")
    return path


@pytest.mark.parametrize("form", ["zip", "legacy", "torchscript", "lightning"])
def test_a_converted_folder_holds_the_file_s_weights_and_answers_alike(tmp_path, published, form):
    file = saved(published, tmp_path / "clip.pt", form)
    report = convert(file, tmp_path / "out")
    same_answers(load(tmp_path / "out"), load(file))
    assert report.layout == "openai"
    assert report.matched == len(published) - 3
    assert set(report.dropped) == {"input_resolution", "context_length", "vocab_size"}
    assert all(report.dropped.values())
    assert report.activation_known == "from the layout"
    assert report.sources[0].sha256 == sha256_of(file)
    assert report.container == {"legacy": "torch-legacy", "torchscript": "torchscript"}.get(
        form, "torch-zip"
    )


def test_stored_keeps_each_tensor_as_precise_as_it_was(tmp_path, published):
    report = convert(saved(published, tmp_path / "clip.pt", "zip"), tmp_path / "out")
    stored = read_tensors(tmp_path / "out" / "model.safetensors").tensors
    kinds = {tensor.dtype for tensor in stored.values()}
    assert kinds == {torch.float16, torch.float32}
    assert stored["text.positions"].dtype == torch.float32
    assert report.dtypes["float16"] > 10
    size = sum(tensor.nbytes for tensor in published.values())
    assert sum(tensor.nbytes for tensor in stored.values()) <= size


def test_a_chosen_dtype_is_that_of_the_matrices(tmp_path, published):
    file = saved(published, tmp_path / "clip.pt", "zip")
    for dtype in ("float32", "bfloat16"):
        report = convert(file, tmp_path / dtype, dtype=dtype)
        stored = read_tensors(tmp_path / dtype / "model.safetensors").tensors
        assert stored["text.tokens.weight"].dtype == getattr(torch, dtype)
        assert report.dtype == dtype
    same_answers(load(tmp_path / "float32"), load(file))
    with pytest.raises(BadInput, match="int8"):
        convert(file, tmp_path / "int8", dtype="int8")


def test_the_report_lists_every_written_file_with_its_hash(tmp_path, published):
    report = convert(saved(published, tmp_path / "clip.pt", "zip"), tmp_path / "out")
    for file in report.written:
        assert file.sha256 == sha256_of(file.path)
    names = {file.path.rpartition("/")[2] for file in report.written}
    assert {"config.json", "model.safetensors", "preprocessor_config.json", "README.md"} <= names
    card = (tmp_path / "out" / "README.md").read_text()
    assert report.sources[0].sha256 in card
    assert "clip.pt" in card


def test_the_tokenizer_is_written_or_its_source_told(tmp_path, published):
    file = saved(published, tmp_path / "clip.pt", "zip")
    report = convert(file, tmp_path / "without")
    assert report.tokenizer is None
    assert "600 tokens" in report.advice
    words = ["a photo of a cat", "a photo of a dog"] * 3
    ClipTokenizer.train(words, 600, 12).save(tmp_path / "words.json")
    report = convert(file, tmp_path / "with", tokenizer=tmp_path / "words.json")
    assert report.tokenizer == str(tmp_path / "words.json")
    assert report.advice is None
    ids = load(tmp_path / "with").tokenizer("a cat")
    assert torch.equal(ids, ClipTokenizer.from_file(tmp_path / "words.json")("a cat"))
    with pytest.raises(BadInput, match=r"absent\.json"):
        convert(file, tmp_path / "again", tokenizer=tmp_path / "absent.json")


def test_openais_vocabulary_is_taken_from_the_cache(tmp_path, published, monkeypatch):
    words = tmp_path / "home" / "openai-clip" / "words.json"
    words.parent.mkdir(parents=True)
    ClipTokenizer.train(["a photo of a cat"] * 3, 560, 12).save(words)
    vocabulary = RemoteFile(
        url="https://publisher.invalid/words.json",
        folder="openai-clip",
        sha256=sha256_of(words),
    )
    monkeypatch.setattr("lascaux.weights.convert.OPENAI_VOCABULARY", vocabulary)
    monkeypatch.setattr("lascaux.weights.convert._OPENAI_TOKENS", 600)
    file = saved(published, tmp_path / "clip.pt", "zip")
    assert convert(file, tmp_path / "a").tokenizer == "OpenAI's vocabulary, from the cache"
    assert load(tmp_path / "a").tokenizer is not None
    assert convert(file, tmp_path / "b", tokenizer="openai").tokenizer == "OpenAI's vocabulary"
    words.unlink()
    assert "--tokenizer openai" in convert(file, tmp_path / "c").advice


def test_a_folder_that_is_not_empty_is_left_alone_unless_forced(tmp_path, published):
    file = saved(published, tmp_path / "clip.pt", "zip")
    convert(file, tmp_path / "out")
    before = sha256_of(tmp_path / "out" / "model.safetensors")
    with pytest.raises(BadInput, match=r"not empty.*--force"):
        convert(file, tmp_path / "out", dtype="float32")
    assert sha256_of(tmp_path / "out" / "model.safetensors") == before
    convert(file, tmp_path / "out", dtype="float32", force=True)
    assert sha256_of(tmp_path / "out" / "model.safetensors") != before
    # Files that Lascaux did not write stay, whatever is asked.
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("years of work")
    with pytest.raises(BadInput, match=r"thesis\.txt"):
        convert(file, tmp_path / "mine", force=True)
    assert (tmp_path / "mine" / "thesis.txt").exists()


def test_nothing_is_left_behind_by_a_file_that_cannot_be_converted(tmp_path, published):
    less = {name: x for name, x in published.items() if name != "ln_final.bias"}
    with pytest.raises(WrongKeys, match=r"ln_final\.bias"):
        convert(saved(less, tmp_path / "less.pt", "zip"), tmp_path / "out")
    (tmp_path / "evil.pt").write_bytes(b"cos\nsystem\n(S'true'\ntR.")
    with pytest.raises(UnsafeFile):
        convert(tmp_path / "evil.pt", tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["evil.pt", "less.pt"]


def test_an_unknown_activation_is_said_to_be_assumed(tmp_path, published, caplog):
    bare = {name: x for name, x in published.items() if x.is_floating_point()}
    file = saved(bare, tmp_path / "bare.pt", "zip")
    assert convert(file, tmp_path / "a").activation_known is None
    assert "activation" in caplog.text
    report = convert(file, tmp_path / "b", activation="gelu")
    assert report.activation_known == "as you said"
    assert report.config.activation == "gelu"
    assert (
        json.loads((tmp_path / "b" / "config.json").read_text())["config"]["activation"] == "gelu"
    )


def test_a_hugging_face_file_converts_by_its_own_names(tmp_path, published):
    state = translate_back(Clip(CONFIG).state_dict(), CLIP_HUGGINGFACE)
    file = saved(state, tmp_path / "hf.bin", "zip")
    report = convert(file, tmp_path / "out", activation="quick_gelu")
    assert report.layout == "huggingface"
    same_answers(load(tmp_path / "out"), load(file, activation="quick_gelu"))
