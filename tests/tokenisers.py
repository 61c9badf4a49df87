"""Image tokenisers of each kind, so small that a test builds, saves and uses them in no time."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lascaux.images.preprocess import Preprocessing
from lascaux.models.discrete_vae import DiscreteVae, DiscreteVaeConfig
from lascaux.models.dvae import Dvae, DvaeConfig
from lascaux.models.vqgan import VqGan, VqGanConfig

VQGAN = VqGanConfig(
    codes=24,
    code_width=4,
    image_size=32,
    width=8,
    multiples=(1, 2, 2),
    blocks=1,
    attention_sizes=(8,),
    latent_width=4,
    groups=4,
)
DVAE = DvaeConfig(
    codes=20,
    encoder_width=4,
    encoder_blocks=1,
    decoder_width=4,
    decoder_blocks=1,
    first_width=4,
    groups=3,
    image_size=32,
)
DISCRETE_VAE = DiscreteVaeConfig(image_size=32, codes=28, code_width=4, layers=2, blocks=1, width=4)


def tiny_tokeniser(kind: str, seed: int = 0) -> nn.Module:
    """A model of random weights that gives several codes: vqgan, dvae or discrete-vae."""
    torch.manual_seed(seed)
    if kind == "vqgan":
        model = VqGan(VQGAN)
        torch.nn.init.normal_(model.codebook.weight, std=0.5)
        return model.eval()
    return (Dvae(DVAE) if kind == "dvae" else DiscreteVae(DISCRETE_VAE)).eval()


class Tones(nn.Module):
    """Sixteen tones, dark to light, of equal stripes of a picture: tokens that have no places."""

    codes, length = 256, 16

    def __init__(self) -> None:
        super().__init__()
        how = Preprocessing(size=16, resize="squash", mean=(0.0,) * 3, std=(1.0,) * 3)
        self.config = SimpleNamespace(preprocessing=how)
        self.gain = nn.Parameter(torch.ones(1))

    def encode(self, x: Tensor) -> Tensor:
        """The grey value of each row."""
        assert x.shape[1:] == (3, 16, 16)
        assert not self.training
        return (F.adaptive_avg_pool2d(x.mean(1), (16, 1))[..., 0] * 255).round().long()

    def decode_ids(self, ids: Tensor, grid: None) -> Tensor:
        """Rows of these grey values."""
        assert grid is None
        return (ids / 255 * self.gain)[:, None, :, None].expand(-1, 3, 16, 16)
