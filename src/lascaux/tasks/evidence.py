"""What is known of each class: its names, descriptions of it, and example pictures."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lascaux.errors import BadClasses
from lascaux.tasks.pictures import pictures_in
from lascaux.tasks.templates import class_list, class_list_names


@dataclass(frozen=True)
class ClassEvidence:
    """A class by any mixture of names, descriptions and example pictures."""

    name: str  # as it is shown in results
    names: tuple[str, ...] | None = None  # synonyms put into templates; None: `name`; (): none
    descriptions: tuple[str, ...] = ()  # plain texts, encoded as they are
    pictures: tuple[Any, ...] = ()  # anything that can be classified can be an example

    @property
    def prompted(self) -> tuple[str, ...]:
        """The names that go into templates."""
        return (self.name,) if self.names is None else self.names


@dataclass(frozen=True, kw_only=True)
class EvidenceWeights:
    """How much each kind of evidence counts where a class has it; 0 leaves a kind out."""

    names: float = 1.0
    descriptions: float = 1.0
    pictures: float = 1.0


Classes = str | Mapping[str, Any] | Iterable[Any]


def class_evidence(classes: Classes) -> tuple[ClassEvidence, ...]:
    """The classes in one form, checked, in the order given.

    Args:
        classes: names; or a mapping from name to one description or several; or any mixture of
            names, tuples of synonyms and `ClassEvidence`; or one string: the name of a published
            class list, or names with commas between them.

    Raises:
        BadClasses: no class, an empty name, or something that is no class.
    """
    if isinstance(classes, str):
        found = named_classes(classes)
    elif isinstance(classes, Mapping):
        found = [_described(name, texts) for name, texts in classes.items()]
    elif isinstance(classes, Iterable):
        found = [_one(entry, place) for place, entry in enumerate(classes)]
    else:
        raise BadClasses(f"classes are {classes!r}; expected names, or a mapping from them")
    if not found:
        raise BadClasses("no class was given; at least one is needed")
    return tuple(_checked(entry, place) for place, entry in enumerate(found))


def named_classes(text: str) -> list[ClassEvidence]:
    """Classes of a published list (`imagenet`), or names with commas between them."""
    if text.strip() in class_list_names():
        return [_one(names, place) for place, names in enumerate(class_list(text.strip()))]
    return [ClassEvidence(name.strip()) for name in text.split(",") if name.strip()]


def classes_file(path: str | Path) -> tuple[ClassEvidence, ...]:
    """Classes from a text file with one name per line, or from JSON.

    JSON is a list of names or lists of synonyms, or an object from name to descriptions.

    Raises:
        BadClasses: the file cannot be read, or holds something else.
    """
    path = Path(path)
    text = _text(path)
    if path.suffix.lower() == ".json":
        found = _json(path, text)
        if not isinstance(found, list | dict):
            raise BadClasses(f"{path} holds {type(found).__name__}; expected a list or an object")
        return class_evidence(found)
    return class_evidence([line.strip() for line in text.splitlines() if line.strip()])


def descriptions_file(path: str | Path) -> tuple[ClassEvidence, ...]:
    """Classes with descriptions, from JSON such as `{"cat": ["a small animal that purrs"]}`.

    Raises:
        BadClasses: the file cannot be read, or is not of that form.
    """
    found = _json(Path(path), _text(Path(path)))
    if not isinstance(found, dict):
        raise BadClasses(f'{path} is no JSON object; expected {{"name": ["description", ...]}}')
    return class_evidence(found)


def examples_folder(folder: str | Path) -> tuple[ClassEvidence, ...]:
    """Classes by example: one subfolder per class with its pictures, sorted by name.

    Underscores in a folder's name become spaces in its prompts.

    Raises:
        BadClasses: no such folder, no subfolder, or one without pictures.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BadClasses(f"there is no folder {folder}; expected one subfolder for each class")
    found: list[ClassEvidence] = []
    for entry in sorted(folder.iterdir()):
        if not entry.is_dir() or entry.name.startswith("."):
            continue
        pictures = tuple(pictures_in(entry, recursive=True))
        if not pictures:
            raise BadClasses(f"{entry} has no pictures; add some, or take the folder away")
        found.append(
            ClassEvidence(entry.name, names=(entry.name.replace("_", " "),), pictures=pictures)
        )
    if not found:
        raise BadClasses(f"{folder} has no subfolders; expected one for each class")
    return tuple(found)


def merged(*sources: Sequence[ClassEvidence]) -> tuple[ClassEvidence, ...]:
    """All classes of all sources; evidence of one name from different sources is put together."""
    found: list[ClassEvidence] = list(sources[0]) if sources else []
    for source in sources[1:]:
        places = {entry.name: place for place, entry in reversed(list(enumerate(found)))}
        for entry in source:
            if entry.name not in places:
                found.append(entry)
                continue
            known = found[places[entry.name]]
            found[places[entry.name]] = replace(
                known,
                descriptions=known.descriptions + entry.descriptions,
                pictures=known.pictures + entry.pictures,
            )
    return tuple(found)


def _described(name: Any, texts: Any) -> ClassEvidence:
    if isinstance(texts, ClassEvidence):
        return replace(texts, name=name)
    if texts is None:
        return ClassEvidence(name)
    if isinstance(texts, str):
        return ClassEvidence(name, descriptions=(texts,))
    if isinstance(texts, Sequence) and all(isinstance(text, str) for text in texts):
        return ClassEvidence(name, descriptions=tuple(texts))
    raise BadClasses(f"class {name!r}: expected one description or a list of them, not {texts!r}")


def _one(entry: Any, place: int) -> ClassEvidence:
    if isinstance(entry, ClassEvidence):
        return entry
    if isinstance(entry, str):
        return ClassEvidence(entry)
    if isinstance(entry, list | tuple) and entry and all(isinstance(name, str) for name in entry):
        return ClassEvidence(entry[0], names=tuple(entry))
    raise BadClasses(
        f"class {place} is {entry!r}; expected a name, a list of synonyms or ClassEvidence"
    )


def _checked(entry: ClassEvidence, place: int) -> ClassEvidence:
    if not isinstance(entry.name, str) or not entry.name.strip():
        raise BadClasses(f"class {place} has an empty name ({entry.name!r}); give each a name")
    for text in (*entry.prompted, *entry.descriptions):
        if not isinstance(text, str) or not text.strip():
            raise BadClasses(f"class {entry.name!r} has an empty name or description")
    if not (entry.prompted or entry.descriptions or entry.pictures):
        raise BadClasses(f"class {entry.name!r} has neither names, descriptions nor pictures")
    return replace(
        entry,
        name=entry.name.strip(),
        names=tuple(name.strip() for name in entry.prompted),
        descriptions=tuple(entry.descriptions),
        pictures=tuple(entry.pictures),
    )


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise BadClasses(f"cannot read classes from {path}: {error}") from error


def _json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        raise BadClasses(f"{path} is not JSON: {error}") from error
