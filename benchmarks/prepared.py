"""Prepared features beside asking the model each time: `python benchmarks/prepared.py`.

Pictures of smooth noise, 256 x 256, are prepared once by ochre-clip. Then batches of 32 come in a
shuffled order: their embeddings computed anew from the JPEGs, or read from the folder. Ways take
turns; given are the medians. The tables are Markdown; everything lies in the page cache.
"""

import itertools
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image

import lascaux
from lascaux.data.loading import Loader
from lascaux.data.order import Order, Place
from lascaux.data.prepared import FeatureSamples
from lascaux.data.records import Source
from lascaux.data.samples import Samples
from lascaux.data.sources import open_source
from lascaux.tasks.answerers import Answerer, clip_embeddings
from lascaux.tasks.options import PrepareOptions
from lascaux.tasks.prepare import prepare

RECORDS, BATCH, ROUNDS = 512, 32, 3
EPOCHS = 10  # of reading, which would else be over before it is measured


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        files, out = Path(folder) / "files", Path(folder) / "prepared"
        draw(files)
        pictures, model = open_source(files), clip_embeddings(lascaux.load("ochre-clip"))
        begin = time.perf_counter()
        done = prepare(pictures, out, model, PrepareOptions())
        spent = time.perf_counter() - begin
        prepare(pictures, Path(folder) / "full", model, PrepareOptions(numbers="float32"))
        features, full = open_source(out), open_source(Path(folder) / "full")
        lost = rounding(features, full)
        ways: dict[str, Callable[[], float]] = {}
        for workers in (0, 1, 2):
            ways[f"computed each time, {workers} workers"] = lambda w=workers: computed(
                pictures, model, w
            )
            ways[f"prepared, {workers} workers"] = lambda w=workers: read(features, w)
        ways["prepared, one record after the other, no batches"] = lambda: alone(features)
        paces: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(ROUNDS):
            for name, way in ways.items():
                paces[name].append(way())
    print(f"{RECORDS} JPEGs of 256 x 256, {processor()}, torch {torch.__version__}, ", end="")
    print(f"{torch.get_num_threads()} threads. Median of {ROUNDS}, and range.\n")
    print("| | records a second | range |\n|---|---:|---|")
    for name, found in paces.items():
        spread = f"{min(found):,.0f} to {max(found):,.0f}"
        print(f"| {name} | {statistics.median(found):,.0f} | {spread} |")
    print(
        f"\nPreparing: {RECORDS / spent:,.0f} records a second, {done.bytes / RECORDS:,.0f} ",
        end="",
    )
    print(f"bytes each. float16: {lost}.")


def draw(folder: Path) -> None:
    folder.mkdir()
    for number in range(RECORDS):
        rng = np.random.Generator(np.random.PCG64([number]))
        coarse = Image.fromarray(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8))
        coarse.resize((256, 256), Image.Resampling.BICUBIC).save(
            folder / f"{number:04d}.jpg", quality=90
        )


def rounding(half: Source, full: Source) -> str:
    """How far stored numbers, and the cosines of neighbours, are off."""
    ours, theirs = (
        np.stack([kept[index].features[0] for index in range(RECORDS)]).astype(np.float32)
        for kept in (half, full)
    )
    number = np.abs(ours - theirs).max()
    cosine = np.abs((ours[1:] * ours[:-1] - theirs[1:] * theirs[:-1]).sum(axis=1)).max()
    return f"numbers off by at most {number:.1e}, cosines by {cosine:.1e}"


def computed(pictures: Source, model: Answerer, workers: int) -> float:
    samples = Samples(model.preprocessing)
    return pace(pictures, samples, workers, 1, lambda batch: model.answers(batch["picture"]))


def read(features: Source, workers: int) -> float:
    return pace(features, FeatureSamples(), workers, EPOCHS, lambda batch: batch["features"])


def pace(source: Source, samples, workers: int, epochs: int, use: Callable) -> float:
    """Measured from the first batch on, so that starting processes does not count."""
    order = Order(records=RECORDS, batch_size=BATCH)
    loader = Loader(source, samples, order, Place(seed=0), workers=workers)
    batches, begin = epochs * RECORDS // BATCH, 0.0
    for number, batch in enumerate(itertools.islice(loader, batches + 1)):
        use(batch)
        if number == 0:
            begin = time.perf_counter()
    return batches * BATCH / (time.perf_counter() - begin)


def alone(features) -> float:
    order = np.random.Generator(np.random.PCG64([0])).permutation(RECORDS).tolist()
    begin = time.perf_counter()
    for index in order * EPOCHS:
        features.features(index)
    return EPOCHS * RECORDS / (time.perf_counter() - begin)


def processor() -> str:
    names = [
        line.partition(":")[2].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return f"{names[0]}, {len(names)} cores" if names else platform.processor()


if __name__ == "__main__":
    main()
