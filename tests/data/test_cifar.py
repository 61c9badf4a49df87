import io
import os
import pickle
import struct
import tarfile
from pathlib import Path

import numpy as np
import pytest

from lascaux.errors import BadInput, BrokenFile, UnsafeFile
from lascaux.evaluate.protocols import open_labelled
from lascaux.tasks.templates import class_list

NAMES = {
    name: [each[0].replace(" ", "_") for each in class_list(name)]
    for name in ("cifar10", "cifar100")
}
FOLDERS = {
    ("cifar10", "python"): "cifar-10-batches-py",
    ("cifar10", "binary"): "cifar-10-batches-bin",
    ("cifar100", "python"): "cifar-100-python",
    ("cifar100", "binary"): "cifar-100-binary",
}


def pixels(count: int, seed: int = 0) -> np.ndarray:
    """Rows of a file: 1,024 values of red, then of green, then of blue."""
    return np.random.default_rng(seed).integers(0, 256, (count, 3072), np.uint8)


def python_2(value) -> bytes:
    """The opcodes that Python 2's cPickle and its NumPy wrote at protocol 2."""
    return b"\x80\x02" + _opcodes(value) + b"."


def _opcodes(value) -> bytes:
    if isinstance(value, dict):
        pairs = b"".join(_opcodes(key) + _opcodes(each) for key, each in value.items())
        return b"}(" + pairs + b"u"
    if isinstance(value, list):
        return b"](" + b"".join(map(_opcodes, value)) + b"e"
    if isinstance(value, str):
        return b"U" + bytes([len(value)]) + value.encode()
    if isinstance(value, int):
        return b"K" + bytes([value]) if value < 256 else b"J" + struct.pack("<i", value)
    rows, columns = value.shape
    return (
        b"cnumpy.core.multiarray\n_reconstruct\nq\x01cnumpy\nndarray\nq\x02K\x00\x85q\x03U\x01b"
        b"q\x04\x87q\x05Rq\x06(K\x01" + _opcodes(rows) + _opcodes(columns) + b"\x86q\x07"
        b"cnumpy\ndtype\nq\x08U\x02u1q\x09K\x00K\x01\x87q\x0aRq\x0b(K\x03U\x01|q\x0cNNN"
        b"J\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tq\x0db\x89T"
        + struct.pack("<i", value.size) + value.tobytes() + b"q\x0etb"
    )  # fmt: skip


def files(
    name: str, form: str, rows: np.ndarray, labels: list[int], write=python_2
) -> dict[str, bytes]:
    """The test file and the names of one data set."""
    ten = name == "cifar10"
    if form == "binary":
        heads = [bytes([label]) if ten else bytes([label // 5, label]) for label in labels]
        body = b"".join(h + row.tobytes() for h, row in zip(heads, rows, strict=True))
        meta = "batches.meta.txt" if ten else "fine_label_names.txt"
        return {
            ("test_batch.bin" if ten else "test.bin"): body,
            meta: ("\n".join(NAMES[name]) + "\n\n").encode(),
        }
    if ten:
        content = {"batch_label": "testing batch 1 of 1", "labels": labels, "data": rows}
        return {"test_batch": write(content), "batches.meta": write({"label_names": NAMES[name]})}
    content = {"coarse_labels": [0] * len(labels), "fine_labels": labels, "data": rows}
    return {"test": write(content), "meta": write({"fine_label_names": NAMES[name]})}


def laid(root: Path, name: str, form: str, content: dict[str, bytes]) -> Path:
    folder = root / FOLDERS[name, form]
    folder.mkdir(parents=True)
    for file, data in content.items():
        (folder / file).write_bytes(data)
    return folder


def packed(path: Path, folder: str, content: dict[str, bytes]) -> Path:
    with tarfile.open(path, "w:gz") as archive:
        for file, data in {"readme.html": b"<html>", **content}.items():
            member = tarfile.TarInfo(f"{folder}/{file}")
            member.size = len(data)
            archive.addfile(member, io.BytesIO(data))
    return path


def test_the_made_up_pickles_are_what_python_reads_too():
    content = {"labels": [3, 255], "data": pixels(2), "name": "x"}
    read = pickle.loads(python_2(content), encoding="latin1")
    assert (read["labels"], read["name"]) == ([3, 255], "x")
    assert np.array_equal(read["data"], content["data"])


@pytest.mark.parametrize(("name", "form"), FOLDERS)
@pytest.mark.parametrize("archive", [False, True], ids=["folder", "archive"])
def test_every_published_form_gives_the_same_pictures(tmp_path, name, form, archive):
    rows, labels = pixels(7), [0, 9, 3, 3, 5, 8, 1]
    content = files(name, form, rows, labels)
    if archive:
        path = packed(tmp_path / f"{FOLDERS[name, form]}.tar.gz", FOLDERS[name, form], content)
    else:
        path = laid(tmp_path, name, form, content)
    data = open_labelled(path)
    assert (data.protocol, data.split, data.labels) == (name, "test", tuple(labels))
    assert [each[0] for each in data.classes] == [each.replace("_", " ") for each in NAMES[name]]
    assert data.keys == tuple(NAMES[name])
    first = data.pictures[0]
    assert (first.shape, first.dtype) == ((32, 32, 3), np.uint8)
    assert first[2, 5].tolist() == [rows[0][channel * 1024 + 2 * 32 + 5] for channel in range(3)]
    assert len(list(tmp_path.iterdir())) == 1


def test_the_folder_above_is_enough_unless_both_sets_are_there(tmp_path):
    laid(tmp_path, "cifar10", "binary", files("cifar10", "binary", pixels(2), [1, 2]))
    assert open_labelled(tmp_path).protocol == "cifar10"
    laid(tmp_path, "cifar100", "binary", files("cifar100", "binary", pixels(3), [1, 2, 99]))
    with pytest.raises(BadInput, match="holds cifar10 and cifar100; say which"):
        open_labelled(tmp_path)
    assert open_labelled(tmp_path, "cifar100").labels == (1, 2, 99)


def test_pickles_written_by_todays_python_are_read_as_well(tmp_path):
    def write(content):
        return pickle.dumps({key.encode(): value for key, value in content.items()}, protocol=2)

    rows = pixels(4)
    content = files("cifar100", "python", rows, [7, 7, 0, 99], write)
    data = open_labelled(laid(tmp_path, "cifar100", "python", content))
    assert data.labels == (7, 7, 0, 99)
    assert np.array_equal(np.stack(data.pictures).transpose(0, 3, 1, 2).reshape(4, -1), rows)


def test_training_pictures_are_those_of_all_batches_in_order(tmp_path):
    content = files("cifar10", "binary", pixels(1), [0])
    for batch in range(1, 6):
        content[f"data_batch_{batch}.bin"] = bytes([batch]) + pixels(1, batch).tobytes()
    path = laid(tmp_path, "cifar10", "binary", content)
    data = open_labelled(path, split="train")
    assert (data.labels, data.split) == ((1, 2, 3, 4, 5), "train")
    assert data.sources[4] == "data_batch_5.bin/0"
    (path / "data_batch_3.bin").unlink()
    with pytest.raises(BadInput, match=r"cannot read .*data_batch_3\.bin.*complete"):
        open_labelled(path, split="train")


class Hostile:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.mkdir, (str(self.marker),)


def test_a_hostile_pickle_is_refused_and_nothing_of_it_runs(tmp_path):
    content = files("cifar10", "python", pixels(2), [1, 2])
    content["test_batch"] = pickle.dumps({"data": Hostile(tmp_path / "ran"), "labels": [1]}, 2)
    folder = laid(tmp_path, "cifar10", "python", content)
    with pytest.raises(UnsafeFile, match="nothing was executed"):
        open_labelled(folder)
    archive = packed(tmp_path / "cifar-10-python.tar.gz", "x", content)
    with pytest.raises(UnsafeFile, match="mkdir"):
        open_labelled(archive)
    assert not (tmp_path / "ran").exists()


def damaged(content: dict[str, bytes]) -> list[tuple[dict[str, bytes], str]]:
    rows = pixels(2)
    swapped = [NAMES["cifar10"][1], NAMES["cifar10"][0], *NAMES["cifar10"][2:]]

    def with_test(**fields):
        return content | {"test_batch": python_2(fields)}

    return [
        (content | {"batches.meta": python_2({"label_names": swapped})}, "'automobile' for 'airpl"),
        (content | {"batches.meta": python_2({"label_names": ["x"]})}, "names 1 classes"),
        (content | {"batches.meta": python_2({"names": 3})}, "no 'label_names'"),
        (with_test(labels=[1, 2]), "holds no 'data'"),
        (with_test(data=rows, labels=[1]), "2 pictures and 1 labels"),
        (with_test(data=rows, labels=[1, 10]), "labels beyond its 10 classes"),
        (with_test(data=rows, labels=["a", "b"]), "no whole numbers"),
        (with_test(data=rows[:, :99], labels=[1, 2]), r"shape \(2, 99\)"),
        (with_test(data="text", labels=[1, 2]), "no array of bytes"),
    ]


@pytest.mark.parametrize("case", range(9))
def test_files_that_are_not_cifars_say_what_is_wrong(tmp_path, case):
    content, reason = damaged(files("cifar10", "python", pixels(2), [1, 2]))[case]
    with pytest.raises(BadInput, match=reason):
        open_labelled(laid(tmp_path, "cifar10", "python", content))


def test_files_cut_short_are_broken(tmp_path):
    content = files("cifar10", "python", pixels(2), [1, 2])
    content["test_batch"] = content["test_batch"][:-500]
    with pytest.raises(BrokenFile):
        open_labelled(laid(tmp_path / "a", "cifar10", "python", content))
    content = files("cifar10", "binary", pixels(2), [1, 2])
    content["test_batch.bin"] = content["test_batch.bin"][:-1]
    with pytest.raises(BadInput, match="expected records of 3073"):
        open_labelled(laid(tmp_path / "b", "cifar10", "binary", content))
    archive = packed(tmp_path / "cifar-10-binary.tar.gz", "x", content)
    archive.write_bytes(archive.read_bytes()[:2000])
    with pytest.raises(BadInput, match="no whole"):
        open_labelled(archive)


def test_a_set_that_is_not_there_is_named_with_its_source(tmp_path):
    (tmp_path / "cat").mkdir()
    with pytest.raises(BadInput, match=r"there is no cifar100 at .*cs\.toronto\.edu"):
        open_labelled(tmp_path, "cifar100")
    path = packed(tmp_path / "cifar-10-binary.tar.gz", "x", {"other.bin": b""})
    with pytest.raises(BadInput, match="there is no cifar10"):
        open_labelled(path)
