"""`lascaux evaluate BENCHMARK`: figures with everything needed to get them again."""

import argparse
from pathlib import Path

from lascaux.cli.flags import WrongUse

BENCHMARKS = {
    "ochre-clip": "a CLIP on the emoji world's test split, unseen digits, distorted pictures",
    "ochre-judge": "the judge on fresh scenes, and on pictures that it must refuse",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """What to measure and with which model."""
    listed = "\n".join(f"  {name:<12} {line}" for name, line in BENCHMARKS.items())
    parser.epilog = f"benchmarks:\n{listed}"
    parser.add_argument("benchmark", choices=tuple(BENCHMARKS), metavar="BENCHMARK")
    parser.add_argument("--model", help="name or folder (default: the embedded one)")
    parser.add_argument(
        "--glyphs",
        type=Path,
        metavar="DIR",
        help="ochre-clip: glyphs of other fonts, made by tools/make_other_glyphs.py",
    )
    parser.add_argument("--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: cpu)")
    parser.add_argument(
        "--dtype",
        choices=("float32", "bfloat16", "float16"),
        default="float32",
        help="number format of the model (default: float32)",
    )
    parser.add_argument("--json", action="store_true", help="the whole report as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Measure and print."""
    model = arguments.model or arguments.benchmark
    where = {"device": arguments.device, "dtype": arguments.dtype}
    if arguments.benchmark == "ochre-judge":
        if arguments.glyphs:
            raise WrongUse("--glyphs goes with ochre-clip")
        from lascaux.evaluate import ochre_judge

        report = ochre_judge.evaluate(model, **where)
    else:
        from lascaux.evaluate import ochre_clip

        report = ochre_clip.evaluate(model, arguments.glyphs, **where)
    print(report.to_json() if arguments.json else report.to_text())
    return 0
