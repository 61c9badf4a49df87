"""The nearest of many vectors, exactly: all of them are compared, by faiss.

The vectors of a ledger are copied to a plain file beside it, which opens ten times faster. It is
derived: it can be deleted at any time, and is made anew where it does not fit.
"""

from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import torch
from jaxtyping import Float32, Int64

from lascaux.errors import BadInput, MissingExtra
from lascaux.tasks.aside import written_aside
from lascaux.tasks.ledger import Ledger, Version
from lascaux.weights.save import save_tensors

_SAMPLE = 1 << 14  # vectors from which mean and deviation of a query's cosines are taken


class Nearest:
    """All vectors of one version of a ledger, in memory.

    Attributes:
        version: of the ledger.
        sample: `s e`, float32: all vectors, or of many every k-th, evenly.
    """

    def __init__(self, version: Version, identities: np.ndarray, rows: np.ndarray) -> None:
        faiss = require_faiss()
        self.version = version
        self.sample = rows[:: -(-len(rows) // _SAMPLE) or 1].astype(np.float32)
        self._identities = identities
        # Half precision halves what must be read; it moves a cosine by less than 2^-11, and with
        # 512 numbers by about 5e-5.
        half = np.ascontiguousarray(rows, np.float16)
        self._index = faiss.IndexScalarQuantizer(
            rows.shape[1], faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT
        )
        self._index.add_sa_codes(half.view(np.uint8))

    @classmethod
    def open(cls, ledger: Ledger, version: Version) -> "Nearest":
        """From the derived file if it fits, else from the ledger."""
        file = Path(f"{ledger.file}.vectors")
        if (found := _derived(file, version, ledger.origin.width)) is not None:
            return cls(version, *found)
        version, identities, rows = ledger.all()
        _derive(file, version, identities, rows)
        return cls(version, identities, rows)

    def __len__(self) -> int:
        return len(self._identities)

    def find(
        self, query: Float32[np.ndarray, " e"], top: int
    ) -> tuple[Int64[np.ndarray, " k"], Float32[np.ndarray, " k"]]:
        """Identities and inner products of the `top` largest, best first."""
        faiss = require_faiss()
        threads = faiss.omp_get_max_threads()
        # One query is worked on by one thread; waking others takes longer than the search.
        faiss.omp_set_num_threads(1)
        try:
            products, places = self._index.search(query[None], min(top, len(self)))
        finally:
            faiss.omp_set_num_threads(threads)
        return self._identities[places[0]], products[0]


def require_faiss() -> Any:
    """The package that searches.

    Raises:
        MissingExtra: it is not installed.
    """
    try:
        import faiss
    except ImportError as error:
        raise MissingExtra("searching needs faiss: pip install 'lascaux[search]'") from error
    return faiss


def _derived(file: Path, version: Version, width: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Identities and vectors of the file; None where it does not fit or cannot be read."""
    if not file.is_file():
        return None
    try:
        with safetensors.safe_open(file, framework="pt") as stored:
            if stored.metadata() != _metadata(version):
                return None
            identities, rows = stored.get_tensor("identities"), stored.get_tensor("vectors")
    except (OSError, safetensors.SafetensorError):
        return None
    if rows.shape != (len(identities), width) or rows.dtype != torch.float16:
        return None
    return identities.numpy(), rows.numpy()


def _derive(file: Path, version: Version, identities: np.ndarray, rows: np.ndarray) -> None:
    tensors = {"identities": torch.from_numpy(identities), "vectors": torch.from_numpy(rows)}
    # Where it cannot be written, every opening takes a little longer.
    with suppress(BadInput, safetensors.SafetensorError), written_aside(file) as part:
        save_tensors(tensors, part, _metadata(version))


def _metadata(version: Version) -> dict[str, str]:
    return {"ledger": version.ledger, "generation": str(version.generation)}
