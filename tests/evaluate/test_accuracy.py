import torch
import torch.nn.functional as F

from lascaux.evaluate.accuracy import ranking


def drawn(pictures=60, classes=9, seed=3):
    draw = torch.Generator().manual_seed(seed)
    features = F.normalize(torch.randn(pictures, 6, generator=draw), dim=-1)
    prototypes = F.normalize(torch.randn(classes, 6, generator=draw), dim=-1)
    return features, prototypes, torch.randint(classes - 1, (pictures,), generator=draw)


def plainly(features, prototypes, truth):
    """The same by sorting each picture's cosines, class by class."""
    orders = []
    for row in features:
        cosines = [float(row @ column) for column in prototypes]
        orders.append(sorted(range(len(cosines)), key=lambda place: (-cosines[place], place)))
    top = {k: sum(t in o[:k] for t, o in zip(truth, orders, strict=True)) for k in (1, 2, 5)}
    pairs: dict[tuple[int, int], int] = {}
    for true, order in zip(truth, orders, strict=True):
        if order[0] != true:
            pairs[true, order[0]] = pairs.get((true, order[0]), 0) + 1
    shares = []
    for place in range(len(prototypes)):
        answers = [o[0] for t, o in zip(truth, orders, strict=True) if t == place]
        shares.append(answers.count(place) / len(answers) if answers else None)
    confusions = sorted(((*pair, n) for pair, n in pairs.items()), key=lambda x: (-x[2], x[:2]))
    return top, shares, confusions


def test_figures_are_those_of_a_plain_count():
    features, prototypes, truth = drawn()
    found = ranking(features, prototypes, truth)
    top, shares, confusions = plainly(features, prototypes, truth.tolist())
    assert {k: round(found.top(k) * len(truth)) for k in top} == top
    assert 0 < top[1] < top[2] < top[5] < len(truth)
    assert found.by_class() == shares
    assert shares[-1] is None
    known = [share for share in shares if share is not None]
    assert found.mean_per_class() == sum(known) / len(known)
    assert found.confusions(1000) == confusions
    assert found.confusions(3) == confusions[:3]
    assert sum(n for *_, n in confusions) == len(truth) - top[1]


def test_equal_classes_tie_exactly_and_the_first_is_the_answer():
    features, prototypes, _ = drawn(classes=40)
    prototypes[[7, 31]] = prototypes[3].clone()
    best = (features @ prototypes.T).argmax(1)
    shown = (best == 3) | (best == 7) | (best == 31)
    assert shown.any()
    for place, rank in ((3, 0), (7, 1), (31, 2)):
        truth = torch.full((int(shown.sum()),), place)
        found = ranking(features[shown], prototypes, truth)
        assert found.ranks.tolist() == [rank] * len(truth)
        assert found.answers.tolist() == [3] * len(truth)


def test_pictures_beyond_one_step_of_the_work_are_counted_alike(monkeypatch):
    features, prototypes, truth = drawn()
    whole = ranking(features, prototypes, truth)
    monkeypatch.setattr("lascaux.evaluate.accuracy._ROWS", 7)
    parts = ranking(features, prototypes, truth)
    assert torch.equal(whole.ranks, parts.ranks)
    assert torch.equal(whole.answers, parts.answers)
