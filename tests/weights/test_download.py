import errno
import hashlib
import http.server
import io
import json
import logging
import subprocess
import sys
import threading
from dataclasses import replace

import pytest
from huggingface_hub.errors import HfHubHTTPError

from lascaux.errors import DownloadFailed, UnknownModel, WrongHash
from lascaux.weights import download
from lascaux.weights.catalogue import Entry, RemoteFile, find
from lascaux.weights.download import fetch, fetch_entry, fetch_hub, place_of

CONTENT = bytes(range(256)) * 4096  # one MiB


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT under any name, with the faults that a test asks for."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.ranges = True  # answers Range requests
        self.cut_after = []  # bytes after which each of the next answers breaks off
        self.status = []  # statuses of the next answers
        self.tag = '"one"'
        self.asked = []  # (path, Range)

    @property
    def address(self):
        return f"http://127.0.0.1:{self.server_address[1]}"


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        server = self.server
        asked = self.headers.get("Range")
        server.asked.append((self.path, asked))
        status = server.status.pop(0) if server.status else 200
        if status != 200:
            self.send_error(status)
            return
        start = 0
        if asked and server.ranges and self.headers.get("If-Range", server.tag) == server.tag:
            start = int(asked.removeprefix("bytes=").rstrip("-"))
            if start >= len(server.content):
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{len(server.content)}")
                self.send_header("Content-Length", "0")
                self.end_headers()
                return
            status = 206
        body = server.content[start:]
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if server.tag:
            self.send_header("ETag", server.tag)
        if status == 206:
            end = len(server.content) - 1
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(server.content)}")
        self.end_headers()
        self.wfile.write(body[: server.cut_after.pop(0)] if server.cut_after else body)


@pytest.fixture
def server():
    with Server() as running:
        thread = threading.Thread(target=running.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield running
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch):
    for name in ("LASCAUX_OFFLINE", "HF_HUB_OFFLINE", "LASCAUX_MIRROR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LASCAUX_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def remote(server, *, sha256="right", name="model.pt"):
    digest = hashlib.sha256(CONTENT).hexdigest() if sha256 == "right" else sha256
    return RemoteFile(url=f"{server.address}/some/where/{name}", folder="tests", sha256=digest)


def left(folder):
    """What is in a folder of the cache besides locks and records."""
    return sorted(path.name for path in folder.iterdir() if not path.name.startswith("."))


def test_a_file_is_fetched_once_and_reports_its_progress(server, home):
    seen = []
    path = fetch(remote(server), progress=lambda done, total: seen.append((done, total)))
    assert path == home / "tests" / "model.pt"
    assert path.read_bytes() == CONTENT
    assert seen[0] == (0, len(CONTENT))
    assert seen[-1] == (len(CONTENT), len(CONTENT))
    assert fetch(remote(server)) == path
    assert len(server.asked) == 1
    assert left(path.parent) == ["model.pt"]


def test_without_a_terminal_no_bar_is_drawn(server, capsys):
    fetch(remote(server))
    assert capsys.readouterr() == ("", "")


def test_a_cut_connection_goes_on_where_it_broke(server):
    server.cut_after = [300_000, 200_000]
    assert fetch(remote(server)).read_bytes() == CONTENT
    assert [asked for _, asked in server.asked] == [None, "bytes=300000-", "bytes=500000-"]


def test_a_later_try_goes_on_with_what_an_earlier_one_kept(server):
    server.cut_after = [300_000, *[0] * 10]
    with pytest.raises(DownloadFailed, match=r"300000 bytes are kept"):
        fetch(remote(server))
    part = place_of(remote(server)).with_name("model.pt.part")
    assert part.stat().st_size == 300_000
    assert not place_of(remote(server)).exists()
    server.cut_after, server.asked = [], []
    assert fetch(remote(server)).read_bytes() == CONTENT
    assert server.asked[0][1] == "bytes=300000-"
    assert left(part.parent) == ["model.pt"]


def test_a_server_that_cannot_go_on_starts_again(server):
    server.ranges, server.cut_after = False, [300_000]
    assert fetch(remote(server)).read_bytes() == CONTENT


def test_a_part_that_is_already_whole_is_taken(server):
    part = place_of(remote(server)).with_name("model.pt.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(CONTENT)
    assert fetch(remote(server)).read_bytes() == CONTENT


def test_a_part_of_another_file_is_fetched_anew(server, caplog):
    part = place_of(remote(server)).with_name("model.pt.part")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"something else")
    assert fetch(remote(server)).read_bytes() == CONTENT
    assert "fetched anew" in caplog.text
    place_of(remote(server)).unlink()
    part.write_bytes(CONTENT + b"too long")
    assert fetch(remote(server)).read_bytes() == CONTENT


def test_a_file_that_changed_between_two_tries_is_not_glued_together(server):
    file = remote(server, sha256=None)
    server.cut_after = [300_000, *[0] * 10]
    with pytest.raises(DownloadFailed):
        fetch(file)
    server.cut_after, server.tag, server.content = [], '"two"', CONTENT[::-1]
    assert fetch(file).read_bytes() == CONTENT[::-1]


def test_a_wrong_hash_removes_the_file_and_names_both(server):
    wrong = "0" * 64
    right = hashlib.sha256(CONTENT).hexdigest()
    with pytest.raises(WrongHash, match=rf"{right}, expected {wrong}"):
        fetch(remote(server, sha256=wrong))
    assert [n for n in left(place_of(remote(server)).parent) if not n.endswith(".tag")] == []


def test_a_file_placed_by_hand_is_checked(server):
    file = remote(server)
    place_of(file).parent.mkdir(parents=True)
    place_of(file).write_bytes(b"not it")
    with pytest.raises(WrongHash, match=r"model\.pt: its SHA-256 is .* delete it"):
        fetch(file)
    place_of(file).write_bytes(CONTENT)
    assert fetch(file, offline=True).read_bytes() == CONTENT
    assert server.asked == []


def test_a_checked_file_is_not_hashed_again_until_it_changes(server, monkeypatch):
    path = fetch(remote(server))
    hashed = []
    monkeypatch.setattr(download, "sha256_of", lambda path: hashed.append(path) or "other")
    fetch(remote(server))
    assert hashed == []
    path.write_bytes(b"changed")
    with pytest.raises(WrongHash):
        fetch(remote(server))


def test_without_a_published_hash_the_first_one_seen_is_kept(server, caplog):
    file = remote(server, sha256=None)
    with caplog.at_level(logging.WARNING):
        path = fetch(file)
    assert "gives no hash" in caplog.text
    caplog.clear()
    fetch(file)
    assert caplog.text == ""
    path.unlink()
    server.content, server.tag = CONTENT[::-1], '"two"'
    with pytest.raises(WrongHash, match="first seen was"):
        fetch(file)


def test_a_missing_file_says_so_at_once(server):
    server.status = [404] * 10
    with pytest.raises(DownloadFailed, match=r"404 Not Found.*put it at .*model\.pt"):
        fetch(remote(server))
    assert len(server.asked) == 1


def test_a_busy_server_is_asked_again(server):
    server.status = [503, 429]
    assert fetch(remote(server)).read_bytes() == CONTENT
    assert len(server.asked) == 3


def test_a_server_that_is_not_there_says_where_to_put_the_file(home):
    file = RemoteFile(url="http://127.0.0.1:9/model.pt", folder="tests", sha256="1" * 64)
    with pytest.raises(DownloadFailed, match=rf"refused.*SHA-256 1111.*{home}/tests/model\.pt"):
        fetch(file)


def test_a_full_disk_leaves_nothing_under_the_name(server, monkeypatch):
    class Full(io.FileIO):
        def write(self, piece):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(download, "open", lambda path, *_, **__: Full(path, "wb"), raising=False)
    with pytest.raises(DownloadFailed, match=r"model\.pt\.part cannot be written.*No space"):
        fetch(remote(server))
    assert not place_of(remote(server)).exists()


def test_too_little_space_is_known_beforehand(server, monkeypatch):
    usage = type("Usage", (), {"free": 10})
    monkeypatch.setattr(download.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DownloadFailed, match=f"{len(CONTENT)} bytes are needed, 10 are free"):
        fetch(remote(server))


def test_a_cache_that_cannot_be_made_is_named(server, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LASCAUX_HOME", str(tmp_path / "file"))
    with pytest.raises(DownloadFailed, match="LASCAUX_HOME"):
        fetch(remote(server))


@pytest.mark.parametrize("name", ["LASCAUX_OFFLINE", "HF_HUB_OFFLINE"])
def test_offline_nothing_is_asked_and_the_way_by_hand_is_told(server, monkeypatch, name):
    monkeypatch.setenv(name, "1")
    file = remote(server)
    with pytest.raises(DownloadFailed, match=r"offline; fetch http.* and put it at .*LASCAUX_MIRR"):
        fetch(file)
    assert server.asked == []
    monkeypatch.setenv(name, "0")
    assert fetch(file).exists()


def test_a_mirror_is_asked_instead_of_the_publisher(server, monkeypatch):
    file = replace(remote(server), url="https://publisher.invalid/a/b/model.pt")
    monkeypatch.setenv("LASCAUX_MIRROR", f"{server.address}/mine/")
    assert fetch(file).read_bytes() == CONTENT
    assert server.asked[0][0] == "/mine/model.pt"


def test_a_mirror_may_be_a_folder_also_offline(server, tmp_path, monkeypatch):
    (tmp_path / "usb stick").mkdir()
    (tmp_path / "usb stick" / "model.pt").write_bytes(CONTENT)
    monkeypatch.setenv("LASCAUX_MIRROR", str(tmp_path / "usb stick"))
    monkeypatch.setenv("LASCAUX_OFFLINE", "1")
    file = replace(remote(server), url="https://publisher.invalid/model.pt")
    assert fetch(file).read_bytes() == CONTENT
    with pytest.raises(DownloadFailed, match="No such file"):
        fetch(replace(file, url="https://publisher.invalid/other.pt"))


def test_two_processes_fetch_a_file_once(server, home):
    code = (
        "import sys; from lascaux.weights.catalogue import RemoteFile;"
        "from lascaux.weights.download import fetch;"
        "print(fetch(RemoteFile(url=sys.argv[1], folder='tests', sha256=sys.argv[2])))"
    )
    file = remote(server)
    running = [
        subprocess.Popen([sys.executable, "-c", code, file.url, file.sha256]) for _ in range(2)
    ]
    assert [process.wait(60) for process in running] == [0, 0]
    assert place_of(file).read_bytes() == CONTENT
    assert len(server.asked) == 1


def test_the_cache_follows_the_environment(tmp_path, monkeypatch):
    monkeypatch.delenv("LASCAUX_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert download.cache_folder() == tmp_path / "lascaux"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "me"))
    assert download.cache_folder() == tmp_path / "me" / ".cache" / "lascaux"


def test_an_entry_brings_its_vocabulary_beside_its_weights(server):
    vocabulary = remote(server, name="words.txt.gz")
    entry = Entry(
        name="x", files=(remote(server),), tokenizer=(vocabulary,), licence="MIT", source="here"
    )
    fetched = fetch_entry(entry)
    assert fetched.weights.name == "model.pt"
    assert fetched.vocabulary == fetched.weights.with_name("words.txt.gz")


def test_an_embedded_model_needs_no_network(tmp_path, monkeypatch):
    entry = Entry(name="x", embedded="no-such-model", licence="MIT", source="here")
    with pytest.raises(UnknownModel, match="not in this installation"):
        fetch_entry(entry)
    (tmp_path / "model.safetensors").touch()
    monkeypatch.setattr(Entry, "embedded_folder", property(lambda _: tmp_path))
    assert fetch_entry(entry, offline=True).weights == tmp_path


def test_offline_the_official_models_tell_the_way_by_hand(home):
    entry = find("ViT-B/32")
    with pytest.raises(DownloadFailed, match=rf"{home}/openai-clip/bpe_simple_vocab"):
        fetch_entry(entry, offline=True)


# Hub ids


def hub_with(monkeypatch, listed=None, error=None, cached=None):
    """A hub that lists files or raises, and a cache that has a folder or not."""
    import huggingface_hub

    asked = []

    def listing(self, name, revision=None):
        if error is not None:
            raise error
        return listed

    def snapshot(name, revision=None, allow_patterns=None, local_files_only=False):
        asked.append((allow_patterns, local_files_only))
        if local_files_only and cached is None:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not cached")
        return str(cached or "/fetched")

    monkeypatch.setattr(huggingface_hub.HfApi, "list_repo_files", listing)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot)
    return asked


def test_of_a_hub_folder_one_set_of_weights_is_fetched(monkeypatch):
    listed = [
        "config.json",
        "model.safetensors",
        "pytorch_model.bin",
        "open_clip_pytorch_model.bin",
        "flax_model.msgpack",
        "tokenizer.json",
        "open_clip_config.json",
        "onnx/model.onnx",
    ]
    asked = hub_with(monkeypatch, listed)
    fetch_hub("owner/name")
    expected = {"config.json", "model.safetensors", "tokenizer.json", "open_clip_config.json"}
    assert set(asked[0][0]) == expected
    asked = hub_with(monkeypatch, ["open_clip_pytorch_model.bin", "open_clip_config.json"])
    fetch_hub("owner/name")
    assert set(asked[0][0]) == {"open_clip_pytorch_model.bin", "open_clip_config.json"}
    hub_with(monkeypatch, ["README.md", "model.onnx"])
    with pytest.raises(UnknownModel, match="holds no weights"):
        fetch_hub("owner/name")


def test_a_hub_that_does_not_answer_falls_back_to_its_cache(monkeypatch, tmp_path, caplog):
    hub_with(monkeypatch, error=ConnectionError("no route"), cached=tmp_path)
    assert fetch_hub("owner/name") == tmp_path
    assert "no route" in caplog.text
    # As the client raises it where there is no network: of its HTTP library's own kind.
    http_error = HfHubHTTPError.__bases__[0]
    for error in (ConnectionError("no route"), http_error("no route")):
        hub_with(monkeypatch, error=error)
        with pytest.raises(DownloadFailed, match=r"hf download owner/name --local-dir"):
            fetch_hub("owner/name")


def test_offline_the_hub_is_not_asked(monkeypatch, tmp_path):
    asked = hub_with(monkeypatch, error=AssertionError("asked"), cached=tmp_path)
    monkeypatch.setenv("LASCAUX_OFFLINE", "1")
    assert fetch_hub("owner/name") == tmp_path
    assert asked == [(None, True)]


def test_unknown_repositories_and_revisions_are_named(monkeypatch):
    import httpx2
    from huggingface_hub.errors import RepositoryNotFoundError, RevisionNotFoundError

    answer = httpx2.Response(404, request=httpx2.Request("GET", "https://hub.invalid"))
    hub_with(monkeypatch, error=RepositoryNotFoundError("none", response=answer))
    with pytest.raises(UnknownModel, match="no model 'owner/name'"):
        fetch_hub("owner/name")
    hub_with(monkeypatch, error=RevisionNotFoundError("none", response=answer))
    with pytest.raises(UnknownModel, match="no revision 'v9'"):
        fetch_hub("owner/name", revision="v9")
    with pytest.raises(UnknownModel, match="no hub id"):
        fetch_hub("../../etc/passwd")


def test_a_record_that_is_no_json_is_made_anew(server):
    path = fetch(remote(server))
    record = path.with_name(".model.pt.sha256.json")
    record.write_text("{")
    assert fetch(remote(server)) == path
    assert json.loads(record.read_text())["sha256"] == hashlib.sha256(CONTENT).hexdigest()
