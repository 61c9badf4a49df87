"""Work done by processes beside the one that wants it, in order and not too far ahead."""

import atexit
import signal
import weakref
from collections.abc import Callable, Generator, Iterable
from typing import Any, TypeVar

import torch

from lascaux.errors import BadInput, LascauxError

Item = TypeVar("Item")
Made = TypeVar("Made")


def made_ahead(
    make: Callable[[Item], Made], items: Iterable[Item], workers: int, *, ahead: int = 2
) -> Generator[Made, None, None]:
    """What `make` gives for each item, in the items' order.

    Args:
        make: called in another process, if there are any; it must then be possible to send it.
        items: may be without end.
        workers: processes; 0 does the work here, when it is asked for.
        ahead: items that each process works in advance.

    Raises:
        LascauxError: one that `make` raised, as itself.
        BadInput: a count below 0, or `ahead` below 1.
    """
    if workers < 0 or ahead < 1:
        raise BadInput(f"workers={workers}, ahead={ahead}; expected at least 0 and 1")
    if not workers:
        yield from map(make, items)
        return
    loader = torch.utils.data.DataLoader(
        _Calls(make),  # pyright: ignore[reportArgumentType]
        batch_size=None,
        sampler=items,  # pyright: ignore[reportArgumentType]
        num_workers=workers,
        prefetch_factor=ahead,
        collate_fn=_as_it_is,
        worker_init_fn=_prepare_worker,
        # Its own, or starting would change the state that the caller's own draws come from.
        generator=torch.Generator(),
    )
    results: Any = iter(loader)
    _RUNNING.add(results)
    try:
        for made in results:
            if isinstance(made, LascauxError):
                raise made
            yield made
    finally:
        results._shutdown_workers()


# What a traceback keeps alive until the very end. Python would then end the workers by SIGTERM,
# which they do not heed, and wait for them for ever.
_RUNNING: weakref.WeakSet[Any] = weakref.WeakSet()


@atexit.register
def _end_workers() -> None:
    for results in list(_RUNNING):
        results._shutdown_workers()


class _Calls:
    """Results of calls as a data set whose indices are the items."""

    def __init__(self, make: Callable[[Any], Any]) -> None:
        self.make = make

    def __getitem__(self, item: Any) -> Any:
        try:
            return self.make(item)
        except LascauxError as error:
            # Raised on the other side, or the loader would put a traceback into its message.
            return error


def _as_it_is(made: Any) -> Any:
    return made


def _prepare_worker(number: int) -> None:
    # Signals often go to the whole group; the process that asked decides when its workers end.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    torch.set_num_threads(1)
