"""What a person sees of a training: a bar on a terminal, and a line for each figure elsewhere."""

import json
import sys
from typing import Any


class Shown:
    """Prints the lines of a run as they come."""

    def __init__(self, steps: int, *, as_json: bool) -> None:
        self._steps, self._json = steps, as_json
        self._bar: Any = None

    def __enter__(self) -> "Shown":
        return self

    def __exit__(self, *reason: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, line: dict[str, Any]) -> None:
        """Show one line of metrics.jsonl."""
        if self._json:
            print(json.dumps(line), flush=True)
        elif "preparing" in line:
            self._prepare(line)
        elif "loss" in line and sys.stderr.isatty():
            self._progress(line)
        else:
            self._say(_text(line))

    def _prepare(self, line: dict[str, Any]) -> None:
        told = f"preparing once: {line['done']:,} of {line['of']:,} {line['preparing']}"
        if sys.stderr.isatty():
            print(f"\r{told}", end="\n" if line["done"] == line["of"] else "", file=sys.stderr)
        elif line["done"] == line["of"]:
            print(told, flush=True)

    def _progress(self, line: dict[str, Any]) -> None:
        if self._bar is None:
            from tqdm import tqdm

            self._bar = tqdm(
                total=self._steps,
                initial=line["step"],
                file=sys.stderr,
                unit="step",
                leave=False,
                miniters=1,
                mininterval=0,
            )
        told = f"loss {line['loss']:.4g}"
        if line["loader_share"] > 0.05:
            told += f", {100 * line['loader_share']:.0f} % waiting for data"
        self._bar.set_postfix_str(told, refresh=False)
        self._bar.update(line["step"] - self._bar.n)

    def _say(self, text: str) -> None:
        if self._bar is None:
            print(text, flush=True)
        else:
            self._bar.write(text, file=sys.stderr)


def _text(line: dict[str, Any]) -> str:
    step = f"step {line['step']:>6}"
    if "sign" in line:
        return f"{step}  ! {line['words']}\n{'':>13}{line['advice']}"
    if "samples" in line:
        return f"{step}  samples: {line['samples']}"
    rest = "  ".join(f"{name} {value:.4g}" for name, value in line.items() if name != "step")
    return f"{step}  {rest}"
