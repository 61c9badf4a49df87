"""Searching 100,000 vectors: `python benchmarks/search.py` prints a table as Markdown.

Random unit vectors of 512 numbers are put into an index as `lascaux search` makes it. Opening is
measured in a process of its own each time, after the file has been read once; it does not include
importing faiss and torch. A query is one vector, found among all, with its 12 best paths looked up.
One thread throughout, as the library searches.
"""

import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

VECTORS, WIDTH, QUERIES, OPENINGS = 100_000, 512, 50, 5


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "vectors.sqlite"
        filled = fill(file)
        first_opening = opened(file)["open"]  # makes the derived file
        runs = [opened(file) for _ in range(OPENINGS)]
        sizes = [file.stat().st_size, Path(f"{file}.vectors").stat().st_size]
    rows = [
        ("fill the index, 32 vectors a transaction", [filled]),
        ("open for the first time after a change", [first_opening]),
        ("open", [run["open"] for run in runs]),
        ("first query", [run["first"] for run in runs]),
        (f"query, median of {QUERIES} in each process", [run["median"] for run in runs]),
        (f"query, slowest of {QUERIES}", [run["slowest"] for run in runs]),
    ]
    import faiss

    print(f"{VECTORS:,} unit vectors of {WIDTH}, {processor()}, one thread, faiss ", end="")
    print(
        f"{faiss.__version__}; {sizes[0] / 1e6:.0f} MB of SQLite, {sizes[1] / 1e6:.0f} MB derived."
    )
    print(f"Median of {OPENINGS} processes, and range, in milliseconds of wall time.\n")
    print("| | ms | range |\n|---|---:|---|")
    for name, values in rows:
        spread = f"{min(values):.1f} to {max(values):.1f}" if len(values) > 1 else ""
        print(f"| {name} | {statistics.median(values):.1f} | {spread} |")


def fill(file: Path) -> float:
    import numpy as np

    from lascaux.tasks.ledger import Entry

    rows = np.random.default_rng(0).standard_normal((VECTORS, WIDTH), dtype=np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    begin = time.perf_counter()
    with ledger(file).writing() as writer:
        for at in range(0, VECTORS, 32):
            places = range(at, min(at + 32, VECTORS))
            writer.write(Entry(f"{n:06d}.jpg".encode(), (1, n), rows[n]) for n in places)
    return 1000 * (time.perf_counter() - begin)


def opened(file: Path) -> dict[str, float]:
    """Milliseconds of opening and of queries, in a new process."""
    words = [sys.executable, __file__, str(file)]
    done = subprocess.run(words, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def measure(file: Path) -> None:
    import numpy as np

    from lascaux.tasks.nearest import Nearest, require_faiss

    require_faiss()
    queries = np.random.default_rng(1).standard_normal((QUERIES, WIDTH), dtype=np.float32)
    begin = time.perf_counter()
    kept = ledger(file)
    version = kept.version()
    assert version is not None
    nearest = Nearest.open(kept, version)
    spent = [1000 * (time.perf_counter() - begin)]
    for query in queries:
        begin = time.perf_counter()
        identities, _ = nearest.find(query, 12)
        kept.keys(identities.tolist())
        spent.append(1000 * (time.perf_counter() - begin))
    found = {"open": spent[0], "first": spent[1]}
    found |= {"median": statistics.median(spent[1:]), "slowest": max(spent[1:])}
    print(json.dumps(found))


def ledger(file: Path):
    from lascaux.tasks.ledger import Ledger, Origin

    return Ledger(file, Origin(model="", weights="", preprocessing="", width=WIDTH))


def processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(": ")[2] for line in lines if line.startswith("model name")]
    return f"{names[0] if names else platform.machine()}, {len(names)} cores"


if __name__ == "__main__":
    if len(sys.argv) > 1:
        measure(Path(sys.argv[1]))
    else:
        main()
