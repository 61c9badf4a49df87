"""One golden case as it lies on the disk, and the weights that SPEC.md's formula gives."""

import json
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """One recorded answer."""

    name: str
    manifest: dict[str, Any]
    inputs: dict[str, Tensor]
    outputs: dict[str, Tensor]

    @property
    def config(self) -> dict[str, Any]:
        return self.manifest["config"]

    def check(self, answers: dict[str, Tensor]) -> None:
        """Every recorded output is answered, and every answer is within the tolerance."""
        assert sorted(answers) == sorted(self.outputs)
        tolerance = self.manifest["tolerance"]
        for name, expected in self.outputs.items():
            own = {**tolerance, **tolerance.get("per_output", {}).get(name, {})}
            actual = answers[name].to(expected.dtype)
            torch.testing.assert_close(
                actual,
                expected,
                rtol=own["rtol"],
                atol=own["atol"],
                msg=lambda text, name=name: f"{self.name}, output {name}: {text}",
            )


def read_case(folder: Path) -> Case:
    manifest = json.loads((folder / "manifest.json").read_text(encoding="utf-8"))
    tensors = load_file(folder / "tensors.safetensors")
    return Case(
        name=f"{manifest['model']}/{manifest['case']}",
        manifest=manifest,
        inputs={k.removeprefix("in."): v for k, v in tensors.items() if k.startswith("in.")},
        outputs={k.removeprefix("out."): v for k, v in tensors.items() if k.startswith("out.")},
    )


def filled_state(case: Case) -> dict[str, Tensor]:
    """The published checkpoint of a case, by SPEC.md's formula."""
    state: dict[str, Tensor] = {}
    for key, entry in case.manifest["state"].items():
        key_of_fill = entry.get("alias_of", key)
        dtype = getattr(torch, entry["dtype"])
        if "value" in entry:
            state[key] = torch.tensor(entry["value"], dtype=dtype).reshape(entry["shape"])
            continue
        seed = [case.manifest["seed"], zlib.crc32(key_of_fill.encode())]
        generator = np.random.Generator(np.random.PCG64(seed))
        z = generator.standard_normal(entry["shape"], dtype=np.float32)
        z = np.abs(z) if entry["abs"] else z
        value = np.asarray(entry["mean"] + entry["std"] * z, dtype=np.float32)
        state[key] = torch.from_numpy(value).to(dtype)
    return state
