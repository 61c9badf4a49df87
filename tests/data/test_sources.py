import json
import os
import pickle

import pyarrow
import pyarrow.parquet
import pytest

from lascaux.data.records import Part, Strings
from lascaux.data.sources import open_source
from lascaux.errors import BadInput, BadPicture


def described(source):
    return [(record.key, record.captions, record.class_name) for record in source]


def write_parquet(path, rows, group=2, metadata=None, **types):
    table = pyarrow.Table.from_pylist(rows)
    table = table.replace_schema_metadata(metadata)
    pyarrow.parquet.write_table(table, path, row_group_size=group)
    return path


def test_a_folder_of_pictures(folder, png):
    source = open_source(folder)
    assert (source.kind, len(source), source.classes) == ("folder", 10, ())
    assert [r.key for r in source] == [f"{n:02d}.png" for n in range(8)] + [
        "more/08.jpg",
        "more/09.jpg",
    ]
    record = source[3]
    assert record.picture == folder / "03.png"
    assert record.image().size == (24, 20)
    assert (record.captions, record.label, record.class_name) == ((), None, None)
    with pytest.raises(IndexError):
        source[10]


def test_a_folder_of_classes(tmp_path, png):
    for name in ("red_fox", "cat"):
        (tmp_path / name / "deep").mkdir(parents=True)
        (tmp_path / name / "deep" / "a.png").write_bytes(png(1))
    source = open_source(tmp_path)
    assert (source.kind, source.classes) == ("classes", ("cat", "red fox"))
    assert described(source) == [
        ("cat/deep/a.png", (), "cat"),
        ("red_fox/deep/a.png", (), "red fox"),
    ]
    assert source[1].label == 1
    assert open_source(tmp_path, "folder").kind == "folder"
    (tmp_path / "cat").rename(tmp_path / "red_fox" / "cat")
    assert open_source(tmp_path).kind == "folder"


def test_captions_in_text_files_beside(folder):
    (folder / "00.txt").write_text("a cat\n\n  a grey cat \n", encoding="utf-8")
    (folder / "more" / "08.txt").write_text("", encoding="utf-8")
    source = open_source(folder)
    assert source.kind == "captioned"
    assert source[0].captions == ("a cat", "a grey cat")
    assert source.captions(8) == source.captions(1) == ()
    assert source.notes == ("8 of 10 pictures have no text file: 01.png, 02.png, 03.png, ...",)


TABLES = {
    "t.csv": 'image,caption\n00.png,"a cat, grey"\nmore/08.jpg,a dog\n00.png,a pet\n',
    "t.tsv": "Title\tFile_Name\na cat, grey\t00.png\na dog\tmore/08.jpg\na pet\t00.png\n",
    "t.jsonl": '{"file": "00.png", "text": ["a cat, grey", "a pet"]}\n\n'
    '{"file": "more/08.jpg", "text": "a dog"}\n',
    "t.json": json.dumps(
        [
            {"path": "00.png", "captions": ["a cat, grey", "a pet"]},
            {"path": "more/08.jpg", "captions": ["a dog"]},
        ]
    ),
    "u.csv": 'image,caption\n00.png,"[""a cat, grey"", ""a pet""]"\nmore/08.jpg,a dog\n',
}


@pytest.mark.parametrize("name", TABLES)
def test_tables_of_paths_and_captions(folder, name):
    (folder / name).write_text(TABLES[name], encoding="utf-8")
    source = open_source(folder / name)
    assert source.kind == name[2:]
    assert described(source) == [
        ("00.png", ("a cat, grey", "a pet"), None),
        ("more/08.jpg", ("a dog",), None),
    ]
    assert source[1].image().size == (24, 20)


def test_a_parquet_table_of_paths(folder):
    rows = [{"path": "00.png", "caption": ["a"]}, {"path": "01.png", "caption": ["b", "c"]}]
    source = open_source(write_parquet(folder / "t.parquet", rows))
    assert described(source) == [("00.png", ("a",), None), ("01.png", ("b", "c"), None)]


def test_columns_and_the_pictures_folder_can_be_named(folder, tmp_path):
    table = tmp_path / "t.csv"
    table.write_text("image,where,said\n1,00.png,a cat\n", encoding="utf-8")
    source = open_source(table, pictures=folder, picture_column="where", caption_column="said")
    assert described(source) == [("00.png", ("a cat",), None)]
    assert source[0].picture == folder / "00.png"


def test_classes_of_a_table_are_names_or_numbers(folder):
    table = folder / "t.csv"
    table.write_text("file,label\n00.png,dog\n01.png,cat\n02.png,\n", encoding="utf-8")
    source = open_source(table)
    assert source.classes == ("cat", "dog")
    assert [record.label for record in source] == [1, 0, None]
    table.write_text("file,label\n00.png,2\n01.png,0\n", encoding="utf-8")
    source = open_source(table)
    assert source.classes == ("0", "1", "2")
    assert [record.label for record in source] == [2, 0]


def test_a_folder_with_a_table_is_read_by_it(folder):
    (folder / "metadata.csv").write_text("file_name,text\n01.png,one\n", encoding="utf-8")
    assert described(open_source(folder)) == [("01.png", ("one",), None)]


def test_coco_captions(coco):
    source = open_source(coco)
    assert source.kind == "coco"
    assert described(source) == [
        ("000000000007.jpg", ("a dog",), None),
        ("000000000008.jpg", ("a cat", "a grey cat"), None),
        ("000000000009.jpg", (), None),
    ]
    assert source[0].image().size == (24, 20)


def test_webdataset_tars(shard, tmp_path, png):
    shard(
        "train-00.tar",
        {
            "a/001.jpg": png(1, kind="JPEG"),
            "a/001.txt": "one",
            "a/001.cls": "2\n",
            "a/002.json": '{"caption": "two"}',
            "a/002.seg.png": png(2),
            "a/003.txt": "no picture",
        },
    )
    shard("train-01.tar", {"003.txt": "three\nIII", "003.webp": png(3, kind="WEBP")})
    expected = [
        ("train-00.tar/a/001.jpg", ("one",), "2"),
        ("train-00.tar/a/002.seg.png", ("two",), None),
        ("train-01.tar/003.webp", ("three", "III"), None),
    ]
    for pattern in ("train-{00..01}.tar", "train-*.tar", "."):
        source = open_source(tmp_path / pattern)
        assert source.kind == "webdataset"
        assert described(source) == expected
    assert source[2].picture == png(3, kind="WEBP")
    assert source.classes == ("0", "1", "2")


def test_the_index_of_a_tar_is_kept_until_the_tar_changes(shard, tmp_path, png, monkeypatch):
    from lascaux.data import tars

    kept = tmp_path / "kept"
    path = shard("a.tar", {"1.png": png(1), "1.cls": "1"})
    first = open_source(path, index_folder=kept)
    assert len(list(kept.iterdir())) == 1
    with monkeypatch.context() as patch:
        patch.delattr(tars, "_walk")
        again = open_source(path, index_folder=kept)
    assert described(again) == described(first)
    assert again.fingerprint == first.fingerprint
    shard("a.tar", {"1.png": png(1), "2.png": png(2)})
    assert len(open_source(path, index_folder=kept)) == 2
    for file in kept.iterdir():
        file.write_bytes(b"damaged")
    assert len(open_source(path, index_folder=kept)) == 2


def test_parquet_with_pictures_as_bytes(tmp_path, png):
    rows = [{"image": png(n), "text": f"number {n}", "key": f"k{n}"} for n in range(5)]
    write_parquet(tmp_path / "a.parquet", rows[:3])
    write_parquet(tmp_path / "b.parquet", rows[3:])
    source = open_source(tmp_path)
    assert (source.kind, len(source)) == ("parquet", 5)
    order = (4, 0, 3, 2, 1, 4)
    assert [source[n].picture for n in order] == [png(n) for n in order]
    assert described(source)[3] == ("k3", ("number 3",), None)


def test_parquet_of_the_datasets_library(tmp_path, png):
    rows = [{"image": {"bytes": png(n), "path": f"{n}.png"}, "label": n % 2} for n in range(3)]
    features = {"label": {"names": ["cat", "dog"], "_type": "ClassLabel"}}
    about = {"huggingface": json.dumps({"info": {"features": features}})}
    source = open_source(write_parquet(tmp_path / "a.parquet", rows, metadata=about))
    assert described(source) == [("0.png", (), "cat"), ("1.png", (), "dog"), ("2.png", (), "cat")]
    assert source[1].picture == png(1)


def test_sources_can_be_sent_to_other_processes(folder, shard, tmp_path, png):
    shard("a.tar", {"1.png": png(1)})
    write_parquet(tmp_path / "a.parquet", [{"image": png(1)}])
    for path in (folder, tmp_path / "a.tar", tmp_path / "a.parquet"):
        source = open_source(path)
        before = described(source)
        again = pickle.loads(pickle.dumps(source))
        assert described(again) == before
        assert again[0].image().size == (24, 20)


def test_a_forked_process_opens_parquet_anew(tmp_path, png):
    write_parquet(tmp_path / "a.parquet", [{"image": png(n)} for n in range(4)])
    source = open_source(tmp_path / "a.parquet")
    mine = source._handles if source[0].picture else None
    child = os.fork()
    if child == 0:
        fine = source[3].picture == png(3) and source._handles is not mine
        os._exit(0 if fine else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert source._handles is mine


def test_fingerprints_tell_sources_apart(folder, png):
    first = open_source(folder).fingerprint
    assert open_source(folder).fingerprint == first
    (folder / "00.png").write_bytes(png(0) + b"\0")
    second = open_source(folder).fingerprint
    (folder / "00.txt").write_text("a cat", encoding="utf-8")
    third = open_source(folder).fingerprint
    assert len({first, second, third}) == 3


def test_a_part_of_a_source(folder):
    whole = open_source(folder)
    part = Part(whole, [7, 2])
    assert [record.key for record in part] == ["07.png", "02.png"]
    assert part.fingerprint != Part(whole, [2, 7]).fingerprint
    with pytest.raises(BadInput, match="an index outside of the 10 records"):
        Part(whole, [10])


def test_strings_keep_names_that_are_not_utf8():
    texts = ["", "käse", os.fsdecode(b"\xff.png"), "x" * 1000]
    strings = Strings(texts)
    assert list(strings) == texts
    assert strings[-1] == texts[-1]
    assert strings[1:3] == texts[1:3]


def test_empty_folders_are_refused(tmp_path):
    with pytest.raises(BadInput, match="has no pictures: it is empty"):
        open_source(tmp_path)
    (tmp_path / "notes.doc").write_text("x")
    with pytest.raises(BadInput, match=r"has no pictures: it holds notes\.doc"):
        open_source(tmp_path)
    with pytest.raises(BadInput, match="there is no file or folder"):
        open_source(tmp_path / "nothing")
    with pytest.raises(BadInput, match="is no source of records"):
        open_source(tmp_path / "notes.doc")


def test_tables_that_name_absent_files_are_refused_or_kept(folder):
    table = folder / "t.csv"
    lines = [f"x{n}.png,a" for n in range(5)]
    table.write_text("\n".join(["image,caption", "00.png,a", *lines]), encoding="utf-8")
    with pytest.raises(BadInput, match=r"names 5 pictures \(of 6\).*: x0.png, x1.png, x2.png, ..."):
        open_source(table)
    source = open_source(table, absent="keep")
    assert len(source) == 6
    with pytest.raises(BadPicture, match="no file at"):
        source[5].image()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("t.csv", "a.jpg,a cat\n", r"has the columns 'a\.jpg', 'a cat'; none is known"),
        ("t.csv", "image,caption\n", "has no rows"),
        ("t.csv", "", r"has the columns \(none\)"),
        ("t.csv", "image,caption\na.jpg,a cat, grey\n", "row 2: another number of cells"),
        ("t.csv", "image,caption\n,a cat\n", "row 2, column 'image': ''; expected the path"),
        ("t.tsv", "url\tcaption\nhttp://x/a.jpg\ta\n", "is an address, and nothing is fetched"),
        ("t.jsonl", '{"image": "a"}\n{"image"\n', "line 2: no JSON"),
        ("t.jsonl", '["a"]\n', "expected an object"),
        ("t.jsonl", '{"image": "a", "text": 3}\n', "column 'text': 3; expected a caption"),
        ("t.json", '{"a": 1}', "neither a list of objects nor COCO captions"),
    ],
)
def test_wrong_tables_are_refused(tmp_path, name, text, said):
    (tmp_path / name).write_text(text, encoding="utf-8")
    with pytest.raises(BadInput, match=said):
        open_source(tmp_path / name)


def test_a_column_that_is_not_there_is_told_with_those_that_are(folder):
    (folder / "t.csv").write_text("image,text\n00.png,a\n", encoding="utf-8")
    with pytest.raises(BadInput, match=r"no column 'words'; .* has the columns 'image', 'text'"):
        open_source(folder / "t.csv", caption_column="words")


def test_wrong_coco_files_are_refused(coco):
    content = json.loads(coco.read_text())
    (coco.parents[1] / "val2017").rename(coco.parents[1] / "elsewhere")
    with pytest.raises(BadInput, match=r"were not found: no 000000000007\.jpg in"):
        open_source(coco)
    assert len(open_source(coco, pictures=coco.parents[1] / "elsewhere")) == 3
    content["annotations"][0] = {"id": 1, "image_id": 8, "bbox": []}
    coco.write_text(json.dumps(content))
    with pytest.raises(BadInput, match="annotation 0: no caption but id, image_id, bbox"):
        open_source(coco)


def test_wrong_tars_are_refused(shard, tmp_path, png):
    path = shard("a.tar", {"1.png": png(1), "2.png": png(2)})
    data = path.read_bytes()
    path.write_bytes(data[: 512 + len(png(1)) // 512 * 512 + 512 + 512 + 100])
    with pytest.raises(BadInput, match="truncated"):
        open_source(path)
    path.write_bytes(b"no tar at all")
    with pytest.raises(BadInput, match="truncated, or no tar"):
        open_source(path)
    with pytest.raises(BadInput, match=r"has no pictures .* holds 1\.txt"):
        open_source(shard("b.tar", {"1.txt": "a"}))
    with pytest.raises(BadInput, match=r"2 files of .* are missing: .*c-01.tar"):
        open_source(tmp_path / "c-{01..02}.tar")
    with pytest.raises(BadInput, match=r"1\.cls holds 'cat'; expected a class's number"):
        open_source(shard("d.tar", {"1.png": png(1), "1.cls": "cat"}))


def test_compressed_tars_are_refused_with_advice(shard, tmp_path, png):
    import gzip

    path = shard("a.tar", {"1.png": png(1)})
    path.write_bytes(gzip.compress(path.read_bytes()))
    with pytest.raises(BadInput, match=r"is compressed, .* uncompress it first"):
        open_source(path)


def test_wrong_parquet_files_are_refused(tmp_path, png):
    path = write_parquet(tmp_path / "a.parquet", [{"image": png(1)}])
    data = path.read_bytes()
    path.write_bytes(data[:-20])
    with pytest.raises(BadInput, match="is truncated, damaged or no Parquet"):
        open_source(path)
    write_parquet(path, [{"image": 3}])
    with pytest.raises(BadInput, match="column 'image' holds int64; expected bytes"):
        open_source(path)
    write_parquet(path, [{"a": 1, "b": 2}])
    with pytest.raises(BadInput, match="has the columns 'a', 'b'"):
        open_source(path)
