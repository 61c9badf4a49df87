"""Answers of official implementations on formula-filled weights; SPEC.md says how they are made.

A case goes the way a real checkpoint goes: the weights are written to a file under their published
keys, and `lascaux.weights.load` finds, recognises, renames and checks them.
"""

import io
import json
import os
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor

ROOT = Path(__file__).parents[2]
VOCABULARY = Path(
    os.environ.get("LASCAUX_CLIP_VOCABULARY")
    or ROOT / "build" / "vocabulary" / "bpe_simple_vocab_16e6.txt.gz"
)


@dataclass(frozen=True)
class Case:
    """One recorded answer."""

    name: str
    manifest: dict[str, Any]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]

    @property
    def config(self) -> dict[str, Any]:
        return self.manifest["config"]

    def check(self, answers: dict[str, Tensor]) -> None:
        """Every recorded output is answered, and every answer is within the tolerance."""
        assert sorted(answers) == sorted(self.outputs)
        tolerance = self.manifest["tolerance"]
        for name, expected in self.outputs.items():
            own = {**tolerance, **tolerance.get("per_output", {}).get(name, {})}
            actual = answers[name].to(expected.dtype)
            torch.testing.assert_close(
                actual,
                expected,
                rtol=own["rtol"],
                atol=own["atol"],
                msg=lambda text, name=name: f"{self.name}, output {name}: {text}",
            )


def read_case(folder: Path) -> Case:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    tensors = load_file(folder / "tensors.safetensors")
    return Case(
        name=f"{manifest['model']}/{manifest['case']}",
        manifest=manifest,
        inputs={k.removeprefix("in."): v for k, v in tensors.items() if k.startswith("in.")},
        outputs={k.removeprefix("out."): v for k, v in tensors.items() if k.startswith("out.")},
    )


def filled_state(case: Case) -> dict[str, Tensor]:
    """The published checkpoint of a case, by SPEC.md's formula."""
    state: dict[str, Tensor] = {}
    for key, entry in case.manifest["state"].items():
        key_of_fill = entry.get("alias_of", key)
        dtype = getattr(torch, entry["dtype"])
        if "value" in entry:
            state[key] = torch.tensor(entry["value"], dtype=dtype).reshape(entry["shape"])
            continue
        seed = [case.manifest["seed"], zlib.crc32(key_of_fill.encode())]
        generator = np.random.Generator(np.random.PCG64(seed))
        z = generator.standard_normal(entry["shape"], dtype=np.float32)
        z = np.abs(z) if entry["abs"] else z
        value = np.asarray(entry["mean"] + entry["std"] * z, dtype=np.float32)
        state[key] = torch.from_numpy(value).to(dtype)
    return state


def loaded_clip(case: Case, folder: Path) -> Any:
    """The case's CLIP, through the loader, and of the sizes that its config tells."""
    from lascaux.models.clip import ClipConfig
    from lascaux.weights.load import load

    path = folder / "weights.pt"
    torch.save(filled_state(case), path)
    told = case.config["constructor"]
    layers, width = told["vision_layers"], told["vision_width"]
    resnet = isinstance(layers, list)
    expected = ClipConfig(
        embed_width=told["embed_dim"],
        image_size=told["image_resolution"],
        vision_layers=tuple(layers) if resnet else layers,
        vision_width=width,
        vision_heads=width * 32 // 64 if resnet else width // 64,
        patch_size=None if resnet else told["vision_patch_size"],
        text_width=told["transformer_width"],
        text_heads=told["transformer_heads"],
        text_layers=told["transformer_layers"],
        context_length=told["context_length"],
        vocabulary_size=told["vocab_size"],
    )
    # Shapes do not tell the heads; OpenAI's rule is one for 64 channels.
    regular = told["transformer_heads"] == max(1, told["transformer_width"] // 64)
    model = load(path, config=None if regular else expected)
    assert model.config == expected
    return model


def tokenizer(context_length: int) -> Any:
    from lascaux.text.clip_bpe import ClipTokenizer

    if not VOCABULARY.is_file():
        pytest.skip(
            f"needs OpenAI's vocabulary at {VOCABULARY}: `make vocabulary` fetches it, or "
            "LASCAUX_CLIP_VOCABULARY names it"
        )
    return ClipTokenizer.from_file(VOCABULARY, context_length=context_length)


@torch.no_grad()
def check_towers(case: Case, folder: Path) -> None:
    model = loaded_clip(case, folder)
    x = case.inputs["image"].float() if "image" in case.inputs else None
    ids = case.inputs.get("tokens")
    answers: dict[str, Callable[[], Tensor]] = {
        "image_features": lambda: model.encode_image(x),
        "text_features": lambda: model.encode_text(ids),
        "logits_per_image": lambda: model(x, ids),
        "logits_per_text": lambda: model(x, ids).T,
    }
    case.check({name: answers[name]() for name in case.outputs})
    told = case.config["constructor"]
    published = "texts" in case.config and told["vocab_size"] == 49408
    if published and ids is not None and VOCABULARY.is_file():
        encode = tokenizer(told["context_length"])
        assert torch.equal(encode(case.config["texts"]), ids.long())


def check_tokens(case: Case, folder: Path) -> None:
    from lascaux.errors import BadText

    texts = case.config["texts"]
    encode = tokenizer(case.config["context_length"])

    def refused(text: str) -> bool:
        try:
            encode([text], too_long="error")
        except BadText:
            return True
        return False

    answers: dict[str, Tensor] = {}
    for name in case.outputs:
        if name == "full_length":
            answers[name] = torch.tensor([len(ids) + 2 for ids in encode.encode(texts)])
        elif name == "raises":
            answers[name] = torch.tensor([refused(text) for text in texts])
        elif name == "tokens":
            answers[name] = encode(texts)
        elif found := re.fullmatch(r"tokens_ctx(\d+)", name):
            answers[name] = encode(texts, context_length=int(found.group(1)))
    case.check(answers)
    if "decoded" in case.config:
        assert [encode.decode(ids) for ids in encode.encode(texts)] == case.config["decoded"]


def check_preprocessing(case: Case, folder: Path) -> None:
    from lascaux.images.decode import read_picture
    from lascaux.images.preprocess import Preprocessing, normalise, to_square

    config = case.config
    how = Preprocessing(
        size=config["n_px"],
        reading="official",
        mean=tuple(config["mean"]),
        std=tuple(config["std"]),
    )
    step = config.get("step", 1)
    answers: dict[str, Tensor] = {}
    for name, data in case.inputs.items():
        picture = read_picture(io.BytesIO(data.numpy().tobytes()).getvalue(), mode="official")
        rgb = torch.from_numpy(np.array(to_square(picture, how))).permute(2, 0, 1)
        whole = normalise(rgb.float()[None] / 255, how.mean, how.std)[0]
        answers[name] = whole[:, ::step, ::step]
        answers[f"{name}.rgb"] = rgb[:, ::step, ::step]
        recorded = config.get("images", {}).get(name, {})
        for measure in ("mean", "std"):
            if measure in recorded:
                own = getattr(whole, measure)().item()
                assert own == pytest.approx(recorded[measure], abs=1e-4), f"{name}, {measure}"
        if f"{name}.rgb" in case.outputs:
            assert torch.equal(answers[f"{name}.rgb"], case.outputs[f"{name}.rgb"]), name
    case.check({name: answers[name] for name in case.outputs})


@torch.no_grad()
def check_zeroshot(case: Case, folder: Path) -> None:
    from lascaux.tasks.classify import Classifier

    model = loaded_clip(case, folder)
    model.tokenizer = tokenizer(model.config.context_length)
    features = F.normalize(model.encode_image(case.inputs["image"].float()), dim=-1)
    answers: dict[str, Tensor] = {}
    for name, templates in case.config["templates"].items():
        prototypes = Classifier(case.config["classes"], model, templates=templates).prototypes
        logits = model.logits(features, prototypes)
        answers[f"{name}.prototypes"] = prototypes.T
        answers[f"{name}.logits"] = logits
        answers[f"{name}.pred_scores"] = logits.softmax(dim=-1)
        answers[f"{name}.pred_labels"] = logits.argmax(dim=-1, keepdim=True)
    case.check(answers)


def checker(case: Case) -> Callable[[Case, Path], None]:
    model, config = case.manifest["model"], case.manifest.get("config", {})
    if model == "clip" and "constructor" in config:
        return check_towers
    if model == "clip" and "n_px" in config:
        return check_preprocessing
    if model == "clip" and "tokens" in case.outputs:
        return check_tokens
    if model == "zeroshot":
        return check_zeroshot
    pytest.fail(f"{case.name}: the project has no model {model!r}, or not this part of it")


@pytest.mark.filterwarnings("ignore::lascaux.text.clip_bpe.TextCutWarning")
@pytest.mark.filterwarnings("ignore:more than one class is named")
def test_the_answer_is_the_official_one(folder: Path, tmp_path: Path) -> None:
    case = read_case(folder)
    checker(case)(case, tmp_path)
