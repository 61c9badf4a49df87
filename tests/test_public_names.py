import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import lascaux

ROOT = Path(__file__).parents[1]


def test_importing_the_package_does_not_import_torch():
    code = "import sys, lascaux; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", lascaux.__all__)
def test_every_public_name_is_there(name: str):
    assert getattr(lascaux, name).__name__ == name
    assert name in dir(lascaux)


def test_other_names_are_refused():
    with pytest.raises(AttributeError, match="no attribute 'lod'"):
        lascaux.lod  # noqa: B018


def test_the_version_is_the_one_of_the_distribution():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert lascaux.__version__ == project["version"]
