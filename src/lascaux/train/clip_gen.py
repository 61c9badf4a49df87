"""What all recipes of CLIP-GEN share: the model, its loss, and how it is measured.

Wang et al. 2022, arXiv:2203.00386: a picture's codes are learnt from its own embedding by a CLIP; a
sentence's embedding, which lies in the same space, comes in its place afterwards. No caption is
ever seen. Batches have "tokens" (`b n`) and "embedding" (`b e`, of unit length).

Embeddings of pictures and of sentences lie in the same space, but not in the same part of it. Noise
on the embedding makes the model bear that (Zhou et al. 2022, arXiv:2111.13792, section 3.2); the
published training has none. Nor does it read codes other than the picture's own, and its model has
no denoiser (`train/denoising.py`).
"""

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from einops import rearrange
from jaxtyping import Float, Int
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from lascaux.errors import BadInput
from lascaux.generate.sampling import Sampling
from lascaux.generate.tokens import begin, write
from lascaux.images.preprocess import normalise
from lascaux.models.clip import Clip
from lascaux.models.clip_gen import ClipGen, Denoiser, embedding_loss
from lascaux.tasks.aside import written_aside
from lascaux.train.begun import named
from lascaux.train.cards import card_of
from lascaux.train.codes import estranged, grid_of, pages_of, tokeniser_of
from lascaux.train.denoising import learn_denoiser, noisy
from lascaux.train.optimisers import Optimiser, decayed_and_plain, within_blocks
from lascaux.train.recipe import (
    Loss,
    Moment,
    Progress,
    Recipe,
    Sample,
    precise,
    require_least,
    restated,
    setting,
)

_SHOWN = 8  # pictures of a sheet of samples
_AT_ONCE = 64  # pictures of a validation
_DENOISER = "denoiser.safetensors"  # within the run
_TOP_K = 500  # of samples, as published


class Answers(NamedTuple):
    """Codes and embeddings of the same pictures."""

    tokens: Int[Tensor, "b n"]
    embeddings: Float[Tensor, "b e"]


@dataclass(frozen=True, kw_only=True)
class ClipGenRecipe(Recipe):
    """Settings of all runs that train CLIP-GEN's transformer."""

    best: ClassVar[str | None] = "-validation_loss"

    embedding_noise: float = setting(
        0.0, "on embeddings, as a part of their length, so that sentences serve as well"
    )
    denoiser: int = setting(
        0, "width of layers that bring a sentence's embedding nearer to pictures'; 0: none"
    )
    denoiser_noise: float = setting(
        2.5, "on pictures' embeddings, which it learns beforehand to find again"
    )
    denoiser_steps: int = setting(4000, "of 512 embeddings, in which it learns that")
    denoiser_anew: bool = setting(False, "it is learnt also where --model has one")
    null_condition: float = setting(
        0.0, "chance that an embedding is left away, so that guidance works later on"
    )
    strange_codes: float = setting(
        0.0, "largest share of the codes read that are another picture's, so that embeddings count"
    )
    reconstruction_weight: float = setting(
        0.0, "of the distance of embeddings of what would be drawn; the paper's second term"
    )
    optimiser: Literal["adamw", "muon"] = setting("adamw", "muon: of the matrices of the blocks")
    learning_rate: float = restated("learning_rate", 5e-4)
    weight_decay: float = restated("weight_decay", 0.01)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("null_condition", "strange_codes"):
            if not 0 <= getattr(self, name) <= 1:
                flag = name.replace("_", "-")
                raise BadInput(f"--{flag} is {getattr(self, name)}; expected 0 to 1")
        require_least(
            self,
            embedding_noise=0,
            denoiser=0,
            denoiser_noise=0,
            denoiser_steps=0,
            reconstruction_weight=0,
        )

    def learn_denoiser(
        self, embeddings: Float[Tensor, "n e"], folder: Path, progress: Progress | None
    ) -> None:
        """Learn a denoiser of pictures' embeddings, and keep it in the run's folder."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            denoiser = Denoiser(embeddings.shape[1], self.denoiser)
        learn_denoiser(
            denoiser,
            embeddings,
            noise=self.denoiser_noise,
            steps=self.denoiser_steps,
            seed=self.seed,
            progress=progress,
        )
        with written_aside(folder / _DENOISER) as part:
            save_file(denoiser.state_dict(), part)

    def lacks_denoiser(self, folder: Path, begun: ClipGen | None) -> bool:
        """Whether a denoiser is still to be learnt.

        Args:
            folder: of the run.
            begun: what it begins with.
        """
        known = begun is not None and begun.config.denoiser > 0 and not self.denoiser_anew
        return bool(self.denoiser) and not known and not (folder / _DENOISER).is_file()

    def begin(self, model: nn.Module, folder: Path) -> nn.Module:
        """A new model with the denoiser that was learnt; like any other it stays as it is."""
        assert isinstance(model, ClipGen)
        if (path := folder / _DENOISER).is_file():
            model.denoiser.load_state_dict(load_file(path))
        return model

    def optimisers(self, model: nn.Module) -> dict[str, Optimiser]:
        """AdamW with the published betas; or Muon within the blocks."""
        named = list(model.named_parameters())
        if self.optimiser == "muon":
            groups = within_blocks(named, self.blocks(model), self.weight_decay)
        else:
            groups = decayed_and_plain(named, self.weight_decay)
        return {"model": Optimiser(self.optimiser, groups, (0.9, 0.95))}

    def loss(self, model: nn.Module, batch: dict[str, Tensor], moment: Moment) -> Loss:
        """Cross entropy of the codes; with a weight, also the embeddings' distance."""
        assert isinstance(model, ClipGen)
        tokens, embeddings = batch["tokens"], batch["embedding"]
        read = estranged(tokens[:, :-1], self.strange_codes)
        if self.embedding_noise:
            embeddings = noisy(embeddings, self.embedding_noise)
        logits = model(read, self._left_away(embeddings))
        value = F.cross_entropy(rearrange(logits, "b n v -> (b n) v").float(), tokens.flatten())
        if not self.reconstruction_weight:
            return Loss(value, {})
        with precise(tokens.device):
            apart = self._apart(model, logits.float(), batch["embedding"])
        figures: dict[str, Tensor | float] = {"embedding_distance": apart.detach()}
        return Loss(value + self.reconstruction_weight * apart, figures)

    def measured(self, model: ClipGen, aside: Answers) -> dict[str, float]:
        """The loss on pictures kept aside, in nats a code."""
        losses = [
            model.loss(tokens.to(model.positions.device), embeddings.to(model.positions.device))
            * len(tokens)
            for tokens, embeddings in zip(*(each.split(_AT_ONCE) for each in aside), strict=True)
        ]
        return {"validation_loss": torch.stack(losses).sum().item() / len(aside.tokens)}

    def drawn(self, model: ClipGen, aside: Answers) -> list[Sample]:
        """Pictures kept aside after their codes, each beside one written from its embedding."""
        tokeniser = tokeniser_of(model.config.tokeniser or "")
        tokens, embeddings = (each[:_SHOWN] for each in aside)
        beginning = begin(model, embeddings[:, None].to(model.positions.device))
        sampling = Sampling(top_k=min(_TOP_K, model.codes))
        seeds = range(len(tokens))
        *_, last = write(model, beginning, tokens.shape[1], sampling=sampling, seeds=seeds)
        pages = pages_of(tokeniser, tokens, last.ids)
        return [Sample(page, f"seed {seed}") for seed, page in enumerate(pages)]

    def _left_away(self, embeddings: Float[Tensor, "b e"]) -> Float[Tensor, "b e"]:
        """Embeddings, some of them by chance zeros: no condition."""
        if not self.null_condition:
            return embeddings
        # The CPU's generator, which checkpoints keep.
        chance = torch.rand(len(embeddings), 1) < self.null_condition
        return embeddings.masked_fill(chance.to(embeddings.device), 0.0)

    def _apart(self, model: ClipGen, logits: Tensor, embeddings: Tensor) -> Tensor:
        tokeniser, clip = (
            tokeniser_of(model.config.tokeniser or ""),
            clip_of(model.config.clip or ""),
        )
        spelt, grid = cast(Any, tokeniser.model), grid_of(tokeniser)
        if grid is None:
            raise BadInput("--reconstruction-weight: codes of this tokeniser have no places")
        for part in (spelt, clip):
            part.to(logits.device)
        config = clip.config

        def embed(pictures: Tensor) -> Tensor:
            x = normalise(spelt.denormalise(pictures), config.mean, config.std)
            return F.normalize(clip.encode_image(x), dim=-1)

        return embedding_loss(
            logits,
            embeddings,
            codebook=spelt.lookup(torch.arange(tokeniser.codes, device=logits.device)[None])[0],
            grid=grid,
            decode=spelt.decode,
            embed=embed,
            size=config.image_size,
        )


@lru_cache(maxsize=2)
def clip_of(name: str) -> Clip:
    """The CLIP of a name, which is not trained.

    Raises:
        BadInput: it is something else.
    """
    return named("--clip", name, Clip, "CLIP").eval().requires_grad_(False)


def card(name: str, recipe: ClipGenRecipe, figures: dict[str, float]) -> str:
    """Markdown of a trained model."""
    title = f"A CLIP-GEN trained by the recipe `{name}` of Lascaux"
    said = f"{recipe.steps} steps of {recipe.batch_size} pictures; no caption was seen."
    return card_of("clip-gen", title, said, figures)
