"""Pixels in and out: decoding, preprocessing, contact sheets."""

from lascaux.images.decode import read_picture
from lascaux.images.preprocess import Preprocessing, denormalise, normalise, pixels, to_square

__all__ = ["Preprocessing", "denormalise", "normalise", "pixels", "read_picture", "to_square"]
