"""Zero-shot classification: prototypes of several templates, and the logits they give."""

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from golden.answers.clip import loaded_clip, tokenizer
from golden.case import Case


@torch.no_grad()
def check(case: Case, folder: Path) -> None:
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
