"""`lascaux evaluate BENCHMARK`: figures with everything needed to get them again."""

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lascaux.cli.accuracy import account, compared
from lascaux.cli.data import opened_source
from lascaux.cli.flags import HelpPages, WrongUse, add_flags, options_from
from lascaux.cli.progress import progress, say
from lascaux.cli.sheet import require_file
from lascaux.errors import DownloadFailed, LascauxError
from lascaux.evaluate.options import (
    EvaluateClassifyOptions,
    EvaluateFidOptions,
    EvaluateImagineOptions,
    EvaluateReconstructOptions,
)
from lascaux.tasks.options import SourceOptions

if TYPE_CHECKING:
    from PIL.Image import Image

    from lascaux.data.labelled import Labelled
    from lascaux.evaluate.report import Report

BENCHMARKS = {
    "classify": "zero-shot accuracy of CLIPs on labelled pictures: ImageNet, CIFAR, any folder",
    "fid": "how far two sets of pictures are apart: FID, or the same of another model's features",
    "reconstruct": "what an image tokeniser keeps of pictures, beside a thumbnail of as many bits",
    "imagine": "pictures that models write from sentences: judge, CLIP score, FID, seconds, memory",
    "ochre-clip": "a CLIP on the emoji world's test split, unseen digits, distorted pictures",
    "ochre-vq": "an image tokeniser on the emoji world's test split, by box and judge",
    "ochre-styled": "likewise a Styled VAE-VQ, and its first k attributes, exchanges, search",
    "ochre-map": "pictures after maps of the emoji world's test split, by the judge's own maps",
    "ochre-judge": "the judge on fresh scenes, and on pictures that it must refuse",
}
_EXAMPLES = """\
examples:
  lascaux evaluate classify imagenet/val --model ViT-B/32 ViT-B/16
  lascaux evaluate classify imagenet/val --model ViT-L/14 --features l14.safetensors
  lascaux evaluate classify cifar-100-python.tar.gz --published --out cifar100.json
  lascaux evaluate classify birds/ --describe birds.json --examples known-birds/

DATA is a folder with one subfolder for each class (of WordNet ids for ImageNet and its kin, of
numbers for ImageNetV2), ImageNet's validation pictures in one folder with --labels, or CIFAR's
folder or archive. docs/protocols.md has the published figures.
"""
_FID_EXAMPLES = """\
examples:
  lascaux evaluate fid photographs/ generated/ --statistics photographs.safetensors
  lascaux evaluate fid published.npz generated/ --json
  lascaux evaluate fid stories/ told/ --size 64
  lascaux evaluate fid drawn/ generated/ --model ochre-clip

DATA_A and DATA_B are pictures (a folder with all below it, a table, tars, Parquet; docs/data.md) or
their statistics (.safetensors, .npz). docs/measures.md says what the figure means.
"""

_IMAGINE_EXAMPLES = """\
examples:
  lascaux evaluate imagine --model ochre-imagine ochre-dalle
  lascaux evaluate imagine --model clip-gen-coco --clip ViT-B/32 \\
      --prompts sentences.txt --reference val2014/ --out coco.json

All models are given the same sentences, and are measured by the same CLIP, judge and true pictures.
docs/measures.md says what the figures mean.
"""

_SHOWN = 5  # pictures that could not be read
_ON_A_SHEET = 48  # pictures
_RECONSTRUCT_EXAMPLES = """\
examples:
  lascaux evaluate reconstruct photos/ --model vqgan-imagenet-f16-1024
  lascaux evaluate reconstruct 'val-{00..49}.tar' --model openai-dvae --limit 1000 \\
      --lpips lpips-vgg16 --out dvae.json

DATA is anything that `lascaux data info` reads. docs/tokenisers.md tells what the
figures mean.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """One sub-command for each benchmark."""
    commands = parser.add_subparsers(dest="benchmark", metavar="BENCHMARK")
    classify = _command(commands, "classify")
    classify.epilog = _EXAMPLES
    classify.add_argument("data", metavar="DATA", help="labelled pictures; see below")
    add_flags(classify, EvaluateClassifyOptions)
    classify.add_argument("--out", metavar="FILE", help="write the whole report there as JSON, too")
    _add_json(classify)
    fid = _command(commands, "fid")
    fid.epilog = _FID_EXAMPLES
    for side in ("a", "b"):
        fid.add_argument(
            f"data_{side}", metavar=f"DATA_{side.upper()}", help="pictures, or their statistics"
        )
    add_flags(fid, EvaluateFidOptions)
    fid.add_argument("--out", metavar="FILE", help="write the whole report there as JSON, too")
    _add_json(fid)
    reconstruct = _command(commands, "reconstruct")
    reconstruct.epilog = _RECONSTRUCT_EXAMPLES
    reconstruct.add_argument("data", metavar="DATA", help="pictures; see below")
    add_flags(reconstruct, EvaluateReconstructOptions)
    add_flags(reconstruct.add_argument_group("how the source is read"), SourceOptions)
    reconstruct.add_argument("--out", metavar="FILE", help="write the report there as JSON, too")
    _add_json(reconstruct)
    imagine = _command(commands, "imagine")
    imagine.epilog = _IMAGINE_EXAMPLES
    add_flags(imagine, EvaluateImagineOptions)
    imagine.add_argument("--sheet", metavar="PNG", help="write pictures of the first sentences")
    imagine.add_argument("--out", metavar="FILE", help="write the report there as JSON, too")
    _add_json(imagine)
    for name in ("ochre-clip", "ochre-vq", "ochre-styled", "ochre-map", "ochre-judge"):
        command = _command(commands, name)
        command.add_argument("--model", help="name or folder (default: the embedded one)")
        if name == "ochre-clip":
            command.add_argument(
                "--glyphs",
                type=Path,
                metavar="DIR",
                help="glyphs of other fonts, made by tools/make_other_glyphs.py",
            )
            command.add_argument(
                "--unseen-fonts",
                metavar="FONTS",
                help="those that the model was not trained on (default: as its recipe has it)",
            )
        if name == "ochre-vq":
            command.add_argument("--sheet", metavar="PNG", help="write scenes and what they became")
        if name == "ochre-map":
            command.add_argument("--sheet", metavar="PNG", help="write maps and what was painted")
        if name == "ochre-styled":
            command.add_argument("--strip", metavar="PNG", help="write scenes from their first k")
        if name in ("ochre-vq", "ochre-styled"):
            command.add_argument(
                "--scenes",
                type=int,
                default=2000,
                metavar="N",
                help="of one object, of the test split (default: 2000); the more, the more codes "
                "can be used",
            )
        command.add_argument(
            "--device", default="cpu", help="cpu, cuda, cuda:1, mps (default: cpu)"
        )
        command.add_argument(
            "--dtype",
            choices=("float32", "bfloat16", "float16"),
            default="float32",
            help="number format of the model (default: float32)",
        )
        _add_json(command)


def run(arguments: argparse.Namespace) -> int:
    """Measure and print; 1 if a picture could not be read or a model could not be measured."""
    if not arguments.benchmark:
        raise WrongUse(f"name a benchmark: {', '.join(BENCHMARKS)}")
    if arguments.benchmark == "classify":
        return _classify(arguments)
    if arguments.benchmark == "fid":
        return _fid(arguments)
    if arguments.benchmark == "reconstruct":
        return _reconstruct(arguments)
    if arguments.benchmark == "imagine":
        return _imagine(arguments)
    model = arguments.model or arguments.benchmark
    where = {"device": arguments.device, "dtype": arguments.dtype}
    if arguments.benchmark in ("ochre-vq", "ochre-styled") and arguments.scenes < 1:
        raise WrongUse(f"--scenes is {arguments.scenes}; it must be at least 1")
    if arguments.benchmark == "ochre-judge":
        from lascaux.evaluate import ochre_judge

        report = ochre_judge.evaluate(model, **where)
    elif arguments.benchmark == "ochre-vq":
        from lascaux.evaluate import ochre_tokeniser

        report = ochre_tokeniser.evaluate(model, arguments.scenes, sheet=arguments.sheet, **where)
    elif arguments.benchmark == "ochre-styled":
        from lascaux.evaluate import ochre_styled

        report = ochre_styled.evaluate(model, arguments.scenes, strip=arguments.strip, **where)
    elif arguments.benchmark == "ochre-map":
        from lascaux.evaluate import ochre_map

        require_file("sheet", arguments.sheet)
        with progress() as show:
            report = ochre_map.evaluate(model, sheet=arguments.sheet, progress=show, **where)
    else:
        from lascaux.evaluate import ochre_clip

        if arguments.unseen_fonts is not None:
            where["unseen_fonts"] = arguments.unseen_fonts
        report = ochre_clip.evaluate(model, arguments.glyphs, **where)
    print(report.to_json() if arguments.json else report.to_text())
    return 0


def _command(commands: Any, name: str) -> argparse.ArgumentParser:
    line = BENCHMARKS[name]
    return commands.add_parser(
        name,
        help=line,
        description=f"{line[0].upper()}{line[1:]}.",
        formatter_class=HelpPages,
        allow_abbrev=False,
    )


def _add_json(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the whole report as JSON")


def _classify(arguments: argparse.Namespace) -> int:
    options = options_from(arguments, EvaluateClassifyOptions)
    for flag in ("out", "features"):
        require_file(flag, getattr(arguments, flag))
    if arguments.out and arguments.out == arguments.features:
        raise WrongUse("--out and --features name one file; the report needs another")
    from lascaux.evaluate.protocols import open_labelled
    from lascaux.evaluate.published import official_names

    models = official_names() if options.published else options.model
    data = open_labelled(
        arguments.data, options.protocol, labels=options.labels, split=options.split
    )
    reports: list[Report] = []
    for model in models:
        try:
            reports.append(_measured(data, model, options, alone=len(models) == 1))
        except LascauxError as error:
            if len(models) == 1:
                raise
            say(f"{model} could not be measured: {error}")
            continue
        if arguments.out:
            _write(_as_json(reports, alone=len(models) == 1), arguments.out)
    if not reports:
        return 1
    if arguments.json:
        print(_as_json(reports, alone=len(models) == 1))
    else:
        print(account(reports[0]) if len(models) == 1 else compared(reports))
    if arguments.out:
        say(f"wrote {arguments.out}")
    unread = sum(len(report.details["failures"]) for report in reports)
    if unread:
        noun = "picture" if unread == 1 else "pictures"
        say(f"{unread} {noun} could not be read and left out")
    return 1 if unread or len(reports) < len(models) else 0


def _fid(arguments: argparse.Namespace) -> int:
    options = options_from(arguments, EvaluateFidOptions)
    for flag in ("out", "statistics"):
        require_file(flag, getattr(arguments, flag))
    from dataclasses import asdict

    from lascaux.evaluate import fid

    try:
        with progress() as show:
            report = fid.evaluate(
                arguments.data_a, arguments.data_b, **asdict(options), progress=show
            )
    except DownloadFailed as error:
        offline = "without network, --model ochre-clip stands in (its figure is no FID)"
        raise DownloadFailed(f"{error}; {offline}") from error
    print(report.to_json() if arguments.json else report.to_text())
    if arguments.out:
        _write(report.to_json(), arguments.out)
        say(f"wrote {arguments.out}")
    for warning in report.details["warnings"]:
        say(warning)
    for each in report.details["failures"]:
        say(f"left out {each['source']}: {each['reason']}")
    return 1 if report.details["failures"] else 0


def _reconstruct(arguments: argparse.Namespace) -> int:
    options = options_from(arguments, EvaluateReconstructOptions)
    require_file("out", arguments.out)
    from lascaux.evaluate import reconstruct

    source = opened_source(arguments.data, options_from(arguments, SourceOptions), absent="keep")
    with progress() as show:
        report = reconstruct.evaluate(
            source,
            options.model,
            size=options.size,
            reading=options.reading,
            limit=options.limit,
            seed=options.seed,
            lpips=options.lpips,
            device=options.device,
            dtype=options.dtype,
            batch_size=options.batch_size,
            progress=show,
        )
    print(report.to_json() if arguments.json else report.to_text())
    if arguments.out:
        _write(report.to_json(), arguments.out)
        say(f"wrote {arguments.out}")
    failures = report.details["failures"]
    for one in failures[:_SHOWN]:
        say(f"left out: {one['source']}: {one['reason']}")
    if len(failures) > _SHOWN:
        say(f"left out: {len(failures)} in all; --json lists them")
    return 1 if failures else 0


def _imagine(arguments: argparse.Namespace) -> int:
    options = options_from(arguments, EvaluateImagineOptions)
    for flag in ("out", "sheet"):
        require_file(flag, getattr(arguments, flag))
    from lascaux.evaluate.imagine import Comparison

    alone = len(options.model) == 1
    from lascaux.evaluate.report import side_by_side

    reports: list[Report] = []
    shown: list[list[Image]] = []
    with progress() as show:
        comparison = Comparison(options, show)
        for model in options.model:
            try:
                report, made = comparison.evaluate(model)
            except LascauxError as error:
                if alone:
                    raise
                say(f"{model} could not be measured: {error}")
                continue
            reports.append(report)
            shown.append(made.first)
    if not reports:
        return 1
    as_json = _as_json(reports, alone=alone)
    print(as_json if arguments.json else reports[0].to_text() if alone else side_by_side(reports))
    if arguments.out:
        _write(as_json, arguments.out)
        say(f"wrote {arguments.out}")
    if arguments.sheet:
        names = [report.model for report in reports]
        _draw_sheet(shown, comparison.wanted.sentences, names, arguments.sheet)
        say(f"wrote {arguments.sheet}")
    for source, reason in comparison.unread.items():
        say(f"left out {source}: {reason}")
    return 1 if comparison.unread or len(reports) < len(options.model) else 0


def _draw_sheet(
    shown: "list[list[Image]]", sentences: list[str], models: list[str], path: str
) -> None:
    """Write the first sentences' pictures, those of all models side by side."""
    from lascaux.images.contact import contact_page
    from lascaux.tasks.aside import written_aside

    alone = len(models) == 1
    count = max(1, _ON_A_SHEET // len(models))
    pictures = [picture for row in zip(*shown, strict=True) for picture in row]
    lines = [f"{s}" if alone else f"{s} ({m})" for s in sentences for m in models]
    page = contact_page(
        pictures[: count * len(models)],
        lines[: count * len(models)],
        columns=8 if alone else len(models) * max(1, 8 // len(models)),
    )
    with written_aside(path) as part:
        page.save(part, "PNG")


def _measured(
    data: "Labelled", model: str, options: EvaluateClassifyOptions, *, alone: bool
) -> "Report":
    from lascaux.evaluate import classify

    features = _features_of(options.features, model, alone=alone)
    before = "" if alone else f"{model}: "
    try:
        with progress() as show:
            return classify.evaluate(
                data,
                model,
                classes=options.classes,
                templates=options.templates,
                describe=options.describe,
                examples=options.examples,
                reading=options.reading,
                limit=options.limit,
                seed=options.seed,
                device=options.device,
                dtype=options.dtype,
                batch_size=options.batch_size,
                features=features,
                progress=lambda stage, done, total: show(f"{before}{stage}", done, total),
            )
    except KeyboardInterrupt:
        if features is not None and features.exists():
            say(f"what is done is kept in {features}; the same command goes on")
        raise


def _features_of(path: str | None, model: str, *, alone: bool) -> Path | None:
    """The file of one model's embeddings."""
    if path is None or alone:
        return None if path is None else Path(path)
    plain = re.sub(r"[^A-Za-z0-9.]+", "-", model).strip("-.")
    return Path(path).with_name(f"{Path(path).stem}-{plain}{Path(path).suffix}")


def _as_json(reports: "list[Report]", *, alone: bool) -> str:
    """One model's report, or a list of several models' reports."""
    import json

    found = [report.as_json() for report in reports]
    return json.dumps(found[0] if alone else found, ensure_ascii=False, indent=1)


def _write(text: str, path: str) -> None:
    from lascaux.tasks.aside import written_aside

    with written_aside(path) as part:
        part.write_text(f"{text}\n", encoding="utf-8")
