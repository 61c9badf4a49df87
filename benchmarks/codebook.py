"""What one round of k-means costs: rows a second, and the most memory that was in use.

    OMP_NUM_THREADS=1 python benchmarks/codebook.py --codes 194560 --features 200000

One thread; features are random, float16 in a mapped file, as `write_features` writes them.
Assigning is timed by torch and, where it is installed, by faiss, on --tried rows.
"""

import argparse
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from lascaux.nn.kmeans import Way, assign, faiss, faster_way, one_round, starting_centres
from lascaux.tasks.codebook import read_features


def peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--codes", type=int, default=194560)
    parser.add_argument("--features", type=int, default=200_000)
    parser.add_argument("--width", type=int, default=128)
    parser.add_argument("--tried", type=int, default=2048)
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "features.npy"
        shape = (chosen.features, 1, chosen.width)
        rows = np.lib.format.open_memmap(path, "w+", np.float16, shape)
        chance = np.random.default_rng(0)
        for first in range(0, chosen.features, 8192):
            part = rows[first : first + 8192]
            part[:] = chance.standard_normal(part.shape, dtype=np.float32)
        rows.flush()
        del rows
        x = read_features(path)[:, 0]
        generator = torch.Generator().manual_seed(0)
        print(f"before: {peak():.2f} GiB")
        centres = starting_centres(x, chosen.codes, generator=generator)
        ways: tuple[Way, ...] = ("torch",) if faiss() is None else ("torch", "faiss")
        for way in ways:
            started = time.process_time()
            assign(x[: chosen.tried], centres, way=way)
            taken = time.process_time() - started
            print(f"assigning by {way}: {chosen.tried / taken:,.0f} rows a second of one core")
        way = faster_way(x, centres)
        started = time.process_time()
        found = one_round(x, centres, way=way, generator=generator)
        taken = time.process_time() - started
        print(
            f"one round of {chosen.features:,} features and {chosen.codes:,} codes by {way}: "
            f"{taken:.0f} s of one core; {found.used:,} used; most memory {peak():.2f} GiB"
        )


if __name__ == "__main__":
    main()
