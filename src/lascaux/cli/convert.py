"""`lascaux convert`: a checkpoint as a folder of safe weights, with what became of every tensor."""

import argparse
import json
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lascaux.weights.convert import Conversion, File

_EXAMPLES = """\
examples:
  lascaux convert ViT-B-32.pt --out clip-b32 --tokenizer openai
  lascaux convert epoch_32.pt --out mine --activation gelu --dtype float16
"""
_SHOWN = 12  # lines of what was left out


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of this verb."""
    parser.epilog = _EXAMPLES
    parser.add_argument(
        "file",
        metavar="FILE",
        help="a checkpoint: safetensors, torch.save of any age, TorchScript; or a folder or name",
    )
    parser.add_argument("--out", required=True, metavar="DIR", help="folder to write")
    parser.add_argument(
        "--dtype",
        choices=("stored", "float32", "float16", "bfloat16"),
        default="stored",
        help="of the matrices; stored keeps every tensor as precise as it is (default: stored)",
    )
    parser.add_argument(
        "--activation",
        choices=("quick_gelu", "gelu"),
        help="where the file cannot tell: quick_gelu is OpenAI's, gelu most of OpenCLIP's",
    )
    parser.add_argument(
        "--tokenizer",
        metavar="FILE",
        help="vocabulary file or folder; openai fetches OpenAI's; by default the one beside FILE",
    )
    parser.add_argument(
        "--part",
        metavar="PREFIX",
        help="of a checkpoint of several models the one to take, such as first_stage_model",
    )
    parser.add_argument(
        "--force", action="store_true", help="replace a folder that Lascaux wrote before"
    )
    parser.add_argument("--json", action="store_true", help="print the report as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Convert, and print the report."""
    from dataclasses import asdict

    from lascaux.weights.convert import convert

    report = convert(
        arguments.file,
        arguments.out,
        dtype=arguments.dtype,
        activation=arguments.activation,
        tokenizer=arguments.tokenizer,
        part=arguments.part,
        force=arguments.force,
    )
    if arguments.json:
        print(json.dumps(asdict(report), ensure_ascii=False, indent=1))
    else:
        print("\n".join(_lines(report)))
    return 0


def _lines(report: "Conversion") -> list[str]:
    lines = [line for file in report.sources for line in _listed("read", file)]
    lines.append(_line("container", report.container))
    keys = f"{report.matched} keys matched, {len(report.dropped)} dropped"
    lines.append(_line("layout", f"{report.layout}: {keys}"))
    lines += [_line("", f"{key}: {why}") for key, why in report.dropped.items()]
    shown = list(report.left_out[:_SHOWN])
    if len(report.left_out) > _SHOWN:
        shown.append(f"and {len(report.left_out) - _SHOWN} more")
    lines += [_line("left out" if not place else "", each) for place, each in enumerate(shown)]
    lines += _about_clip(report) if report.model == "clip" else [_line("model", report.model)]
    kinds = ", ".join(f"{name} x {count}" for name, count in report.dtypes.items())
    lines.append(_line("dtype", f"{report.dtype} (in the file: {kinds})"))
    for place, file in enumerate(report.written):
        lines += _listed("wrote" if not place else "", file)
    if report.model == "clip":
        then = f"lascaux classify PHOTO --classes 'cat, dog' --model {report.folder}"
        lines.append(_line("tokenizer", report.tokenizer or f"none; {report.advice}"))
        lines.append(_line("next", then))
    return lines


def _about_clip(report: "Conversion") -> list[str]:
    config = report.config
    tower = "ResNet" if config.patch_size is None else f"ViT, patches of {config.patch_size}"
    other = "gelu" if config.activation == "quick_gelu" else "quick_gelu"
    known = report.activation_known or f"assumed; --activation {other} if scores look wrong"
    return [
        _line("model", f"{tower}, {config.image_size} px, {config.embed_width} dimensions"),
        _line("", f"activation {config.activation} ({known})"),
    ]


def _line(label: str, text: str) -> str:
    return f"{label:<10} {text}"


def _listed(label: str, file: "File") -> list[str]:
    return [
        _line(label, f"{file.path} ({file.bytes / 1e6:,.2f} MB)"),
        _line("", f"sha256 {file.sha256}"),
    ]
