import faiss
import numpy as np
import pytest

from lascaux.tasks.ledger import Entry, Ledger, Origin
from lascaux.tasks.nearest import Nearest

WIDTH = 64


def unit(count: int, seed: int = 0) -> np.ndarray:
    rows = np.random.default_rng(seed).standard_normal((count, WIDTH), dtype=np.float32)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.fixture
def ledger(tmp_path):
    origin = Origin(model="m", weights="w", preprocessing="{}", width=WIDTH)
    return Ledger(tmp_path / "vectors.sqlite", origin)


def fill(ledger: Ledger, rows: np.ndarray) -> None:
    with ledger.writing() as writer:
        writer.write(Entry(str(n).encode(), (1, n), row) for n, row in enumerate(rows))


def opened(ledger: Ledger) -> Nearest:
    version = ledger.version()
    assert version is not None
    return Nearest.open(ledger, version)


def test_the_nearest_are_exactly_those_of_a_full_comparison(ledger):
    rows = unit(5000)
    fill(ledger, rows)
    kept = rows.astype(np.float16).astype(np.float32)
    for nearest in (opened(ledger), opened(ledger)):  # from the ledger, then from the derived file
        for query in unit(20, seed=1):
            identities, products = nearest.find(query, 10)
            expected = np.argsort(-(kept @ query))[:10]
            assert ledger.keys(identities.tolist()) == [str(n).encode() for n in expected]
            np.testing.assert_allclose(products, (kept @ query)[expected], atol=1e-5)


def test_half_precision_moves_a_cosine_by_less_than_its_last_bit(ledger):
    rows = unit(2000)
    fill(ledger, rows)
    query = unit(1, seed=2)[0]
    identities, products = opened(ledger).find(query, 2000)
    places = [int(key) for key in ledger.keys(identities.tolist())]
    assert np.abs(products - (rows @ query)[places]).max() < 2**-11


def test_more_than_there_are_gives_all(ledger):
    fill(ledger, unit(3))
    identities, _ = opened(ledger).find(unit(1)[0], 50)
    assert sorted(identities.tolist()) == [1, 2, 3]


def test_a_large_collection_is_sampled_evenly(ledger, monkeypatch):
    monkeypatch.setattr("lascaux.tasks.nearest._SAMPLE", 100)
    rows = unit(950)
    fill(ledger, rows)
    sample = opened(ledger).sample
    np.testing.assert_allclose(sample, rows[::10], atol=1e-3)


def test_searching_leaves_the_number_of_threads_as_it_was(ledger):
    fill(ledger, unit(3))
    before = faiss.omp_get_max_threads()
    try:
        faiss.omp_set_num_threads(3)
        opened(ledger).find(unit(1)[0], 1)
        assert faiss.omp_get_max_threads() == 3
    finally:
        faiss.omp_set_num_threads(before)


def test_a_folder_that_cannot_be_written_is_searched_all_the_same(ledger, monkeypatch):
    fill(ledger, unit(3))

    def refused(*_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("lascaux.tasks.nearest.save_tensors", refused)
    assert len(opened(ledger)) == 3
    assert not ledger.file.with_name("vectors.sqlite.vectors").exists()
