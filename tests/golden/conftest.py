"""Finds the golden cases: those beside this file, or those under --golden-dir."""

import json
import math
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FEW = 20_000_000  # weights of a case that runs by default


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--golden-dir",
        metavar="PATH",
        help="run every golden case under PATH, slow ones too, instead of the project's own",
    )


def pytest_configure(config: pytest.Config) -> None:
    chosen = config.getoption("golden_dir", default=None)
    if chosen and not _manifests(Path(chosen)):
        raise pytest.UsageError(f"--golden-dir {chosen}: no manifest.json below it")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "folder" not in metafunc.fixturenames:
        return
    chosen = metafunc.config.getoption("golden_dir", default=None)
    root = Path(chosen) if chosen else HERE
    metafunc.parametrize(
        "folder",
        [
            pytest.param(
                path.parent,
                id=str(path.parent.relative_to(root)),
                marks=[pytest.mark.slow] if not chosen and _weights(path) > FEW else [],
            )
            for path in _manifests(root)
        ],
    )


def _manifests(root: Path) -> list[Path]:
    return sorted(root.rglob("manifest.json"))


def _weights(manifest: Path) -> int:
    state = json.loads(manifest.read_text(encoding="utf-8")).get("state", {})
    return sum(math.prod(entry["shape"]) for entry in state.values() if "alias_of" not in entry)
