import json
from dataclasses import fields

import pytest

from lascaux.errors import BadInput
from lascaux.tasks.options import ClassifyOptions, EmbedOptions, SearchOptions
from lascaux.tasks.results import Classified, Failed, Hit, Label, Updated, as_json


def test_results_have_one_json_form():
    found = Classified("a.png", (Label("cat", 0.75, 1), Label("dog", 0.25)), "softmax")
    assert json.loads(json.dumps(as_json(found))) == {
        "source": "a.png",
        "labels": [{"name": "cat", "score": 0.75, "index": 1}, {"name": "dog", "score": 0.25}],
        "scores": "softmax",
        "none_of_these": False,
        "answer": "cat",
    }
    assert as_json(Failed("b.png", "empty")) == {"source": "b.png", "reason": "empty"}
    assert as_json(Hit("a.png", 0.5)) == {"path": "a.png", "score": 0.5, "scores": "cosine"}
    updated = Updated(3, 1, 2, 0, (Failed("b.png", "empty"),))
    assert json.loads(json.dumps(as_json(updated)))["failed"] == [as_json(updated.failed[0])]


def test_none_of_these_has_no_answer():
    found = Classified("a.png", (Label("cat", 0.75),), "softmax", none_of_these=True)
    assert found.answer is None
    assert as_json(found)["answer"] is None


@pytest.mark.parametrize(
    "wrong",
    [{"top": 0}, {"batch_size": 0}, {"name_weight": -1.0}, {"picture_weight": float("nan")}],
)
def test_impossible_options_are_refused(wrong):
    with pytest.raises(BadInput, match=next(iter(wrong))):
        ClassifyOptions(**wrong)


@pytest.mark.parametrize("options", [SearchOptions, EmbedOptions])
def test_options_of_one_name_mean_the_same_for_every_verb(options):
    of_classify = {field.name: field for field in fields(ClassifyOptions)}
    for name in ("model", "reading", "device", "dtype", "batch_size"):
        (own,) = (field for field in fields(options) if field.name == name)
        assert (own.default, own.metadata) == (
            of_classify[name].default,
            of_classify[name].metadata,
        )
    with pytest.raises(BadInput, match="batch_size"):
        options(batch_size=0)
