"""Finds the golden cases: those beside this file, or those under --golden-dir."""

from pathlib import Path

import pytest

HERE = Path(__file__).parent


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
                marks=[pytest.mark.slow]
                if not chosen and path.parent.name.startswith("full")
                else [],
            )
            for path in _manifests(root)
        ],
    )


def _manifests(root: Path) -> list[Path]:
    return sorted(root.rglob("manifest.json"))
