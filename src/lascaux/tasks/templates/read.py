"""Reading prompt templates and published class lists.

The data beside this file were published with CLIP (openai/CLIP, MIT; see NOTICE.txt): the 80 and
the 7 ImageNet templates, and for 27 data sets the class names and templates of the paper.
ImageNet's WordNet ids are those of timm (Apache-2.0).
"""

import json
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

from lascaux.errors import BadInput

_DATA = files("lascaux.tasks.templates")
_WORLD = ("world", "world-zh")  # the embedded family's objects, named in English and Chinese


@cache
def _sets() -> dict[str, tuple[str, ...]]:
    text = _DATA.joinpath("sets.json").read_text(encoding="utf-8")
    return {name: tuple(templates) for name, templates in json.loads(text).items()}


def template_set_names() -> tuple[str, ...]:
    """Names of the built-in template sets."""
    return tuple(_sets())


def class_list_names() -> tuple[str, ...]:
    """Names of the published class lists, and of the embedded family's own."""
    published = (entry.name for entry in _DATA.joinpath("lists").iterdir())
    names = sorted(name.removesuffix(".json") for name in published if name.endswith(".json"))
    return (*names, *_WORLD)


def class_list(name: str) -> list[tuple[str, ...]]:
    """The classes of a published list in its order; each with one name or several synonyms.

    Raises:
        BadInput: no list of that name.
    """
    if name in _WORLD:
        from lascaux.data.world.objects import objects

        return [(thing.zh if name == "world-zh" else thing.name,) for thing in objects()]
    classes = _list(name)["classes"]
    return [(entry,) if isinstance(entry, str) else tuple(entry) for entry in classes]


def class_ids(name: str) -> tuple[str, ...]:
    """WordNet ids of a published list's classes, in its order; empty where none are known.

    Raises:
        BadInput: no list of that name.
    """
    return () if name in _WORLD else tuple(_list(name).get("ids", ()))


def read_templates(which: str | Path | Sequence[str]) -> tuple[str, ...]:
    """Templates by the name of a set or class list, from a file, or as given; each holds `{}`.

    A file is JSON (a list of strings) or text (one template per line, empty lines skipped). A
    string that holds `{}` is itself one template.

    Raises:
        BadInput: no such set or file, no template at all, or one without `{}`.
    """
    if isinstance(which, str) and "{}" in which:
        found: Sequence[str] = (which,)
    elif isinstance(which, str) and which in _sets():
        found = _sets()[which]
    elif isinstance(which, str) and which in class_list_names() and which not in _WORLD:
        found = _list(which)["templates"]
    elif isinstance(which, str | Path):
        found = _template_file(Path(which))
    else:
        found = which
    if not found:
        raise BadInput(
            f"no template in {which!r}; at least one is needed, such as 'a photo of {{}}'"
        )
    for template in found:
        if not isinstance(template, str) or "{}" not in template:
            raise BadInput(
                f"template {template!r} has no place for the class name; write {{}} where it goes"
            )
    return tuple(found)


def _template_file(path: Path) -> list[str]:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise BadInput(
            f"no template set or readable file named {str(path)!r}; "
            f"sets: {', '.join(template_set_names())}; "
            f"class lists bring theirs: {', '.join(class_list_names())}"
        ) from error
    if path.suffix.lower() != ".json":
        return [line.strip() for line in text.splitlines() if line.strip()]
    try:
        found = json.loads(text)
    except json.JSONDecodeError as error:
        raise BadInput(f"{path} is not JSON: {error}; expected a list of templates") from error
    if not isinstance(found, list):
        raise BadInput(f"{path} holds a {type(found).__name__}; expected a list of templates")
    return found


def _list(name: str) -> dict[str, Any]:
    if name not in class_list_names():
        raise BadInput(f"no class list named {name!r}; there are: {', '.join(class_list_names())}")
    return json.loads(_DATA.joinpath("lists", f"{name}.json").read_text(encoding="utf-8"))
