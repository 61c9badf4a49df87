"""JPEG records per second: `python benchmarks/loading.py` prints a table as Markdown.

Pictures of smooth noise, 500 x 375, are read, decoded and resized to 224 x 224: by a plain loop of
Pillow in one process, and by the loader, which also checks that files are whole, turns them as EXIF
says, makes tensors and puts them into batches of 32. Ways take turns; given are the medians.
"""

import itertools
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
import torch
from PIL import Image

from lascaux.data.loading import Loader
from lascaux.data.order import Order, Place
from lascaux.data.samples import Samples
from lascaux.data.sources import open_source
from lascaux.images.preprocess import Preprocessing
from lascaux.tasks.options import PackOptions
from lascaux.tasks.pack import pack

RECORDS, BATCH, SIDE, ROUNDS = 512, 32, 224, 5


def main() -> None:
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        files, packed = Path(folder) / "files", Path(folder) / "packed"
        draw(files)
        pack(open_source(files), packed, PackOptions(shard_size=128))
        ways: dict[str, Callable[[], float]] = {"plain loop of Pillow": lambda: plain(files)}
        for name, path in (("files", files), ("packed", packed)):
            for workers in (0, 1, 2):
                ways[f"loader, {name}, {workers} workers"] = lambda p=path, w=workers: loaded(p, w)
        paces: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, way in ways.items():
                paces[name].append(way())
        size = sum(file.stat().st_size for file in files.iterdir()) / RECORDS
    print(
        f"{RECORDS} JPEGs of {size / 1e3:.0f} KB, {processor()}, Pillow {PIL.__version__}, ", end=""
    )
    print(f"torch {torch.__version__}. Median of {ROUNDS}, and range.\n")
    print("| | records a second | range | to the plain loop |\n|---|---:|---|---:|")
    base = statistics.median(paces["plain loop of Pillow"])
    for name, found in paces.items():
        middle = statistics.median(found)
        spread = f"{min(found):.0f} to {max(found):.0f}"
        print(f"| {name} | {middle:.0f} | {spread} | {middle / base:.2f} |")


def draw(folder: Path) -> None:
    folder.mkdir()
    rng = np.random.Generator(np.random.PCG64([0]))
    for number in range(RECORDS):
        coarse = Image.fromarray(rng.integers(0, 256, (75, 100, 3), dtype=np.uint8))
        coarse.resize((500, 375), Image.Resampling.BICUBIC).save(
            folder / f"{number:04d}.jpg", quality=90
        )


def plain(folder: Path) -> float:
    files = sorted(folder.iterdir())
    started = time.perf_counter()
    for file in files:
        with Image.open(file) as image:
            square(image.convert("RGB"))
    return len(files) / (time.perf_counter() - started)


def square(image: Image.Image) -> Image.Image:
    return image.resize((SIDE, SIDE), Image.Resampling.BICUBIC)


def loaded(path: Path, workers: int) -> float:
    """Measured from the first batch on, so that starting processes does not count."""
    samples = Samples(Preprocessing(size=SIDE, resize="squash"))
    source = open_source(path)
    order = Order(records=len(source), batch_size=BATCH)
    loader = Loader(source, samples, order, Place(seed=0), workers=workers)
    batches = RECORDS // BATCH
    started = None
    for _ in itertools.islice(loader, batches + 1):
        if started is None:
            started = time.perf_counter()
    assert started is not None
    return batches * BATCH / (time.perf_counter() - started)


def processor() -> str:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()


if __name__ == "__main__":
    main()
