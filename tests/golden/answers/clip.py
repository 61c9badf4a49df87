"""CLIP: both towers, OpenAI's tokens, and how pictures are prepared."""

import io
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from golden.case import Case, filled_state

ROOT = Path(__file__).parents[3]
VOCABULARY = Path(
    os.environ.get("LASCAUX_CLIP_VOCABULARY")
    or ROOT / "build" / "vocabulary" / "bpe_simple_vocab_16e6.txt.gz"
)


def check(case: Case, folder: Path) -> None:
    if "constructor" in case.config:
        check_towers(case, folder)
    elif "n_px" in case.config:
        check_preprocessing(case)
    elif "tokens" in case.outputs:
        check_tokens(case)
    else:
        pytest.fail(f"{case.name}: the project does not have this part of CLIP")


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


def check_tokens(case: Case) -> None:
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


def check_preprocessing(case: Case) -> None:
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
