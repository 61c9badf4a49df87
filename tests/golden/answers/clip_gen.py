"""clip-gen: its VQGAN with the discriminator inside, its transformer, and pieces of training."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from golden.case import Case, filled_state


def check(case: Case, folder: Path) -> None:
    if "codebook_size" in case.config:
        check_vqgan(case, folder)
    elif "embed" in case.inputs:
        check_transformer(case, folder)
    elif "codebook" in case.inputs:
        check_pieces(case)
    else:
        pytest.fail(f"{case.name}: the project does not have this part of clip-gen")


@torch.no_grad()
def check_transformer(case: Case, folder: Path) -> None:
    from lascaux.generate.sampling import Sampling, kept
    from lascaux.generate.tokens import begin, write
    from lascaux.models.clip_gen import VARIANTS, ClipGenConfig
    from lascaux.weights.load import load

    state, config = filled_state(case), None
    for key, entry in case.manifest.get("derived_state", {}).items():
        state[key] = ~torch.ones(entry["shape"], dtype=torch.bool).tril()
    torch.save({"model": state, "epoch": 3, "step": 7, "val_loss": 5.0}, folder / "gpt.pt")
    if (told := case.config.get("kwargs")) is not None:
        config = ClipGenConfig(
            codes=told["vocab_size"],
            length=told.get("block_size", 256),
            layers=told["n_layer"],
            heads=told["n_head"],
            width=told["n_embed"],
            embedding_width=told.get("n_cond_embed", 512),
            dropout=told.get("dropout", 0.1),
        )
    model = load(folder / "gpt.pt", config=config)
    assert config is not None or model.config.heads in {v.heads for v in VARIANTS.values()}
    embeddings, ids = case.inputs["embed"], case.inputs["idx"].long()
    logits = model(ids, embeddings)
    best = logits.topk(2, dim=-1).values
    steps = case.outputs["greedy"].shape[1]
    u = case.inputs["u"][: steps * len(ids)].reshape(steps, len(ids)).T.double()

    def written(sampling: Sampling) -> Tensor:
        *_, last = write(
            model, begin(model, embeddings[:, None]), steps, sampling=sampling, uniforms=u
        )
        return last.ids

    keep = kept(case.inputs["flogits"], Sampling(top_k=10, top_p=0.85))
    every = -(-logits.shape[-1] // case.outputs["logits"].shape[-1])
    answers = {
        "logits": logits[..., ::every],
        "argmax": logits.argmax(-1),
        "argmax_margin": best[..., 0] - best[..., 1],
        "lse": logits.logsumexp(-1),
        "loss": model.loss(case.inputs["target"].long(), embeddings)[None],
        "greedy": written(Sampling(greedy=True)),
        # How sure the recorded choices are; none of ours to answer.
        "greedy_margin": case.outputs["greedy_margin"],
        "cdf_margin": case.outputs["cdf_margin"],
        "sampled": written(Sampling(temperature=0.9, top_k=7, top_p=0.9)),
        "filtered": keep.to(torch.uint8),
    }
    target = case.inputs["target"].long()
    if not torch.equal(target[:, :-1], ids):  # then the loss is that of other codes' logits
        answers["loss"] = F.cross_entropy(logits.flatten(0, 1), target.flatten())[None]
    case.check(answers)


def check_pieces(case: Case) -> None:
    from lascaux.models.clip_gen import chosen_features
    from lascaux.train.adversarial import fooling, hinge

    logits = case.inputs["logits"].clone().requires_grad_()
    z = chosen_features(logits, case.inputs["codebook"])
    (z * case.inputs["w"]).sum().backward()
    assert logits.grad is not None
    case.check(
        {
            "z": z.detach(),
            "grad_logits": logits.grad,
            "hinge_d": hinge(case.inputs["real"], case.inputs["fake"])[None],
            "hinge_g": fooling(case.inputs["fake"])[None],
        }
    )


@torch.no_grad()
def check_vqgan(case: Case, folder: Path) -> None:
    from lascaux.models.vqgan import VARIANTS
    from lascaux.weights.load import load

    path = folder / "vqgan.pt"
    torch.save({"model": filled_state(case), "epoch": 3}, path)
    model, discriminator = load(path), load(path, part="discriminator").train()
    told = replace(
        VARIANTS["clip-gen-coco"],
        codes=case.config["codebook_size"],
        code_width=case.config["n_embed"],
        latent_width=case.config["n_embed"],
    )
    if codec := case.config.get("codec"):
        told = replace(
            told,
            width=codec["ch"],
            multiples=tuple(codec["ch_mult"]),
            blocks=codec["num_res_blocks"],
            in_channels=codec["in_c"],
            image_size=codec["resolution"],
            attention_sizes=tuple(codec["attn_resolutions"]),
        )
    free = {name: getattr(told, name) for name in ("image_size", "attention_sizes")}
    assert model.config.attends(encoder=True) == told.attends(encoder=True)
    assert replace(model.config, **free) == told
    x, code = case.inputs["image"].float() / 127.5 - 1, case.inputs["code"]
    rows, columns = model.grid(x)
    features = model.features(x)
    trained = model.train_quantise(features)
    assert torch.equal(model.encode(x), trained.ids)
    far = torch.cdist(features.double(), model.codebook.weight.double())
    best = far.topk(2, dim=-1, largest=False).values
    back = model.decode(trained.features, (rows, columns))
    maps = {
        "z": rearrange(features, "b (y x) d -> b d y x", y=rows),
        "zq": rearrange(trained.features, "b (y x) d -> b d y x", y=rows),
        "rec": back,
        "rec_code": model.decode_ids(code.flatten(1), (code.shape[1], code.shape[2])),
    }
    answers: dict[str, Tensor] = {
        "indices": trained.ids,
        "min_margin": (best[..., 1] - best[..., 0]).min(),
        "loss_q": trained.loss,
        "stage0_logits_fake": discriminator(back),
        "stage1_logits_real": discriminator(x),
        "stage1_logits_fake": discriminator(back),
    }
    for name, whole in maps.items():
        wanted = case.outputs[name].shape
        steps = [-(-have // want) for have, want in zip(whole.shape, wanted, strict=True)]
        answers[name] = whole[tuple(slice(None, None, step) for step in steps)]
    case.check({name: answers[name].reshape(e.shape) for name, e in case.outputs.items()})
