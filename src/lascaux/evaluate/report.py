"""The one form in which figures are given: what was measured, on what, with what."""

import json
import platform
from collections.abc import Sequence
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
            note = f"   {figure.note}" if figure.note else ""
            lines.append(f"  {figure.name:<{width}}  {_shown(figure)}  of {figure.of}{note}")
        return "\n".join(lines)


def side_by_side(reports: Sequence[Report]) -> str:
    """The same figures of several models as one table: a column for each model."""
    names = [figure.name for figure in reports[0].figures]
    columns = [[report.model, *map(_shown, report.figures)] for report in reports]
    rows = zip(["", *names], *columns, strict=True)
    widths = [max(map(len, each)) for each in (names, *columns)]
    lines = [f"{reports[0].benchmark}, of {reports[0].figures[0].of}"]
    for name, *values in rows:
        cells = [f"{v:>{width}}" for v, width in zip(values, widths[1:], strict=True)]
        lines.append("  ".join([f"  {name:<{widths[0]}}", *cells]).rstrip())
    notes = [f"  {f.name}: {f.note}" for f in reports[0].figures if f.note]
    return "\n".join([*lines, *notes])


def _shown(figure: Figure) -> str:
    if figure.unit == "share":
        return f"{100 * figure.value:6.2f} %"
    return f"{figure.value:8.3f} {figure.unit}".rstrip()


def versions() -> dict[str, str]:
    """Versions of what a figure can depend on."""
    found = {"python": platform.python_version()}
    for package in ("lascaux", "torch", "pillow", "numpy", "scikit-learn"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = "not installed"
    return found
