"""A model between two of the same architecture, weight by weight.

    python tools/blend.py one/ other/ 0.75 --out between/

Of one that was trained on from the other: such as an autoencoder, and the same with a
discriminator, between which lies one that is sharp and still near its pictures (Wang et al. 2018,
arXiv:1809.00219, section 3.4).
"""

import argparse
import copy

import torch

import lascaux
from lascaux.errors import BadInput


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("one", help="a name or folder")
    parser.add_argument("other", help="likewise")
    parser.add_argument("share", type=float, help="of the way from one to the other")
    parser.add_argument("--out", required=True, metavar="DIR", help="written in half precision")
    parser.add_argument(
        "--elsewhere",
        nargs="*",
        default=(),
        metavar="PART=NAME",
        help="models inside that their names stand for, such as reader=ochre-clip",
    )
    told = parser.parse_args()
    elsewhere = dict(each.split("=", 1) for each in told.elsewhere)
    one, other = lascaux.load(told.one), lascaux.load(told.other)
    if type(one) is not type(other) or one.config != other.config:
        raise BadInput(f"{told.one} and {told.other} differ in more than weights")
    theirs = other.state_dict()
    mixed = copy.deepcopy(one)
    mixed.load_state_dict(
        {
            key: torch.lerp(tensor, theirs[key], told.share)
            if tensor.is_floating_point()
            else tensor
            for key, tensor in one.state_dict().items()
        }
    )
    card = f"# {told.share:.0%} of the way from one model to another\n"
    lascaux.save(mixed, told.out, dtype=torch.float16, card=card, elsewhere=elsewhere)


if __name__ == "__main__":
    main()
