"""The README.md of a trained model."""

from collections.abc import Mapping


def card_of(
    kind: str, title: str, said: str, figures: Mapping[str, float], *, more: str = ""
) -> str:
    """Markdown with the header that hubs read.

    Args:
        kind: tag of the model's kind.
        title: such as "A VQGAN trained by the recipe `vqgan` of Lascaux".
        said: how it came to be.
        figures: of the validation.
        more: lines of the header.
    """
    measured = "\n".join(f"| {name} | {value:.4f} |" for name, value in figures.items())
    return (
        f"---\nlibrary_name: lascaux\n{more}tags:\n- {kind}\n---\n\n# {title}\n\n{said}\n\n"
        f"| on pictures kept aside | |\n|---|---|\n{measured}\n"
    )
