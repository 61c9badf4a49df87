"""What importing and asking for help cost, measured in processes of their own."""

import os
import resource
import statistics
import subprocess
import sys
from pathlib import Path

import pytest


def run(*words: str) -> str:
    done = subprocess.run(
        [sys.executable, *words], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout


def processor_seconds(*words: str) -> float:
    """User and system time of one process."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    run(*words)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


@pytest.mark.parametrize(
    "what",
    [
        "import lascaux",
        "import lascaux.cli.main",
        "from lascaux.tasks.options import ClassifyOptions",
        "from lascaux.cli.main import verb_parser; verb_parser('classify').format_help()",
        "from lascaux.cli.main import verb_parser; verb_parser('search').format_help()",
        "from lascaux.cli.main import verb_parser; verb_parser('embed').format_help()",
        "from lascaux.cli.main import verb_parser; verb_parser('data').format_help()",
        "from lascaux.cli.main import verb_parser; verb_parser('spell').format_help()",
        "from lascaux.cli.main import verb_parser; verb_parser('unspell').format_help()",
        "from lascaux.cli.main import verb_parser; verb_parser('reconstruct').format_help()",
        "from lascaux.cli.main import verb_parser; verb_parser('imagine').format_help()",
        "from lascaux.cli.main import verb_parser; verb_parser('paint').format_help()",
        "from lascaux.cli.main import verb_parser; verb_parser('evaluate').format_help()",
    ],
)
def test_torch_is_not_imported_by(what):
    heavy = run("-c", f"{what}\nimport sys\nprint(*{{'torch', 'numpy', 'PIL'}} & set(sys.modules))")
    assert heavy.strip() == ""


def test_help_takes_at_most_eight_times_a_bare_start():
    helped, bare = [], []
    for _ in range(9):  # in turn, so that a busy machine slows both alike
        helped.append(processor_seconds("-m", "lascaux.cli.main", "--help"))
        bare.append(processor_seconds("-c", "pass"))
    assert statistics.median(helped) <= 8 * statistics.median(bare)


def test_importing_everything_public_writes_nothing(tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    variables = {
        **os.environ,
        "HOME": str(home),
        "XDG_CACHE_HOME": str(home / "cache"),
        "LASCAUX_HOME": str(home / "lascaux"),
        "HF_HOME": str(home / "hf"),
        "PYTHONDONTWRITEBYTECODE": "1",
        "PYTHONPATH": str(Path(__file__).parents[1] / "src"),
    }
    code = "import lascaux\nfor name in lascaux.__all__: getattr(lascaux, name)\nprint('done')"
    work = tmp_path / "work"
    work.mkdir()
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=work,
        env=variables,
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert (done.stdout, done.stderr) == ("done\n", "")
    assert list(work.rglob("*")) == []
    assert list(home.rglob("*")) == []
