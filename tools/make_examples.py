"""Make the pictures of examples/: a screenshot, a scanned digit, a scene, a sticker photographed.

Needs Debian's chromium and fonts-noto-color-emoji, and scikit-learn:

    python tools/make_examples.py
"""

import subprocess
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

from lascaux.data.world import Scene, Thing, draw, objects
from lascaux.data.world.objects import scans_of
from lascaux.data.world.wild import digit_picture, wild

FOLDER = Path(__file__).parents[1] / "examples/pictures"
PAGE = """<!doctype html><meta charset="utf-8"><style>
body{margin:0;font:20px sans-serif;background:#eef1f5;color:#223}
header{background:#2f6fde;color:#fff;padding:18px 26px;font-weight:600}
.m{background:#fff;border-radius:16px;padding:12px 18px;margin:18px 26px;max-width:380px}
.o{margin-left:auto;background:#d7e8ff}
.b{font-size:210px;line-height:1.15;text-align:center;background:none}
</style><header>Saturday plans</header>
<div class=m>what shall we eat tonight?</div><div class="m o b">&#x1F355;</div>
<div class="m o">see you at seven</div>"""
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--window-size=640,560",
]


def index_of(name: str) -> int:
    return next(thing.index for thing in objects() if thing.name == name)


def screenshot(target: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder) / "page.html"
        page.write_text(PAGE, encoding="utf-8")
        shot = Path(folder) / "shot.png"
        command = ["chromium", *FLAGS, f"--user-data-dir={folder}/profile", f"--screenshot={shot}"]
        subprocess.run([*command, page.as_uri()], check=True, capture_output=True, timeout=120)
        Image.open(shot).convert("RGB").save(target)


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    screenshot(FOLDER / "screenshot.png")
    rng = np.random.Generator(np.random.PCG64([0]))
    digit_picture(rng, scans_of(7, held_out=True)[4], 160).save(FOLDER / "scanned-digit.png")
    fox = Thing(index_of("fox"), 0.46, 0.62, 0.5)
    draw(Scene("snow", (fox,), 7), 320).save(FOLDER / "scene.jpg", quality=88)
    rng = np.random.Generator(np.random.PCG64([22]))
    guitar = wild(rng, index_of("guitar"), "perspective", 320)
    guitar.save(FOLDER / "sticker.jpg", quality=80)


if __name__ == "__main__":
    main()
