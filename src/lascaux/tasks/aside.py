"""Writing a file so that nobody ever sees it half-written."""

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lascaux.errors import BadInput

_MAKE_ROOM = "; make room, and give the same command again: what is finished stays"


@contextmanager
def written_aside(path: str | Path) -> Iterator[Path]:
    """A path to write to, which becomes `path` at the end, and goes away if the writing fails.

    Raises:
        BadInput: the folder is missing or cannot be written, or `path` is a folder.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        raise BadInput(f"cannot write {path}: it is a folder; give a file name")
    if not path.parent.is_dir():
        raise BadInput(f"cannot write {path}: there is no folder {path.parent}; make it first")
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(path)
    except OSError as error:
        advice = _MAKE_ROOM if error.errno in (errno.ENOSPC, errno.EDQUOT) else ""
        raise BadInput(f"cannot write {path}: {error.strerror or error}{advice}") from error
    finally:
        part.unlink(missing_ok=True)
