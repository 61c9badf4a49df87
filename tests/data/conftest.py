"""Small pictures that differ, in every layout that a source can have."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image


def picture_bytes(number: int, size=(24, 20), kind: str = "PNG") -> bytes:
    """Smooth stripes whose colours and directions tell pictures apart."""
    rng = np.random.Generator(np.random.PCG64([number]))
    coarse = rng.integers(0, 256, (4, 5, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(coarse).resize(size, Image.Resampling.BILINEAR).save(out, kind)
    return out.getvalue()


@pytest.fixture(scope="session")
def png():
    return picture_bytes


@pytest.fixture
def folder(tmp_path):
    """Ten pictures, two of them in a subfolder."""
    root = tmp_path / "pictures"
    (root / "more").mkdir(parents=True)
    for number in range(8):
        (root / f"{number:02d}.png").write_bytes(picture_bytes(number))
    for number in (8, 9):
        (root / "more" / f"{number:02d}.jpg").write_bytes(picture_bytes(number, kind="JPEG"))
    return root


@pytest.fixture
def shard(tmp_path):
    """Writes a tar of files given by name."""

    def write(name: str, files: dict[str, bytes | str]):
        path = tmp_path / name
        with tarfile.open(path, "w") as tar:
            for inside, data in files.items():
                data = data.encode() if isinstance(data, str) else data
                member = tarfile.TarInfo(inside)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        return path

    return write


@pytest.fixture
def coco(tmp_path):
    """Two pictures with two captions and one with none, in the folders of the original."""
    for folder in ("annotations", "val2017"):
        (tmp_path / "coco" / folder).mkdir(parents=True)
    for number in (7, 8, 9):
        file = tmp_path / "coco" / "val2017" / f"{number:012d}.jpg"
        file.write_bytes(picture_bytes(number, kind="JPEG"))
    content = {
        "images": [{"id": n, "file_name": f"{n:012d}.jpg"} for n in (7, 8, 9)],
        "annotations": [
            {"id": 1, "image_id": 8, "caption": "a cat "},
            {"id": 2, "image_id": 7, "caption": "a dog"},
            {"id": 3, "image_id": 8, "caption": "a grey cat"},
        ],
    }
    file = tmp_path / "coco" / "annotations" / "captions_val2017.json"
    file.write_text(json.dumps(content))
    return file
