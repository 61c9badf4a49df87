"""Reports of zero-shot accuracy as text for a terminal."""

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from lascaux.cli.table import text_width

if TYPE_CHECKING:
    from lascaux.evaluate.report import Report

_LISTED = 5  # confusions, classes and failures
_FEW = 5  # classes up to which nothing is said of the hardest
_WIDTH = 100  # columns


def account(report: "Report") -> str:
    """One model's figures with what they depend on, what was published, and what went wrong."""
    parts = [
        _opening(report),
        _rows([(f.name, _percent(f.value), f"of {f.of}", f.note) for f in report.figures]),
        _published(report.details["published"]),
        _hardest(report.details["per_class"]),
        _confusions(report.details["confusions"]),
        _mixtures(report),
        _failures(report.details["failures"], report.figures[0].of),
    ]
    return "\n\n".join(part for part in parts if part)


def compared(reports: Sequence["Report"]) -> str:
    """A line for each of several models on the same data."""
    first = reports[0]
    names = [figure.name for figure in first.figures]
    head = ("model", "weights", *names, "of", "published", "difference")
    rows: list[tuple[str, ...]] = []
    for report in reports:
        beside = [each for each in report.details["published"] if each["metric"] == "top-1"]
        values = [_percent(figure.value) for figure in report.figures]
        published = "; ".join(f"{each['published']:g}" for each in beside)
        apart = "; ".join(f"{each['difference']:+.2f}" for each in beside)
        count = str(report.figures[0].of)
        rows.append((report.model, report.weights_sha256[:12], *values, count, published, apart))
    sources = list(
        dict.fromkeys(
            each["source"]
            for report in reports
            for each in report.details["published"]
            if each["metric"] == "top-1"
        )
    )
    notes = [f"published top-1, in this order: {'; '.join(sources)}"] if sources else []
    unread = [f"{r.model}: {len(r.details['failures'])}" for r in reports if r.details["failures"]]
    if unread:
        notes.append(f"pictures that could not be read and are left out: {', '.join(unread)}")
    return "\n\n".join([_opening(first, alone=False), _rows([head, *rows]), *notes])


def _opening(report: "Report", *, alone: bool = True) -> str:
    settings = report.settings
    data, how, templates = settings["data"], settings["preprocessing"], settings["templates"]
    split = f" ({data['split']})" if data["split"] else ""
    drawn = f", {settings['limit']} drawn by seed {settings['seed']}" if settings["limit"] else ""
    text = (
        f"{data['name']}{split}, protocol {data['protocol']}: {data['pictures']} pictures{drawn}, "
        f"{data['classes']} classes\n"
        f"templates {templates['name']} ({templates['texts']}), reading {how['reading']}"
    )
    if not alone:
        return text
    return (
        f"{report.model} ({report.weights_sha256[:12]}) on {text}, {how['resize']} to "
        f"{how['size']} px by {how['filter']}, {settings['dtype']} on {settings['device']}"
    )


def _published(beside: list[dict[str, Any]]) -> str:
    rows = [
        (
            each["metric"],
            f"{each['published']:g} %",
            f"ours {each['difference']:+.2f}",
            each["source"],
        )
        for each in beside
    ]
    return "published\n" + _rows(rows) if rows else ""


def _hardest(per_class: list[dict[str, Any]]) -> str:
    known = [each for each in per_class if each["pictures"] and each["right"] < each["pictures"]]
    if len(per_class) <= _FEW or not known:
        return ""
    worst = sorted(known, key=lambda each: (each["top-1"], each["index"]))[:_LISTED]
    rows = [(each["name"], _percent(each["top-1"]), f"of {each['pictures']}") for each in worst]
    return "hardest classes\n" + _rows(rows)


def _confusions(pairs: list[dict[str, Any]]) -> str:
    rows = [
        (
            f"{_shown(each['true'], each)} -> {_shown(each['predicted'], each)}",
            str(each["count"]),
            f"{_percent(each['share'])} of the class",
        )
        for each in pairs[:_LISTED]
    ]
    return "most often confused\n" + _rows(rows) if rows else ""


def _mixtures(report: "Report") -> str:
    told = report.details["mixtures"]
    if not told and not report.details["mixtures_left_out"]:
        return ""
    lines: list[str] = []
    if told:
        head = ("evidence", *(figure["name"] for figure in told[0]["figures"]))
        rows = [
            (each["mixture"], *(_percent(figure["value"]) for figure in each["figures"]))
            for each in told
        ]
        lines.append(_rows([head, *rows]))
    for each in told:
        for word in ("gain", "lose"):
            if each[word]:
                most = ", ".join(f"{m['name']} {100 * m['change']:+.1f}" for m in each[word])
                lines.append(_wrapped(f"{each['mixture']} against names, {word}: {most}"))
    for each in report.details["mixtures_left_out"]:
        lines.append(_wrapped(f"{each['mixture']} is left out: {each['reason']}"))
    return "\n".join([*lines, _wrapped(report.details["caution"])])


def _failures(failures: list[dict[str, str]], seen: int) -> str:
    if not failures:
        return ""
    noun = "picture" if len(failures) == 1 else "pictures"
    lines = [f"{len(failures)} {noun} could not be read; the figures are of the other {seen}"]
    lines += [f"  {each['source']}: {each['reason']}" for each in failures[:_LISTED]]
    if more := len(failures) - _LISTED:
        lines += [f"  and {more} more; --json lists all"] if more > 0 else []
    return "\n".join(lines)


def _wrapped(text: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent="  ", subsequent_indent="    ")


def _shown(place: dict[str, Any], pair: dict[str, Any]) -> str:
    """A class's name, with its key where both of a pair are called so."""
    alike = pair["true"]["name"] == pair["predicted"]["name"]
    return f"{place['name']} ({place['key']})" if alike else place["name"]


def _percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def _rows(rows: Sequence[tuple[str, ...]]) -> str:
    """Columns; those of numbers are set to the right."""
    columns = list(zip(*rows, strict=True))
    right = [place > 0 and _is_number(column[-1]) for place, column in enumerate(columns)]
    widths = [max(map(text_width, column)) for column in columns]
    lines = []
    for row in rows:
        cells = [
            " " * (width - text_width(cell)) + cell
            if to_right
            else cell + " " * (width - text_width(cell))
            for cell, width, to_right in zip(row, widths, right, strict=True)
        ]
        lines.append(("  " + "  ".join(cells)).rstrip())
    return "\n".join(lines)


def _is_number(cell: str) -> bool:
    return cell.removesuffix(" %").lstrip("+-").replace(".", "", 1).isdigit()
