"""Configs of CLIPs so small that a test builds, saves and reads them in no time."""

from dataclasses import replace
from typing import Any

from lascaux.models.clip import ClipConfig

# Heads as published: one for every 64 channels, so that a file's shapes tell them.
TINY = ClipConfig(
    embed_width=16,
    image_size=16,
    patch_size=8,
    vision_layers=1,
    vision_width=64,
    vision_heads=1,
    text_width=64,
    text_heads=1,
    text_layers=1,
    context_length=8,
    vocabulary_size=600,
)


def tiny(**changes: Any) -> ClipConfig:
    """The tiny config with some fields changed."""
    return replace(TINY, **changes)


def tiny_reader(vocabulary_size: int, **changes: Any) -> ClipConfig:
    """One that reads pictures of four patches and texts in the `simple` templates."""
    return tiny(
        image_size=32,
        patch_size=16,
        vision_width=32,
        vision_heads=2,
        text_width=32,
        text_heads=2,
        vocabulary_size=vocabulary_size,
        templates="simple",
        **changes,
    )
