"""The rules of the house, kept by walking the syntax trees of the package."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "lascaux"
MODULES = sorted(SOURCE.rglob("*.py"))

# From the top; a module imports from lower layers and from its own folder alone.
LAYERS = (
    {"cli", "serve"},
    {"train", "evaluate"},
    {"tasks"},
    {"weights", "generate", "data"},
    {"models"},
    {"nn", "images", "text"},
    {"errors"},
)
LEVEL = {folder: level for level, folders in enumerate(LAYERS) for folder in folders}
FORBIDDEN_NAMES = {"utils", "util", "helpers", "helper", "misc", "common", "base"}
FORBIDDEN_PACKAGES = {"torchvision", "open_clip", "timm", "lpips", "cleanfid", "torch_fidelity"}


def imports(path: Path) -> Iterator[str]:
    """Full names of all that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module or ""
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room(name: str) -> str | None:
    """The folder or top file of a name within the package."""
    parts = name.split(".")
    return parts[1] if parts[0] == "lascaux" and len(parts) > 1 else None


def identity(path: Path) -> str:
    return str(path.relative_to(SOURCE))


@pytest.mark.parametrize("path", MODULES, ids=identity)
def test_imports_point_downwards(path):
    own = path.relative_to(SOURCE).parts[0].removesuffix(".py")
    if own == "__init__":
        return  # the front door names everything
    assert own in LEVEL, f"{own} has no layer: add it to LAYERS"
    for name in imports(path):
        target = room(name)
        if target in LEVEL and target != own:
            assert LEVEL[target] > LEVEL[own], f"{identity(path)} imports {name}"


@pytest.mark.parametrize("path", sorted(SOURCE.glob("models/*.py")), ids=identity)
def test_a_model_imports_no_other_model(path):
    if path.name == "__init__.py":
        return
    own = f"lascaux.models.{path.stem}"
    others = {n for n in imports(path) if n.startswith("lascaux.models.")}
    assert {n for n in others if n != own and not n.startswith(f"{own}.")} == set()


@pytest.mark.parametrize("path", MODULES, ids=identity)
def test_nothing_that_drags_in_torchvision_is_imported(path):
    assert {name.split(".")[0] for name in imports(path)} & FORBIDDEN_PACKAGES == set()


@pytest.mark.parametrize("path", MODULES, ids=identity)
def test_only_the_command_line_prints(path):
    if path.is_relative_to(SOURCE / "cli"):
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    prints = [
        node.lineno
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and isinstance(node.func, ast.Name)
        and node.func.id == "print"
    ]
    assert prints == []


def test_no_file_or_folder_has_a_name_of_nowhere():
    found = {
        identity(path)
        for path in SOURCE.rglob("*")
        if path.stem in FORBIDDEN_NAMES and "__pycache__" not in path.parts
    }
    assert found == set()


def test_there_are_no_empty_rooms():
    folders = [
        path
        for path in SOURCE.rglob("*")
        if path.is_dir() and "__pycache__" not in path.parts and path.name != "__pycache__"
    ]
    empty = [
        identity(path)
        for path in folders
        if not any(file.is_file() and file.suffix != ".pyc" for file in path.rglob("*"))
        or (any(path.glob("*.py")) and not (path / "__init__.py").exists())
    ]
    assert empty == []


def test_the_front_door_is_short():
    assert len((SOURCE / "__init__.py").read_text(encoding="utf-8").splitlines()) < 60


def test_nothing_is_left_to_do_without_a_number():
    loose = re.compile(r"#\s*(TODO|FIXME|XXX)(?!\(#\d+\))")
    assert [identity(p) for p in MODULES if loose.search(p.read_text(encoding="utf-8"))] == []
