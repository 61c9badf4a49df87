"""Texts as token ids."""

from lascaux.text.clip_bpe import ClipTokenizer, TextCutWarning

__all__ = ["ClipTokenizer", "TextCutWarning"]
