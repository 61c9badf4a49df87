import json
import math
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lascaux.errors import BadInput, BrokenFile
from lascaux.models.styled_vq import StyledVq, StyledVqConfig
from lascaux.tasks import codebook
from lascaux.tasks.codebook import (
    REPORT,
    STATE,
    CodebookOptions,
    make_codebook,
    mean_features,
    read_features,
    write_features,
)

OPTIONS = CodebookOptions(codes=12, rounds=8, restarts=2, distance="euclidean", tolerance=0.0)


@pytest.fixture(autouse=True)
def _one_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Which way of assigning is faster is measured, and the two differ in rounding."""
    monkeypatch.setattr(codebook, "faster_way", lambda *_: "torch")


def features(rows: int = 400, width: int = 6) -> Tensor:
    return torch.randn(rows, width, generator=torch.Generator().manual_seed(0))


def test_the_best_of_all_starts_is_kept_and_reported(tmp_path: Path):
    x, seen = features(), []
    options = replace(OPTIONS, restarts=3)
    made = make_codebook(x, tmp_path / "run", options, report=seen.append)
    assert made is not None
    table = torch.cdist(x, made.centres).square()
    assert made.distortion == pytest.approx(table.min(1).values.mean().item(), rel=1e-4)
    assert made.used == len(table.argmin(1).unique()) <= 12
    assert 1 <= made.perplexity <= made.used
    last = {}
    for figures in seen:
        last[figures["start"]] = figures["distortion"]
    assert len(last) == 3
    assert made.distortion <= min(last.values())
    alone = [
        make_codebook(x, tmp_path / str(seed), replace(options, seed=seed, restarts=1))
        for seed in range(3)
    ]
    assert made.distortion == min(each.distortion for each in alone if each)
    report = json.loads((tmp_path / "run" / REPORT).read_text(encoding="utf-8"))
    assert report["used"] == made.used
    assert report["options"]["codes"] == report["codes"] == 12


def test_a_stopped_run_goes_on_to_the_same_bits(tmp_path: Path):
    whole = make_codebook(features(), tmp_path / "whole", OPTIONS)
    for rounds in (1, 4, 9, 13):
        stopped = make_codebook(features(), tmp_path / "parts", OPTIONS, stop_after=rounds)
        assert stopped is None
    parts = make_codebook(features(), tmp_path / "parts", OPTIONS)
    assert whole is not None
    assert parts is not None
    assert torch.equal(parts.centres, whole.centres)
    assert parts.to_json() == whole.to_json()
    # What is finished is given at once.
    seen: list[dict] = []
    again = make_codebook(features(), tmp_path / "parts", OPTIONS, report=seen.append)
    assert seen == []
    assert again is not None
    assert torch.equal(again.centres, whole.centres)


_KILLED = """
import sys, time
from pathlib import Path
from lascaux.tasks.codebook import CodebookOptions, make_codebook, read_features
options = CodebookOptions(codes=12, rounds=8, restarts=2, distance="euclidean", tolerance=0.0)
make_codebook(
    read_features(Path(sys.argv[1])), Path(sys.argv[2]), options, report=lambda _: time.sleep(0.1)
)
"""


def test_a_killed_run_goes_on_where_it_was(tmp_path: Path):
    rows = features().half().reshape(100, 4, 6)
    np.save(tmp_path / "features.npy", rows.numpy())
    x = read_features(tmp_path / "features.npy")
    whole = make_codebook(x, tmp_path / "whole", OPTIONS)
    process = subprocess.Popen(
        [sys.executable, "-c", _KILLED, tmp_path / "features.npy", tmp_path / "killed"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "killed" / STATE).exists():
            assert process.poll() is None, "ended before it could be killed"
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    finally:
        process.kill()
        process.wait()
    rounds = []
    parts = make_codebook(x, tmp_path / "killed", OPTIONS, report=rounds.append)
    assert whole is not None
    assert parts is not None
    assert 0 < len(rounds) < 16
    # The killed run may have begun in the other way.
    torch.testing.assert_close(parts.centres, whole.centres, rtol=1e-4, atol=1e-4)


def test_a_start_ends_where_rounds_improve_little(tmp_path: Path):
    made = make_codebook(features(), tmp_path, replace(OPTIONS, rounds=100, tolerance=0.01))
    assert made is not None
    assert made.rounds < 20


def test_by_cosine_codes_have_unit_length(tmp_path: Path):
    made = make_codebook(features(), tmp_path, replace(OPTIONS, distance="cosine"))
    assert made is not None
    torch.testing.assert_close(made.centres.norm(dim=1), torch.ones(12))


def test_another_run_in_the_folder_is_refused(tmp_path: Path):
    make_codebook(features(), tmp_path, OPTIONS, stop_after=1)
    for x, options in ((features() + 1, OPTIONS), (features(), replace(OPTIONS, seed=5))):
        with pytest.raises(BadInput, match="other options or other features"):
            make_codebook(x, tmp_path, options)
    (tmp_path / STATE).write_bytes(b"no tensors")
    with pytest.raises(BrokenFile, match="remove it to begin anew"):
        make_codebook(features(), tmp_path, OPTIONS)


def test_impossible_wishes_are_refused(tmp_path: Path):
    with pytest.raises(BadInput, match="12 codes from 3 features"):
        make_codebook(features(3), tmp_path, OPTIONS)
    x = features()
    x[7] = math.nan
    with pytest.raises(BadInput, match="not finite"):
        make_codebook(x, tmp_path / "nan", OPTIONS)
    for change in ({"codes": 0}, {"tolerance": -1.0}):
        with pytest.raises(BadInput):
            replace(OPTIONS, **change)


@torch.no_grad()
def test_a_model_takes_the_codebook_of_its_corpus(tmp_path: Path):
    torch.manual_seed(0)
    config = StyledVqConfig(
        image_size=16,
        patch_size=8,
        attributes=4,
        width=16,
        heads=2,
        plain_layers=1,
        expert_layers=1,
        latent_width=6,
        codes=0,
        decoder_width=16,
        decoder_heads=1,
        decoder_layers=1,
        pixel_width=8,
        pixel_kernel=3,
    )
    model = StyledVq(config).eval()
    batches = [torch.randn(5, 3, 16, 16) for _ in range(6)]
    path = write_features(model.features, batches, 30, tmp_path / "features.npy")
    found = read_features(path)
    assert found.shape == (30, 4, 6)
    expected = torch.cat([model.features(x) for x in batches])
    torch.testing.assert_close(found.float(), expected, rtol=1e-3, atol=1e-3)
    made = make_codebook(found, tmp_path / "run", CodebookOptions(codes=20))
    assert made is not None
    mean = mean_features(found)
    model.adopt(made.centres, mean=mean)
    torch.testing.assert_close(mean, expected.mean(0), rtol=1e-3, atol=1e-3)
    ids = model.encode(batches[0])
    assert ids.shape == (5, 4)
    assert model.codes == 20
    assert torch.equal(model.complete(model.lookup(ids)[:, :1])[:, 1:], mean[1:].expand(5, -1, -1))


def test_features_that_are_too_few_or_no_features_are_refused(tmp_path: Path):
    model = StyledVq(StyledVqConfig(**_TINY))
    for count in (3, 1):
        with pytest.raises(BadInput, match="announced"):
            write_features(model.features, [torch.zeros(2, 3, 16, 16)], count, tmp_path / "x.npy")
        assert not (tmp_path / "x.npy").exists()
    (tmp_path / "y.npy").write_text("no array", encoding="utf-8")
    with pytest.raises(BrokenFile, match="no file of features"):
        read_features(tmp_path / "y.npy")
    np.save(tmp_path / "z.npy", np.zeros((3, 2), np.float16))
    with pytest.raises(BrokenFile, match="expected float16 pictures"):
        read_features(tmp_path / "z.npy")


_TINY = {
    "image_size": 16,
    "patch_size": 8,
    "attributes": 2,
    "width": 8,
    "heads": 1,
    "plain_layers": 0,
    "expert_layers": 1,
    "latent_width": 4,
    "codes": 0,
    "decoder_width": 8,
    "decoder_heads": 1,
    "decoder_layers": 0,
    "pixel_width": 8,
    "pixel_kernel": 3,
}
