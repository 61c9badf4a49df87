"""Records of people's own pictures, as runs read them."""

from collections.abc import Callable
from functools import lru_cache
from typing import Any

from lascaux.data.loading import Loader
from lascaux.data.order import Order, Place
from lascaux.data.prepared import PreparedFeatures
from lascaux.data.records import Source
from lascaux.data.sources import open_source
from lascaux.errors import BadInput
from lascaux.train.recipe import Part, Recipe


@lru_cache(maxsize=8)
def source_of(path: str) -> Source:
    """The pictures at a path, opened once.

    Raises:
        BadInput: there are none, or what answers a model gave about pictures.
    """
    source = open_source(path)
    if isinstance(source, PreparedFeatures):
        raise BadInput(f"{source.path} holds prepared features, and no pictures: name their source")
    return source


def loaded(recipe: Recipe, part: Part, source: Source, samples: Callable[..., Any]) -> Loader:
    """Batches of samples of a source's records, from where a run stands on.

    Args:
        recipe: its seed, batch size and accumulation count.
        part: which process asks, and where it stands.
        source: of the records.
        samples: makes a sample of a record and a random generator.
    """
    loader = Loader(
        source,
        samples,
        Order(records=len(source), batch_size=recipe.batch_size // recipe.accumulation),
        Place(seed=recipe.seed, world_size=part.ranks),
        rank=part.rank,
        workers=part.workers,
    )
    if part.place is not None:
        loader.load_state_dict(dict(part.place))
    return loader
