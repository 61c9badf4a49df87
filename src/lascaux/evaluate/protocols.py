"""The published ways to measure zero-shot accuracy: which data, class names and templates.

Class names and templates are those that were published with CLIP (`tasks/templates`).
"""

import re
from collections import Counter
from pathlib import Path
from typing import Any

from lascaux.data.cifar import cifar_sets, read_cifar
from lascaux.data.labelled import (
    Labelled,
    class_folders,
    flat_pictures,
    folders_of_pictures,
    imagenet_labels,
    pictures_by_key,
    relabelled,
    shown,
)
from lascaux.errors import BadClasses, BadInput
from lascaux.tasks.evidence import Classes, ClassEvidence, class_evidence, classes_file
from lascaux.tasks.templates import class_ids, class_list, class_list_names
from lascaux.weights.inert import Array
from lascaux.weights.pickles import Interpreter

PROTOCOLS = ("imagenet", "imagenetv2", "cifar10", "cifar100", "folder")
# The published template set of each; of other data the model's own is taken.
TEMPLATES = {
    "imagenet": "imagenet",
    "imagenetv2": "imagenet",
    "cifar10": "cifar",
    "cifar100": "cifar",
}
# Pictures and classes of the whole test set.
WHOLE = {
    "imagenet": (50_000, 1000),
    "imagenetv2": (10_000, 1000),
    "cifar10": (10_000, 10),
    "cifar100": (10_000, 100),
}

_WORDNET = re.compile(r"n\d{8}")
_VALIDATION = re.compile(r"ILSVRC2012_val_\d{8}\.JPEG", re.IGNORECASE)


def open_labelled(
    path: str | Path,
    protocol: str | None = None,
    *,
    labels: str | Path | None = None,
    split: str = "test",
) -> Labelled:
    """The labelled pictures at a path.

    Args:
        path: a folder with one subfolder for each class (of any names, of WordNet ids for ImageNet
            and its kin, of numbers for ImageNetV2), ImageNet's validation pictures in one folder,
            or CIFAR as published.
        protocol: one of `PROTOCOLS`; None finds it from what lies there.
        labels: of ImageNet's pictures in one folder; see `imagenet_labels`.
        split: "train" is there of CIFAR alone.

    Raises:
        BadInput: nothing there, or not what the protocol needs.
        WeightsError: a pickle that could run code, or is broken.
    """
    path = Path(path).expanduser()
    if not path.exists():
        raise BadInput(f"there is no file or folder {path}")
    if protocol is not None and protocol not in PROTOCOLS:
        raise BadInput(f"no protocol {protocol!r}; there are: {', '.join(PROTOCOLS)}")
    if split not in ("test", "train"):
        raise BadInput(f"split is {split!r}; expected 'test' or 'train'")
    protocol = protocol or guessed(path)
    if labels is not None and protocol != "imagenet":
        raise BadInput(
            f"labels go with ImageNet's validation pictures in one folder; this is {protocol}, "
            "whose labels are its folders or its own files"
        )
    if protocol in ("cifar10", "cifar100"):
        names = [each[0] for each in class_list(protocol)]
        return read_cifar(path, protocol, names, _unpickled, split=split)
    if split != "test":
        raise BadInput(f"split {split!r} is there of CIFAR alone; name the folder of that split")
    if protocol == "imagenet":
        return _imagenet(path, labels)
    return _imagenet_v2(path) if protocol == "imagenetv2" else folders_of_pictures(path)


def guessed(path: Path) -> str:
    """The protocol of what lies at a path.

    Raises:
        BadInput: nothing that is known lies there.
    """
    sets = cifar_sets(path)
    if len(sets) > 1:
        raise BadInput(f"{path} holds {' and '.join(sets)}; say which by the protocol")
    if sets:
        return sets[0]
    if path.is_dir() and any(_VALIDATION.fullmatch(entry.name) for entry in path.iterdir()):
        return "imagenet"
    folders = class_folders(path)
    if any(_WORDNET.fullmatch(name) for name in folders):
        return "imagenet"
    return "imagenetv2" if set(folders) == set(map(str, range(1000))) else "folder"


def among(data: Labelled, classes: Classes | Path) -> Labelled:
    """The same pictures among other classes, or under other names.

    Each class of the data is found in `classes` by its key or, if it is called so there once, by
    its name; further classes are further candidates. Where none is found and there are as many,
    the names are taken in order. A published list such as "imagenet" brings its WordNet ids.

    Args:
        data: labelled pictures.
        classes: as `class_evidence` takes them, or a file as `classes_file` reads.

    Raises:
        BadClasses: neither way fits.
    """
    entries = _entries(classes)
    if any(entry.descriptions or entry.pictures for entry in entries):
        raise BadClasses("classes are names here; give descriptions and examples by their own way")
    keys = [entry.name for entry in entries]
    if isinstance(classes, str) and _has_ids(classes.strip()):
        keys = list(class_ids(classes.strip()))
    if len(set(keys)) < len(keys):
        keys = [f"{place} {key}" for place, key in enumerate(keys)]
    names = dict(zip(keys, (entry.prompted for entry in entries), strict=True))
    places = _places(data, names)
    if None not in places:
        return relabelled(data, names, [place for place in places if place is not None])
    if len(names) == len(data.classes) and not any(place is not None for place in places):
        renamed = dict(zip(data.keys, names.values(), strict=True))
        return relabelled(data, renamed, range(len(renamed)))
    missing = [key for key, place in zip(data.keys, places, strict=True) if place is None]
    raise BadClasses(
        f"{len(names)} classes were given for the {len(data.classes)} of {data.name}, and "
        f"{len(missing)} of these are not among them ({shown(missing)}); expected as many names in "
        "the same order, or a list that holds each of them once"
    )


def evidence_for(data: Labelled, entries: tuple[ClassEvidence, ...], what: str) -> dict[int, Any]:
    """Evidence by the place of its class, which is named by its key or its name.

    Raises:
        BadClasses: evidence of no class, or of a name that several classes have.
    """
    by_key = {key: place for place, key in enumerate(data.keys)}
    by_name = _by_name(data.classes)
    found: dict[int, ClassEvidence] = {}
    for entry in entries:
        places = [by_key[entry.name]] if entry.name in by_key else []
        places = places or by_name.get(entry.name) or by_name.get(entry.name.replace("_", " "), [])
        if not places:
            raise BadClasses(
                f"{what} of {entry.name!r}, which is no class of {data.name}; its classes are "
                f"{shown([each[0] for each in data.classes])}, by the keys {shown(data.keys)}"
            )
        if len(places) > 1:
            raise BadClasses(
                f"{what} of {entry.name!r}, a name of {len(places)} classes; tell them apart by "
                f"their keys: {shown([data.keys[place] for place in places])}"
            )
        if places[0] in found:
            raise BadClasses(f"{what} of class {data.keys[places[0]]!r} twice; put them together")
        found[places[0]] = entry
    return found


def _has_ids(name: str) -> bool:
    return name in class_list_names() and bool(class_ids(name))


def _imagenet(path: Path, labels: str | Path | None) -> Labelled:
    names = dict(zip(class_ids("imagenet"), class_list("imagenet"), strict=True))
    if labels is not None:
        places = imagenet_labels(labels, tuple(names))
        return flat_pictures(path, places, names, protocol="imagenet")
    if path.is_dir() and any(_VALIDATION.fullmatch(entry.name) for entry in path.iterdir()):
        raise BadInput(
            f"{path} holds ImageNet's validation pictures in one folder, and their names do not "
            "tell their classes; give the labels: Kaggle's LOC_val_solution.csv or Caffe's val.txt"
        )
    folders = class_folders(path)
    if unknown := [name for name in folders if name not in names]:
        raise BadInput(
            f"{len(unknown)} of {len(folders)} folders in {path} are no WordNet ids of "
            f"ImageNet-1k: {shown(unknown)}; take them away, or measure by the protocol 'folder', "
            "which takes folders' names for class names"
        )
    kept = {key: names[key] for key in names if key in set(folders)}
    return pictures_by_key(path, kept, protocol="imagenet")


def _imagenet_v2(path: Path) -> Labelled:
    folders = class_folders(path)
    if unknown := [name for name in folders if not re.fullmatch(r"0|[1-9]\d{0,2}", name)]:
        raise BadInput(
            f"{len(unknown)} of {len(folders)} folders in {path} are no numbers from 0 to 999: "
            f"{shown(unknown)}; expected the folder with ImageNetV2's 1,000 subfolders"
        )
    # As text "10" comes before "2", and nearly all labels would be wrong.
    numbers = sorted(map(int, folders))
    every = class_list("imagenet")
    kept = {str(number): every[number] for number in numbers}
    return pictures_by_key(path, kept, protocol="imagenetv2")


def _entries(classes: Classes | Path) -> tuple[ClassEvidence, ...]:
    if isinstance(classes, Path):
        return classes_file(classes)
    if isinstance(classes, str) and classes.strip() not in class_list_names():
        path = Path(classes).expanduser()
        if path.suffix.lower() in (".txt", ".json") or path.is_file():
            return classes_file(path)
    return class_evidence(classes)


def _places(data: Labelled, names: dict[str, tuple[str, ...]]) -> list[int | None]:
    """Where each class of the data is among others, by key or by a name that is there once."""
    by_key = {key: place for place, key in enumerate(names)}
    by_name = _by_name(tuple(names.values()))
    twice = {key for key, count in Counter(each[0] for each in data.classes).items() if count > 1}
    found: list[int | None] = []
    for key, own in zip(data.keys, data.classes, strict=True):
        places = by_name.get(own[0], []) if own[0] not in twice else []
        found.append(by_key.get(key, places[0] if len(places) == 1 else None))
    return found if len(set(found)) == len(found) else [None] * len(found)


def _by_name(classes: tuple[tuple[str, ...], ...]) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for place, names in enumerate(classes):
        for name in dict.fromkeys(names):
            found.setdefault(name, []).append(place)
    return found


def _unpickled(data: bytes, where: str) -> Any:
    """The content of a pickle, of which nothing is run; arrays of numbers as NumPy's."""
    found = Interpreter(data, where).run()
    if not isinstance(found, dict):
        return found
    return {
        key: value.tensor.numpy()
        if isinstance(value, Array) and value.tensor is not None
        else value
        for key, value in found.items()
    }
