"""How different two pictures look, as a loss: by LPIPS, or by the stages of a CLIP's ResNet.

The latter needs no download: the embedded ochre-clip has seen enough to tell edges, textures and
things apart. As LPIPS does (Zhang et al. 2018, arXiv:1801.03924, Eq. 1) it compares features of
unit length, stage by stage; unlike it, all channels weigh the same, and so do all stages.
"""

from collections.abc import Iterator
from functools import lru_cache

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from lascaux.errors import BadInput
from lascaux.images.preprocess import normalise
from lascaux.models.clip import Clip, ResNet
from lascaux.models.lpips import Lpips
from lascaux.weights.load import load


class StageDistance(nn.Module):
    """A distance of pictures by what the stages of a CLIP's ResNet make of them."""

    def __init__(self, clip: Clip) -> None:
        """Take the tower of a CLIP, whose weights stay as they are.

        Raises:
            BadInput: its image tower is no ResNet.
        """
        super().__init__()
        if not isinstance(clip.image, ResNet):
            raise BadInput("a CLIP with a ViT has no stages: take one with a ResNet, or LPIPS")
        self.config = clip.config
        self.tower = clip.image

    def forward(
        self, x: Float[Tensor, "b 3 y x"], other: Float[Tensor, "b 3 y x"]
    ) -> Float[Tensor, " b"]:
        """The distance of each picture to its counterpart, 0 to 4, for RGB in [-1, 1]."""
        apart = x.new_zeros(len(x))
        both = zip(self.features(x), self.features(other), strict=True)
        for mine, theirs in both:
            difference = F.normalize(mine.float(), dim=1) - F.normalize(theirs.float(), dim=1)
            apart = apart + difference.square().sum(dim=1).mean((1, 2))
        return apart / len(self.tower.stages)

    def features(self, x: Float[Tensor, "b 3 y x"]) -> Iterator[Float[Tensor, "b c y2 x2"]]:
        """The last map of each stage; the tower's own size does not matter to it."""
        tower = self.tower
        x = normalise((x + 1) / 2, self.config.mean, self.config.std)
        x = F.relu(tower.norm1(tower.conv1(x)))
        x = F.relu(tower.norm2(tower.conv2(x)))
        x = tower.stem_pool(F.relu(tower.norm3(tower.conv3(x))))
        for stage in tower.stages:
            x = stage(x)
            yield x


@lru_cache(maxsize=1)
def perceptual_distance(name: str) -> nn.Module:
    """The distance of a name: LPIPS, or a CLIP with a ResNet; frozen, and without dropout.

    Args:
        name: of the catalogue, such as `lpips-vgg16` or `ochre-clip`, a folder or a hub id.

    Raises:
        BadInput: it is something else.
        UnknownModel: there is nothing of that name.
    """
    found = load(name)
    if isinstance(found, Clip) and isinstance(found.image, ResNet):
        found = StageDistance(found)
    if not isinstance(found, Lpips | StageDistance):
        raise BadInput(
            f"--perceptual {name} is a {type(found).__name__}; expected LPIPS (lpips-vgg16) or a "
            "CLIP with a ResNet (ochre-clip)"
        )
    return found.eval().requires_grad_(False)
