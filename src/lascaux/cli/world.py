"""`lascaux world`: scenes of the emoji world as pictures, with captions, tags and maps."""

import argparse
from pathlib import Path

from lascaux.cli.flags import WrongUse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """How many scenes, of which split, and where they go."""
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder to write")
    parser.add_argument("--n", type=int, default=16, metavar="N", help="scenes (default: 16)")
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="of the first scene; then S+1, ..."
    )
    parser.add_argument("--size", type=int, default=64, metavar="PX", help="pixels (default: 64)")
    parser.add_argument("--split", choices=("train", "validation", "test"), default="train")
    parser.add_argument("--kind", choices=("any", "single", "counted", "related"), default="any")
    parser.add_argument(
        "--maps",
        action="store_true",
        help="also write semantic maps (16-bit PNG), and labels.txt of what their numbers mean",
    )
    parser.add_argument("--digits", action="store_true", help="let handwritten digits appear")
    parser.add_argument("--json", action="store_true", help="print the descriptions as JSON")


def run(arguments: argparse.Namespace) -> int:
    """Draw the scenes; `captions.jsonl` in the folder tells what each one shows.

    With maps, `labels.txt` tells what their numbers stand for.
    """
    import json

    import numpy as np
    from PIL import Image

    from lascaux.data.world import MAP_NAMES, caption, draw, draw_map, sample, tags
    from lascaux.tasks.aside import written_aside

    if arguments.n < 1 or not 8 <= arguments.size <= 2048:
        raise WrongUse("--n must be at least 1 and --size between 8 and 2048")
    if arguments.seed < 0:
        raise WrongUse("--seed must be 0 or more")
    try:
        arguments.out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise WrongUse(f"--out {arguments.out}: no folder can be made there") from error
    lines = []
    for seed in range(arguments.seed, arguments.seed + arguments.n):
        rng = np.random.Generator(np.random.PCG64([seed]))
        scene = sample(rng, arguments.split, arguments.kind, digits=arguments.digits)
        name = f"{arguments.split}-{seed:06d}.png"
        with written_aside(arguments.out / name) as part:
            draw(scene, arguments.size).save(part, "PNG")
        if arguments.maps:
            shown = Image.fromarray(draw_map(scene, arguments.size))
            with written_aside(arguments.out / name.replace(".png", ".map.png")) as part:
                shown.save(part, "PNG")
        described = {
            "file": name,
            "seed": seed,
            "caption": caption(scene, rng),
            "caption_zh": caption(scene, rng, "zh"),
            "tags": tags(scene),
            "background": scene.background,
            "objects": list(scene.names),
        }
        lines.append(json.dumps(described, ensure_ascii=False))
        print(lines[-1] if arguments.json else f"{name}  {described['caption']}")
    texts = {"captions.jsonl": lines}
    if arguments.maps:
        texts["labels.txt"] = [f"{number}\t{name}" for number, name in enumerate(MAP_NAMES)]
    for name, rows in texts.items():
        with written_aside(arguments.out / name) as part:
            part.write_text("\n".join(rows) + "\n", encoding="utf-8")
    return 0
