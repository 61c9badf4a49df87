import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from lascaux.errors import BadInput
from lascaux.nn import kmeans
from lascaux.nn.kmeans import assign, centres_of, faster_way, one_round, starting_centres

WAYS = ("torch", "faiss")


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def clusters(count: int = 6, rows: int = 300, width: int = 5) -> Tensor:
    centres = 10 * torch.randn(count, width, generator=seeded(1))
    noise = torch.randn(rows, width, generator=seeded(2))
    return centres[torch.arange(rows) % count] + 0.1 * noise


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_each_row_goes_to_the_nearest_of_all(way, distance, monkeypatch):
    if way == "faiss":
        pytest.importorskip("faiss")
    monkeypatch.setattr(kmeans, "_ROWS", 7)
    monkeypatch.setattr(kmeans, "_CODES", 3)
    monkeypatch.setattr(kmeans, "_FAISS_ROWS", 7)
    x, centres = torch.randn(40, 5, generator=seeded()), torch.randn(11, 5, generator=seeded(1))
    found = assign(x, centres, distance=distance, way=way)
    if distance == "cosine":
        x, centres = F.normalize(x, dim=-1), F.normalize(centres, dim=-1)
    table = torch.cdist(x, centres).square()
    assert torch.equal(found.ids, table.argmin(1))
    torch.testing.assert_close(found.distances, table.min(1).values, rtol=1e-3, atol=1e-4)


def test_of_equal_centres_the_first_is_taken_across_tiles(monkeypatch):
    monkeypatch.setattr(kmeans, "_CODES", 2)
    centres = torch.zeros(5, 3)
    assert assign(torch.ones(4, 3), centres).ids.tolist() == [0, 0, 0, 0]


def test_no_rows_go_nowhere():
    assert len(assign(torch.zeros(0, 3), torch.zeros(2, 3)).ids) == 0


def test_rows_in_half_precision_are_compared_in_float32():
    x = clusters().half()
    centres = clusters()[:6]
    assert torch.equal(assign(x, centres).ids, assign(x.float(), centres).ids)


def test_a_centre_is_the_mean_of_its_rows_and_stays_where_it_has_none():
    x = torch.tensor([[0.0, 2.0], [0.0, 4.0], [3.0, 0.0]])
    former = torch.tensor([[9.0, 9.0], [8.0, 8.0], [7.0, 7.0]])
    ids = torch.tensor([0, 0, 2])
    assert centres_of(x, ids, former).tolist() == [[0, 3], [8, 8], [3, 0]]
    assert centres_of(x, ids, former, distance="cosine").tolist() == [[0, 1], [8, 8], [1, 0]]


@pytest.mark.parametrize("distance", ["euclidean", "cosine"])
def test_rounds_never_make_it_worse(distance):
    x = torch.randn(400, 6, generator=seeded())
    centres = starting_centres(x, 12, distance=distance, generator=seeded())
    distortions = []
    for number in range(12):
        found = one_round(x, centres, distance=distance, generator=seeded(number))
        centres = found.centres
        distortions.append(found.distortion)
    assert distortions == sorted(distortions, reverse=True)


def test_empty_centres_are_given_new_places():
    x = clusters()
    far = torch.full((3, 5), 1000.0)
    centres = torch.cat((clusters()[:3], far))
    used = []
    for number in range(10):
        found = one_round(x, centres, generator=seeded(number))
        centres = found.centres
        used.append(found.used)
    assert used[0] == 3
    assert used[-1] == 6
    assert bool(centres.isfinite().all())


def test_where_rows_are_all_the_same_centres_stay_empty_and_finite():
    x = torch.ones(20, 4)
    found = one_round(x, starting_centres(x, 5, generator=seeded()), generator=seeded())
    assert found.used == 1
    assert bool(found.centres.isfinite().all())


def test_starting_centres_are_different_rows_and_repeat_by_their_seed():
    x = clusters()
    for start in ("sample", "k-means++"):
        drawn = starting_centres(x, 30, start=start, generator=seeded(3))
        assert len(drawn.unique(dim=0)) == 30
        assert {tuple(row) for row in drawn.tolist()} <= {tuple(row) for row in x.tolist()}
        assert torch.equal(drawn, starting_centres(x, 30, start=start, generator=seeded(3)))
        assert not torch.equal(drawn, starting_centres(x, 30, start=start, generator=seeded(4)))


def test_k_means_plus_plus_begins_in_every_cluster():
    x = clusters()
    hits = 0
    for seed in range(10):
        drawn = starting_centres(x, 6, start="k-means++", generator=seeded(seed))
        hits += len(assign(drawn, x[:6]).ids.unique()) == 6
    assert hits == 10


def test_more_codes_than_rows_are_refused(monkeypatch):
    with pytest.raises(BadInput, match="30 codes from 20 features"):
        starting_centres(torch.zeros(20, 2), 30)
    monkeypatch.setattr(kmeans, "_MOST_PLUS_PLUS", 4)
    with pytest.raises(BadInput, match="begin from a 'sample'"):
        starting_centres(torch.zeros(20, 2), 5, start="k-means++")


def test_without_faiss_torch_assigns(monkeypatch):
    monkeypatch.setattr(kmeans, "faiss", lambda: None)
    x = clusters()
    assert faster_way(x, x[:6]) == "torch"
    with pytest.raises(BadInput, match="faiss is not installed"):
        assign(x, x[:6], way="faiss")


def test_the_faster_way_is_one_of_the_two():
    x = clusters()
    assert faster_way(x, x[:6]) in WAYS
