"""How near embeddings of sentences are to those of pictures, before and behind a denoiser.

    python benchmarks/denoiser.py
    python benchmarks/denoiser.py --model runs/ochre-imagine-0/model

Scenes of the emoji world's validation split, each with one caption: the mean cosine between the
caption's embedding by the model's CLIP and that of its picture, and that of the picture behind the
denoiser with itself before it.
"""

import argparse
from functools import partial

import numpy as np
import torch

import lascaux
from lascaux.data.world.boxed import stacked
from lascaux.data.world.language import caption
from lascaux.data.world.sampling import portrait, sample
from lascaux.models.clip_gen import ClipGen
from lascaux.tasks.answerers import clip_embeddings
from lascaux.tasks.features import text_features
from lascaux.train.clip_gen import clip_of

_SEED = 91
_SCENES = {"portraits": portrait, "scenes of one thing": partial(sample, kind="single")}


@torch.no_grad()
def main() -> None:
    """Print a line for each kind of scenes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--model", default="ochre-imagine", help="a CLIP-GEN with a denoiser")
    parser.add_argument("--scenes", type=int, default=500, help="of each kind")
    chosen = parser.parse_args()
    model = lascaux.load(chosen.model).eval()
    if not isinstance(model, ClipGen) or not model.config.denoiser:
        parser.error(f"--model {chosen.model}: expected a CLIP-GEN with a denoiser")
    name = model.config.clip or "ochre-clip"
    clip = clip_of(name)
    for kind, drawing in _SCENES.items():
        rng = np.random.Generator(np.random.PCG64([_SEED]))
        scenes = [drawing(rng, "validation") for _ in range(chosen.scenes)]
        pictures = clip_embeddings(clip, name).answers(stacked(scenes))
        said = text_features(clip, [caption(scene, rng) for scene in scenes])
        before = (said * pictures).sum(dim=1).mean()
        behind = (model.denoiser(said) * pictures).sum(dim=1).mean()
        own = (model.denoiser(pictures) * pictures).sum(dim=1).mean()
        print(f"{kind:20} {before:.3f} before, {behind:.3f} behind; pictures themselves {own:.3f}")


if __name__ == "__main__":
    main()
