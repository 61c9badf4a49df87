"""The one form in which figures are given: what was measured, on what, with what."""

import json
import platform
from dataclasses import asdict, dataclass, field
from importlib.metadata import PackageNotFoundError, version
from typing import Any


@dataclass(frozen=True)
class Figure:
    """One measured number."""

    name: str
    value: float
    of: int  # pictures, or whatever was counted
    unit: str = "share"  # "share" is 0 to 1
    note: str = ""


@dataclass(frozen=True)
class Report:
    """Figures with everything one needs to get them again."""

    benchmark: str
    model: str
    weights_sha256: str
    settings: dict[str, Any]
    figures: tuple[Figure, ...]
    versions: dict[str, str] = field(default_factory=lambda: versions())
    # What one benchmark has to say beyond figures, as plain JSON values.
    details: dict[str, Any] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """The report as plain JSON values; the details stand beside the fields."""
        fields = asdict(self)
        return fields | fields.pop("details")

    def to_json(self) -> str:
        """The report as indented JSON."""
        return json.dumps(self.as_json(), ensure_ascii=False, indent=2)

    def to_text(self) -> str:
        """The figures as a table for a terminal."""
        width = max(len(figure.name) for figure in self.figures)
        lines = [f"{self.benchmark}: {self.model} ({self.weights_sha256[:12]})"]
        for figure in self.figures:
            shown = (
                f"{100 * figure.value:6.2f} %"
                if figure.unit == "share"
                else (f"{figure.value:8.3f} {figure.unit}")
            )
            note = f"   {figure.note}" if figure.note else ""
            lines.append(f"  {figure.name:<{width}}  {shown}  of {figure.of}{note}")
        return "\n".join(lines)


def versions() -> dict[str, str]:
    """Versions of what a figure can depend on."""
    found = {"python": platform.python_version()}
    for package in ("lascaux", "torch", "pillow", "numpy", "scikit-learn"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
