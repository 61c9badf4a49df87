"""What a person at a terminal sees while work goes on: bars and remarks, on stderr."""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def progress(*, shown: bool = True) -> Iterator[Any]:
    """A function that shows how far each stage is, on stderr, and only if that is a terminal."""
    if not shown or not sys.stderr.isatty():
        yield lambda *_: None
        return
    from tqdm import tqdm

    bars: dict[str, tqdm] = {}

    def show(stage: str, done: int, total: int) -> None:
        if stage not in bars:
            for bar in bars.values():
                bar.close()
            bars[stage] = tqdm(total=total, desc=stage, leave=False, file=sys.stderr, delay=1)
        bars[stage].update(done - bars[stage].n)

    try:
        yield show
    finally:
        for bar in bars.values():
            bar.close()


def say(message: str) -> None:
    """A remark, apart from the results."""
    print(f"lascaux: {message}", file=sys.stderr)
