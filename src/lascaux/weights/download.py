"""Files from the network to the cache: resumed after a cut, checked by hash, whole or not at all.

Places and switches are environment variables, read at each call:
``LASCAUX_HOME`` (the cache, else ``$XDG_CACHE_HOME/lascaux`` or ``~/.cache/lascaux``),
``LASCAUX_OFFLINE`` and ``HF_HUB_OFFLINE`` (nothing is fetched), ``LASCAUX_MIRROR`` (another server,
or a folder, that holds the files under their names), and those of huggingface_hub for hub ids.
"""

import fnmatch
import hashlib
import http.client
import json
import logging
import os
import re
import shutil
import urllib.error
import urllib.request
import urllib.response
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from lascaux.errors import DownloadFailed, UnknownModel, WrongHash
from lascaux.weights.catalogue import Entry, RemoteFile

Progress = Callable[[int, int | None], None]  # bytes so far, bytes in all if that is known

_LOG = logging.getLogger(__name__)
_CHUNK = 1 << 20
_TIMEOUT = 30  # seconds without a byte
_ATTEMPTS = 5  # in a row without a new byte
_RETRIED = {408, 425, 429, 500, 502, 503, 504}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")  # owner/name
# Of a hub folder only one set of weights is fetched, the first that is there.
_HUB_WEIGHTS = (
    ("model.safetensors",),
    ("model.safetensors.index.json", "model-*-of-*.safetensors"),
    ("open_clip_model.safetensors",),
    ("open_clip_pytorch_model.safetensors",),
    ("pytorch_model.bin",),
    ("pytorch_model.bin.index.json", "pytorch_model-*-of-*.bin"),
    ("open_clip_pytorch_model.bin",),
)
_HUB_BESIDE = (
    *("config.json", "open_clip_config.json", "preprocessor_config.json", "tokenizer.json"),
    *("vocab.json", "merges.txt", "tokenizer_config.json", "bpe_simple_vocab_16e6.txt*"),
    "README.md",
)


@dataclass(frozen=True)
class Fetched:
    """A catalogue entry's files on this machine.

    Attributes:
        weights: the weights file, or the folder of the model.
        vocabulary: the tokenizer's file where it is apart from the weights.
        more: further weights files of the same model.
    """

    weights: Path
    vocabulary: Path | None = None
    more: tuple[Path, ...] = ()


def fetch_entry(
    entry: Entry,
    *,
    revision: str | None = None,
    offline: bool | None = None,
    progress: Progress | None = None,
) -> Fetched:
    """What an entry needs, from the package, the cache or the network.

    Raises:
        UnknownModel: an embedded model that this installation lacks.
        DownloadFailed, WrongHash: as `fetch` and `fetch_hub`.
    """
    folder = entry.embedded_folder
    if folder is not None:
        if not entry.available:
            raise UnknownModel(
                f"{entry.name} is not in this installation ({folder} has no model.safetensors); "
                "install Lascaux again"
            )
        return Fetched(folder)
    if entry.hub is not None:
        return Fetched(fetch_hub(entry.hub, revision=revision, offline=offline))
    # The small file first: an unreachable network is then known at once.
    vocabulary = [fetch(file, offline=offline) for file in entry.tokenizer]
    weights = [fetch(file, offline=offline, progress=progress) for file in entry.files]
    return Fetched(weights[0], vocabulary[0] if vocabulary else None, tuple(weights[1:]))


def cache_folder() -> Path:
    """Where fetched files are kept."""
    home = os.environ.get("LASCAUX_HOME")
    if home:
        return Path(home).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "lascaux"


def place_of(file: RemoteFile) -> Path:
    """Where a file is in the cache, or would be."""
    return cache_folder() / file.folder / file.name


def is_offline(offline: bool | None = None) -> bool:
    """Whether nothing may be fetched: as the argument says, else as the environment does."""
    if offline is not None:
        return offline
    said = (os.environ.get(name, "") for name in ("LASCAUX_OFFLINE", "HF_HUB_OFFLINE"))
    return any(value.strip().lower() in ("1", "true", "yes", "on") for value in said)


def address_of(file: RemoteFile) -> str:
    """Where a file is fetched from: its publisher's address, or the mirror's."""
    mirror = os.environ.get("LASCAUX_MIRROR", "").rstrip("/")
    if not mirror:
        return file.url
    if not re.match(r"[a-z]+://", mirror):
        mirror = Path(mirror).expanduser().resolve().as_uri()
    return f"{mirror}/{file.name}"


def fetch(
    file: RemoteFile, *, offline: bool | None = None, progress: Progress | None = None
) -> Path:
    """The path of a file in the cache, fetched if it is not there, and checked.

    Args:
        file: what to fetch.
        offline: True: nothing is fetched; None: as the environment says.
        progress: called with bytes so far and in all; None draws a bar on a terminal's stderr.

    Raises:
        DownloadFailed: it is not there and cannot be fetched; the message says where to put it.
        WrongHash: its SHA-256 is not the recorded one.
    """
    target = place_of(file)
    if target.is_file():
        return _checked(target, file)
    address = address_of(file)
    if file.by_hand and address == file.url:
        raise DownloadFailed(f"{file.name} cannot be fetched by itself: {_by_hand(file)}")
    if is_offline(offline) and not address.startswith("file:"):
        raise DownloadFailed(
            f"{file.name} is not in the cache, and this is offline; {_by_hand(file)}"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with _alone(target):
            # Another process may have fetched it while this one waited.
            if not target.is_file():
                part = target.with_name(target.name + ".part")
                with _shown(file.name, progress) as show:
                    _bring(file, address, part, show)
                os.replace(part, target)
                _tag_of(part).unlink(missing_ok=True)
            return _checked(target, file)
    except OSError as error:
        raise DownloadFailed(
            f"{target} cannot be written: {error}; LASCAUX_HOME names another place"
        ) from error


def fetch_hub(name: str, *, revision: str | None = None, offline: bool | None = None) -> Path:
    """The folder of a model of the Hugging Face hub, in huggingface_hub's own cache.

    One set of weights is fetched (safetensors where there are any), with configs and vocabulary.
    Without a network the cached folder is given, if there is one.

    Raises:
        UnknownModel: no such repository, or it holds no weights that are read.
        DownloadFailed: it cannot be fetched.
    """
    if not HUB_ID.fullmatch(name):
        raise UnknownModel(f"{name!r} is no hub id; one looks like openai/clip-vit-base-patch32")
    # Not above: it takes a tenth of a second.
    from huggingface_hub import HfApi, snapshot_download
    from huggingface_hub.errors import (
        GatedRepoError,
        HfHubHTTPError,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    # OSError, and the error of whichever library the hub's client speaks HTTP with.
    no_answer = cast(tuple[type[Exception], ...], HfHubHTTPError.__bases__)
    if is_offline(offline):
        return _cached_hub(name, revision, "this is offline")
    try:
        wanted = _hub_files(name, HfApi().list_repo_files(name, revision=revision))
        return Path(snapshot_download(name, revision=revision, allow_patterns=wanted))
    except GatedRepoError as error:
        raise DownloadFailed(
            f"{name} asks its users to agree to its terms: do so on https://huggingface.co/{name}, "
            "then run `hf auth login`"
        ) from error
    except RevisionNotFoundError as error:
        raise UnknownModel(f"{name} has no revision {revision!r}") from error
    except RepositoryNotFoundError as error:
        raise UnknownModel(
            f"the hub has no model {name!r}, or it is private (`hf auth login`)"
        ) from error
    except no_answer as error:
        _LOG.warning("%s: the hub does not answer (%s); looking in the cache", name, error)
        return _cached_hub(name, revision, f"the hub does not answer ({_first_line(error)})")


def _hub_files(name: str, listed: list[str]) -> list[str]:
    for weights in _HUB_WEIGHTS:
        if weights[0] in listed:
            patterns = (*weights, *_HUB_BESIDE)
            return [f for f in listed if any(fnmatch.fnmatchcase(f, p) for p in patterns)]
    raise UnknownModel(
        f"{name} holds no weights of PyTorch; {len(listed)} files, no model among them"
    )


def _cached_hub(name: str, revision: str | None, why: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, local_files_only=True))
    except (OSError, ValueError) as error:
        raise DownloadFailed(
            f"{name} is not in the hub's cache, and {why}; where there is a network run "
            f"`hf download {name} --local-dir FOLDER`, bring FOLDER here, and give its path"
        ) from error


# Fetching


def _by_hand(file: RemoteFile) -> str:
    must = f" (SHA-256 {file.sha256})" if file.sha256 else ""
    if file.by_hand:
        return f"{file.by_hand}{must}, and put it at {place_of(file)}, or give its path to load"
    return (
        f"fetch {file.url} elsewhere{must} and put it at {place_of(file)}, or set LASCAUX_MIRROR "
        "to a server or folder that holds it"
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


@contextmanager
def _alone(target: Path) -> Iterator[None]:
    """Keeps a second process waiting while the first one fetches."""
    from filelock import FileLock

    with FileLock(target.with_name(f".{target.name}.lock")):
        yield


@contextmanager
def _shown(name: str, progress: Progress | None) -> Iterator[Progress]:
    if progress is not None:
        yield progress
        return
    from tqdm import tqdm

    # None: only where stderr is a terminal.
    quiet = True if os.environ.get("HF_HUB_DISABLE_PROGRESS_BARS") else None
    with tqdm(desc=name, unit="B", unit_scale=True, unit_divisor=1024, disable=quiet) as bar:

        def show(done: int, total: int | None) -> None:
            bar.total = total
            bar.update(done - bar.n)

        yield show


def _bring(file: RemoteFile, address: str, part: Path, progress: Progress) -> None:
    """Fetches into the part file until it is whole and hashes as it must."""
    resumed = part.exists()
    _download(file, address, part, progress)
    found = sha256_of(part)
    if resumed and file.sha256 is not None and found != file.sha256:
        _LOG.warning("%s: what was there from an earlier try does not fit; fetched anew", file.name)
        part.unlink()
        _download(file, address, part, progress)
        found = sha256_of(part)
    if file.sha256 is not None and found != file.sha256:
        part.unlink()
        raise WrongHash(
            f"{address}: its SHA-256 is {found}, expected {file.sha256}; what came was removed; "
            f"the server, or something on the way, gives another file; {_by_hand(file)}"
        )


def _download(file: RemoteFile, address: str, part: Path, progress: Progress) -> None:
    failures = 0
    while True:
        before = _size(part)
        try:
            if _one_request(file, address, part, progress):
                return
            problem = "the connection was cut"
        except urllib.error.HTTPError as error:
            error.close()
            problem = f"the server answers {error.code} {error.reason}"
            if error.code not in _RETRIED:
                raise DownloadFailed(f"{address}: {problem}; {_by_hand(file)}") from error
        except (OSError, http.client.HTTPException) as e:
            problem = _first_line(e)
            if address.startswith("file:"):
                raise DownloadFailed(f"{address}: {problem}; {_by_hand(file)}") from e
        failures = 0 if _size(part) > before else failures + 1
        if failures >= _ATTEMPTS:
            kept = f"; {_size(part)} bytes are kept and the next try goes on there"
            raise DownloadFailed(f"{address}: {problem}{kept}; or {_by_hand(file)}")
        _LOG.info("%s: %s; going on at byte %d", file.name, problem, _size(part))


def _one_request(file: RemoteFile, address: str, part: Path, progress: Progress) -> bool:
    """Appends what one request gives; True if the file is whole then."""
    start, tag = _size(part), _read_tag(part)
    if start and tag is None and file.sha256 is None:
        # Neither server nor catalogue could tell that the file has changed since.
        part.unlink()
        start = 0
    headers = {"User-Agent": "lascaux", "Accept-Encoding": "identity"}
    if start:
        headers["Range"] = f"bytes={start}-"
        if tag:
            headers["If-Range"] = tag
    request = urllib.request.Request(address, headers=headers)
    try:
        answer = urllib.request.urlopen(request, timeout=_TIMEOUT)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not start:
            raise
        error.close()
        if error.headers.get("Content-Range") == f"bytes */{start}":
            return True
        part.unlink()
        return False
    with answer:
        status, told = getattr(answer, "status", None), answer.headers
        if status == 206:
            match = re.match(r"bytes (\d+)-\d+/(\d+|\*)", told.get("Content-Range", ""))
            if match is None or int(match[1]) != start:
                part.unlink()
                return False
            total = int(match[2]) if match[2] != "*" else None
        else:
            start = 0
            total = int(told["Content-Length"]) if told.get("Content-Length") else None
            _write_tag(part, told.get("ETag") or told.get("Last-Modified"))
        done = _copy(answer, part, start, total, progress)
    return total is None or done == total


def _copy(
    answer: http.client.HTTPResponse | urllib.response.addinfourl,
    part: Path,
    start: int,
    total: int | None,
    progress: Progress,
) -> int:
    done = start
    try:
        free = shutil.disk_usage(part.parent).free
        if total is not None and total - start > free:
            raise OSError(f"{total - start} bytes are needed, {free} are free")
        # Unbuffered: a full disk is then noticed where it is written, not when it is closed.
        sink = open(part, "ab" if start else "wb", buffering=0)  # noqa: SIM115
    except OSError as error:
        raise DownloadFailed(f"{part} cannot be written: {error}") from error
    with sink:
        progress(done, total)
        while True:
            try:
                piece = answer.read(_CHUNK)
            except http.client.IncompleteRead as error:
                piece = error.partial
                if not piece:
                    return done
            if not piece:
                return done
            try:
                rest = memoryview(piece)
                while rest:
                    rest = rest[sink.write(rest) :]
            except OSError as error:
                raise DownloadFailed(f"{part} cannot be written: {error}") from error
            done += len(piece)
            progress(done, total)


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _tag_of(part: Path) -> Path:
    return part.with_name(part.name + ".tag")


def _read_tag(part: Path) -> str | None:
    tag = _tag_of(part)
    # A weak tag does not promise the same bytes.
    text = tag.read_text(encoding="utf-8") if tag.exists() else ""
    return text if text and not text.startswith("W/") else None


def _write_tag(part: Path, tag: str | None) -> None:
    _tag_of(part).write_text(tag or "", encoding="utf-8")


# Checking


def sha256_of(path: str | Path) -> str:
    """The SHA-256 of a file, as 64 hexadecimal digits."""
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _checked(target: Path, file: RemoteFile) -> Path:
    """The path, once its hash is known to be right; hashing again only if the file changed."""
    record = target.with_name(f".{target.name}.sha256.json")
    stat = target.stat()
    known = _read_record(record)
    state = {"size": stat.st_size, "changed": stat.st_mtime_ns}
    same = all(known.get(key) == value for key, value in state.items())
    found = known["sha256"] if same else sha256_of(target)
    expected = file.sha256 or known.get("sha256")
    if expected is None:
        _LOG.warning(
            "%s: its publisher gives no hash; what came first (SHA-256 %s) is kept in mind and "
            "checked from now on",
            target,
            found,
        )
    elif found != expected:
        whose = "expected" if file.sha256 else f"first seen was (noted in {record})"
        raise WrongHash(
            f"{target}: its SHA-256 is {found}, {whose} {expected}; delete it, and it is fetched "
            "anew"
        )
    if not same:
        _write_record(record, {"sha256": found, **state})
    return target


def _read_record(record: Path) -> dict:
    try:
        known = json.loads(record.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) and isinstance(known.get("sha256"), str) else {}


def _write_record(record: Path, content: dict) -> None:
    aside = record.with_name(f"{record.name}.{os.getpid()}.part")
    try:
        aside.write_text(json.dumps(content) + "\n", encoding="utf-8")
        os.replace(aside, record)
    except OSError as error:
        # A cache that cannot be written still serves; it is only hashed each time.
        _LOG.info("%s cannot be written: %s", record, error)
