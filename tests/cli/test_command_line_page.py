import importlib.util
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_the_page_equals_the_live_help():
    spec = importlib.util.spec_from_file_location(
        "command_line_page", ROOT / "tools" / "command_line_page.py"
    )
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    written = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
    assert written == tool.page(), "run `python tools/command_line_page.py`"
