"""What lies beside a DALL-E's weights: its text tokeniser."""

from pathlib import Path

from lascaux.errors import BadInput
from lascaux.models.dalle import Dalle
from lascaux.text.captions import read_caption_tokenizer


def give_tokenizer(model: Dalle, vocabulary: Path) -> None:
    """Gives a loaded DALL-E its text tokeniser.

    Raises:
        BadInput: it has not as many tokens as the model.
        BrokenFile: it is no text tokeniser of a kind that is known.
    """
    tokenizer = read_caption_tokenizer(vocabulary)
    if tokenizer.vocabulary_size != model.config.text_tokens:
        raise BadInput(
            f"the vocabulary in {vocabulary} has {tokenizer.vocabulary_size} tokens, the model "
            f"{model.config.text_tokens}: they do not belong together"
        )
    model.tokenizer = tokenizer


def write_beside(model: Dalle, folder: Path) -> None:
    """Writes the text tokeniser if the model has one."""
    if model.tokenizer is not None:
        model.tokenizer.save(folder)
