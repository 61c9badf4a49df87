"""`lascaux doctor`: whether this installation can work, and what to mend where it cannot."""

import argparse
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version

from lascaux.weights.download import cache_folder, is_offline

_PACKAGES = (
    "torch",
    "numpy",
    "pillow",
    "safetensors",
    "tokenizers",
    "ftfy",
    "huggingface_hub",
    "filelock",
    "einops",
    "jaxtyping",
    "tqdm",
)


@dataclass(frozen=True)
class Check:
    """One thing looked at."""

    name: str
    ok: bool
    found: str
    advice: str = ""  # what to do where it is not in order


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.add_argument("--json", action="store_true", help="one JSON object")


def run(arguments: argparse.Namespace) -> int:
    """Look at everything and print it; exit code 1 if something must be mended."""
    checks = list(_checks())
    fine = all(check.ok for check in checks)
    if arguments.json:
        print(json.dumps({"ok": fine, "checks": [asdict(c) for c in checks]}, indent=1))
        return 0 if fine else 1
    width = max(len(check.name) for check in checks)
    for check in checks:
        print(f"{'ok ' if check.ok else 'BAD'}  {check.name:<{width}}  {check.found}")
        if check.advice:
            print(f"     {'':<{width}}  -> {check.advice}")
    print("\neverything is in order" if fine else "\nsomething must be mended: see BAD above")
    return 0 if fine else 1


def _checks() -> Iterator[Check]:
    yield Check("python", sys.version_info >= (3, 11), sys.version.split()[0])
    for package in _PACKAGES:
        yield _package(package)
    looks = (("devices", _devices), ("products", _products), ("cache", _cache))
    for name, look in (*looks, ("ochre-clip", _reads)):
        yield _guarded(name, look)


def _guarded(name: str, look: Callable[[], Check]) -> Check:
    """A check whose failure, whatever it is, is its finding."""
    try:
        return look()
    except Exception as error:
        return Check(name, False, f"{type(error).__name__}: {error}", "install lascaux again")


def _package(name: str) -> Check:
    try:
        return Check(name, True, version(name))
    except PackageNotFoundError:
        return Check(name, False, "not installed", f"pip install {name}")


def _devices() -> Check:
    import torch

    found = [f"cpu ({torch.get_num_threads()} threads)"]
    found += [
        f"cuda:{i} ({torch.cuda.get_device_name(i)})" for i in range(torch.cuda.device_count())
    ]
    if torch.backends.mps.is_available():
        found.append("mps")
    return Check("devices", True, ", ".join(found))


def _products() -> Check:
    """Which way matrix products take on this CPU, and what that gains."""
    import torch

    from lascaux.nn.linear import chosen_way, onednn_gain

    found = []
    for dtype in (torch.float32, torch.bfloat16):
        way = {"torch": "torch's own way", "onednn": "oneDNN"}[chosen_way(dtype)]
        name = str(dtype).removeprefix("torch.")
        found.append(f"{name} by {way} (oneDNN is {onednn_gain(dtype):.1f} times as fast)")
    return Check("products", True, ", ".join(found))


def _cache() -> Check:
    home = cache_folder()
    nearest = next(folder for folder in (home, *home.parents) if folder.exists())
    free = shutil.disk_usage(nearest).free / 2**30
    found = f"{home}, {free:.0f} GiB free" + (", offline" if is_offline() else "")
    if not os.access(nearest, os.W_OK):
        advice = "set LASCAUX_HOME to a folder that can be written"
        return Check("cache", False, f"{nearest} cannot be written", advice)
    return Check("cache", True, found, "" if free >= 2 else "a large model needs 2 GiB")


def _reads() -> Check:
    """Whether the embedded model is there, loads, and tells a red picture from a blue one."""
    from PIL import Image

    from lascaux.tasks.classify import Classifier

    classifier = Classifier(["red background", "blue background"], templates="plain")
    answers = [
        classifier.classify(Image.new("RGB", (64, 64), colour)).answer for colour in ("red", "blue")
    ]
    if answers != ["red background", "blue background"]:
        return Check("ochre-clip", False, f"red and blue read as {answers}", "install again")
    return Check("ochre-clip", True, "loads, and tells red from blue")
