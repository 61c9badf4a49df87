"""Texts as token ids."""

from lascaux.text.captions import CaptionTokenizer, read_caption_tokenizer
from lascaux.text.clip_bpe import ClipTokenizer, TextCutWarning

__all__ = ["CaptionTokenizer", "ClipTokenizer", "TextCutWarning", "read_caption_tokenizer"]
