from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from lascaux.errors import BadInput
from lascaux.evaluate import frechet
from lascaux.evaluate.frechet import (
    RunningStatistics,
    Statistics,
    frechet_distance,
    read_statistics,
    write_statistics,
)


def drawn(count: int, width: int = 12, seed: int = 0, shift: float = 0.0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(width, width, generator=generator, dtype=torch.float64)
    return torch.randn(count, width, generator=generator, dtype=torch.float64) @ mixing + shift


def assert_same(one: Statistics, other: Statistics, **how: float) -> None:
    torch.testing.assert_close(one.mean, other.mean, **how)
    torch.testing.assert_close(one.covariance, other.covariance, **how)
    assert one.count == other.count


def by_scipy(first: Tensor, second: Tensor) -> float:
    """The equation as it is written, by the root of a matrix that is not symmetric."""
    linalg = pytest.importorskip("scipy.linalg")
    one, other = (np.cov(x.numpy(), rowvar=False) for x in (first, second))
    apart = first.numpy().mean(0) - second.numpy().mean(0)
    root = np.real(linalg.sqrtm(one @ other))
    return float(apart @ apart + np.trace(one + other - 2 * root))


@pytest.mark.parametrize(("first", "second"), [(200, 300), (30, 14), (5, 200), (2, 3)])
def test_the_distance_is_that_of_the_equation_whatever_the_rank(first: int, second: int):
    x, y = drawn(first), drawn(second, seed=1, shift=0.5)
    found = frechet_distance(Statistics.of(x), Statistics.of(y))
    assert found == pytest.approx(by_scipy(x, y), rel=1e-5)


def test_of_independent_features_the_distance_is_a_sum_over_them():
    mean, other = torch.tensor([0.0, 1.0]).double(), torch.tensor([2.0, 1.0]).double()
    one = Statistics(mean, torch.diag(torch.tensor([4.0, 9.0]).double()))
    two = Statistics(other, torch.diag(torch.tensor([1.0, 25.0]).double()))
    assert frechet_distance(one, two) == pytest.approx(2**2 + (2 - 1) ** 2 + (3 - 5) ** 2)


def test_a_set_is_no_way_from_itself_and_as_far_from_another_as_that_from_it():
    one, other = Statistics.of(drawn(50)), Statistics.of(drawn(9, seed=1))
    assert frechet_distance(one, one) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(other, other) == pytest.approx(0, abs=1e-6)
    there, back = frechet_distance(one, other), frechet_distance(other, one)
    assert there > 0
    assert there == pytest.approx(back)


def test_turning_both_sets_alike_changes_nothing():
    x, y = drawn(40), drawn(60, seed=1)
    turn = torch.linalg.qr(drawn(12, seed=2))[0]
    turned = frechet_distance(Statistics.of(x @ turn), Statistics.of(y @ turn))
    assert turned == pytest.approx(frechet_distance(Statistics.of(x), Statistics.of(y)))


@pytest.mark.parametrize("batch", [1, 7, 100])
def test_statistics_are_numpy_s_however_the_features_come(batch: int):
    x = drawn(100)
    running = RunningStatistics(12)
    running.add(x[:0])
    for part in x.split(batch):
        running.add(part)
    found = running.statistics({"model": "m"})
    assert found.about == {"model": "m"}
    np.testing.assert_allclose(found.mean, x.numpy().mean(0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(x.numpy(), rowvar=False), rtol=1e-10)


def test_a_mean_far_from_zero_costs_no_digits():
    x = drawn(1000)
    far = RunningStatistics(12)
    for part in (x + 1e7).split(32):
        far.add(part)
    torch.testing.assert_close(
        far.statistics().covariance, Statistics.of(x).covariance, rtol=1e-6, atol=1e-6
    )


def test_what_two_processes_saw_is_put_together():
    x = drawn(100)
    one, other, empty = (RunningStatistics(12) for _ in range(3))
    one.add(x[:30])
    other.add(x[30:])
    one.merge(empty)
    one.merge(other)
    assert_same(one.statistics(), Statistics.of(x))
    empty.merge(one)
    assert_same(empty.statistics(), Statistics.of(x))


def test_float32_features_are_summed_in_float64():
    x = drawn(50).float()
    assert_same(Statistics.of(x), Statistics.of(x.double()))


def test_statistics_come_back_from_a_file_to_the_bit(tmp_path: Path):
    made = Statistics.of(drawn(20))
    told = Statistics(made.mean, made.covariance, 20, {"model": "m", "data": "d"})
    write_statistics(told, tmp_path / "kept.safetensors")
    found = read_statistics(tmp_path / "kept.safetensors")
    assert_same(found, told, rtol=0, atol=0)
    assert found.about == told.about
    write_statistics(told, tmp_path / "kept.npz")
    found = read_statistics(tmp_path / "kept.npz")
    assert torch.equal(found.covariance, told.covariance)
    assert (found.count, found.about) == (None, {})
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept.npz", "kept.safetensors"]


def test_a_published_npz_is_read_and_ours_has_its_names(tmp_path: Path):
    x = drawn(20).numpy()
    np.savez(tmp_path / "published.npz", mu=x.mean(0), sigma=np.cov(x, rowvar=False), n=20)
    found = read_statistics(tmp_path / "published.npz")
    assert frechet_distance(found, Statistics.of(drawn(20))) == pytest.approx(0, abs=1e-9)
    write_statistics(found, tmp_path / "ours.npz")
    with np.load(tmp_path / "ours.npz") as held:
        assert sorted(held) == ["mu", "sigma"]


def test_files_that_hold_no_statistics_are_refused(tmp_path: Path):
    from safetensors.torch import save_file

    save_file({"mean": torch.zeros(2)}, tmp_path / "other.safetensors")
    (tmp_path / "none.npz").write_bytes(b"nothing")
    (tmp_path / "none.safetensors").write_bytes(b"nothing")
    np.savez(tmp_path / "names.npz", mean=np.zeros(2))
    np.savez(tmp_path / "shapes.npz", mu=np.zeros(2), sigma=np.zeros((3, 3)))
    np.savez(tmp_path / "pickled.npz", mu=np.array([print], object), sigma=np.zeros((1, 1)))
    for path in sorted(tmp_path.iterdir()):
        with pytest.raises(BadInput, match=path.name):
            read_statistics(path)
    with pytest.raises(BadInput, match="there is no file"):
        read_statistics(tmp_path / "absent.npz")
    with pytest.raises(BadInput, match=r"\.safetensors or \.npz"):
        read_statistics(tmp_path / "kept.json")
    with pytest.raises(BadInput, match=r"\.safetensors or \.npz"):
        write_statistics(Statistics.of(drawn(20)), tmp_path / "kept.json")


def test_what_has_no_distance_is_refused():
    one = Statistics.of(drawn(20))
    with pytest.raises(BadInput, match="12 and of 5"):
        frechet_distance(one, Statistics.of(drawn(20, 5)))
    with pytest.raises(BadInput, match="not finite"):
        frechet_distance(one, Statistics(one.mean * float("nan"), one.covariance))
    with pytest.raises(BadInput, match="a covariance needs two"):
        Statistics.of(drawn(1))
    with pytest.raises(BadInput, match="not finite"):
        Statistics.of(drawn(3) / 0)
    with pytest.raises(BadInput, match="5 features where others have 12"):
        RunningStatistics(12).add(drawn(3, 5))
    with pytest.raises(BadInput, match="5 features where others have 12"):
        RunningStatistics(12).merge(RunningStatistics(5))


def test_where_there_is_no_finite_root_the_published_offset_is_tried(monkeypatch):
    trace_of_root, seen = frechet._trace_of_root, []

    def fails_once(one: Tensor, other: Tensor) -> Tensor | None:
        seen.append(one)
        return None if len(seen) == 1 else trace_of_root(one, other)

    monkeypatch.setattr(frechet, "_trace_of_root", fails_once)
    one, other = Statistics.of(drawn(20)), Statistics.of(drawn(30, seed=1))
    found = frechet_distance(one, other)
    torch.testing.assert_close(seen[1], seen[0] + 1e-6 * torch.eye(12).double())
    assert found == pytest.approx(by_scipy(drawn(20), drawn(30, seed=1)), rel=1e-3)
    huge = Statistics(one.mean, one.covariance * 1e300)
    monkeypatch.undo()
    with pytest.raises(BadInput, match="no finite root"):
        frechet_distance(huge, huge)
