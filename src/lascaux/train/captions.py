"""Captions of people's own data, and the vocabularies that they are read by."""

from pathlib import Path

from lascaux.data.records import Source
from lascaux.errors import BadInput
from lascaux.text.captions import CaptionTokenizer, read_caption_tokenizer
from lascaux.text.clip_bpe import ClipTokenizer
from lascaux.weights.load import find

_LEARNT_FROM = 200_000  # records whose captions a vocabulary is learnt from


def require_captions(source: Source) -> None:
    """Refuse data of which no record has a caption.

    Raises:
        BadInput: it is such data.
    """
    if not any(source.captions(index) for index in range(len(source))):
        raise BadInput(
            f"{source.path} ({source.kind}) has no captions; `lascaux data info` tells what it "
            "holds, and docs/data.md how captions are given"
        )


def learnt_vocabulary(source: Source, size: int, context_length: int) -> ClipTokenizer:
    """Byte pairs of CLIP's form, learnt from captions of evenly chosen records.

    Args:
        source: of the records.
        size: ids that there may be; fewer where the captions do not give so many.
        context_length: tokens in a row.
    """
    stride = max(1, len(source) // _LEARNT_FROM)
    texts = (text for i in range(0, len(source), stride) for text in source.captions(i))
    return ClipTokenizer.train(texts, size, context_length)


def named_vocabulary(name: str) -> CaptionTokenizer:
    """The text tokeniser in a file or folder, or the one of a model of that name.

    Raises:
        BadInput: there is none.
        BrokenFile: it is damaged, or of no known kind.
        UnknownModel: there is neither a file nor a model of that name.
    """
    path = Path(name).expanduser()
    if not path.exists():
        found = find(name).vocabulary
        if found is None:
            raise BadInput(f"{name} has no text tokeniser with it: name a file or folder with one")
        path = found
    return read_caption_tokenizer(path)
