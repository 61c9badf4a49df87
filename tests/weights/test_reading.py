import argparse
import collections
import datetime
import enum
import gzip
import importlib
import io
import json
import os
import pathlib
import pickle
import random
import runpy
import struct
import subprocess
import sys
import tarfile
import warnings
import zipfile

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from lascaux.errors import BrokenFile, LascauxError, UnknownModel, UnsafeFile, Unsupported
from lascaux.weights.download import sha256_of
from lascaux.weights.reading import read_tensors

MARKER = "LASCAUX_TEST_RAN"


class Options:
    """Stands for the classes of a trainer that the reader has never heard of."""

    def __init__(self, **named):
        self.__dict__.update(named)

    class Inner:
        pass


class Colour(enum.Enum):
    red = 1


class DictLike(dict):
    pass


class Calls:
    """Pickles as a call of anything."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments

    def __reduce__(self):
        return self.function, self.arguments


def some_function(*arguments):
    os.environ[MARKER] = "yes"


def same(read, expected):
    assert list(read) == list(expected)
    for name, tensor in expected.items():
        assert read[name].dtype == tensor.dtype, name
        assert read[name].shape == tensor.shape, name
        assert torch.equal(read[name], tensor.detach()), name


def some_tensors():
    draw = torch.Generator().manual_seed(5)
    base = torch.randn(6, 8, generator=draw)
    return {
        "weight": base,
        "transposed": base.t(),
        "window": base[1:3, 2:7:2],
        "scalar": torch.tensor(2.5),
        "empty": torch.zeros(0, 3),
        "half": base.half(),
        "bfloat16": base.bfloat16(),
        "double": base.double(),
        "int64": torch.arange(5),
        "int32": torch.arange(5, dtype=torch.int32),
        "int16": torch.arange(5, dtype=torch.int16),
        "int8": torch.arange(5, dtype=torch.int8),
        "uint8": torch.arange(5, dtype=torch.uint8),
        "bool": torch.tensor([True, False, True]),
        "complex": torch.complex(base, -base),
        "conjugated": torch.complex(base, -base).conj(),
        "expanded": torch.ones(1, 3).expand(4, 3),
    }


def saved(tmp_path, content, name="file.pt", **how):
    path = tmp_path / name
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.save(content, path, **how)
    return path


LEGACY = {"_use_new_zipfile_serialization": False}


@pytest.mark.parametrize("how", [{}, LEGACY], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 4, 5])
def test_every_dtype_stride_and_shape_comes_back(tmp_path, how, protocol):
    tensors = some_tensors()
    path = saved(tmp_path, tensors, pickle_protocol=protocol, **how)
    read = read_tensors(path)
    same(read.tensors, tensors)
    assert read.container == ("torch-legacy" if how else "torch-zip")
    assert read.skipped == []


def test_unsigned_and_eight_bit_float_dtypes_come_back(tmp_path):
    tensors = {
        "uint16": torch.arange(3).to(torch.uint16),
        "uint64": torch.arange(3).to(torch.uint64),
        "float8": torch.ones(3).to(torch.float8_e4m3fn),
    }
    read = read_tensors(saved(tmp_path, tensors)).tensors
    assert all(torch.equal(read[k].float(), v.float()) for k, v in tensors.items())
    assert [t.dtype for t in read.values()] == [t.dtype for t in tensors.values()]


@pytest.mark.parametrize("how", [{}, LEGACY], ids=["zip", "legacy"])
def test_tensors_of_one_storage_share_memory_when_read(tmp_path, how):
    base = torch.arange(10.0)
    read = read_tensors(saved(tmp_path, {"all": base, "tail": base[6:]}, **how)).tensors
    read["all"][7] = 70.0
    assert read["tail"][1] == 70.0


@pytest.mark.parametrize("form", ["zip", "legacy", "torchscript", "pickle"])
def test_read_tensors_are_aligned_as_torch_allocates_them(tmp_path, form):
    read = read_tensors(make(form, tmp_path)).tensors
    assert all(tensor.data_ptr() % 64 == 0 for tensor in read.values())


def test_tensors_of_safetensors_lie_where_their_elements_may(tmp_path):
    odd = {"a": torch.ones(3, dtype=torch.uint8), "b": torch.arange(5.0), "c": torch.ones(())}
    header = json.dumps(
        {
            "a": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]},
            "b": {"dtype": "F32", "shape": [5], "data_offsets": [3, 23]},
            "c": {"dtype": "F32", "shape": [], "data_offsets": [23, 27]},
        }
    ).encode()
    body = b"".join(tensor.numpy().tobytes() for tensor in odd.values())
    path = tmp_path / "odd.safetensors"
    path.write_bytes(len(header).to_bytes(8, "little") + header + body)
    read = read_tensors(path).tensors
    same(read, odd)
    assert all(tensor.data_ptr() % tensor.itemsize == 0 for tensor in read.values())


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux is asked to let go")
@pytest.mark.parametrize("form", ["safetensors", "zip", "torchscript"])
def test_memory_that_was_let_go_is_read_again(tmp_path, form):
    checkpoint = read_tensors(make(form, tmp_path))
    before = {name: tensor.clone() for name, tensor in checkpoint.tensors.items()}
    for tensor in checkpoint.tensors.values():
        tensor.zero_()  # in memory alone, so this is what is let go
    checkpoint.let_go()
    same(checkpoint.tensors, before)


def test_writing_to_a_read_tensor_leaves_the_file_alone(tmp_path):
    path = saved(tmp_path, {"w": torch.zeros(4)})
    before = sha256_of(path)
    read_tensors(path).tensors["w"].fill_(1.0)
    assert sha256_of(path) == before


def test_parameters_and_a_module_state_dict_read_like_plain_tensors(tmp_path):
    model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2))
    for how in ({}, LEGACY):
        same(read_tensors(saved(tmp_path, model.state_dict(), **how)).tensors, model.state_dict())
        parameters = dict(model.named_parameters())
        same(read_tensors(saved(tmp_path, parameters, **how)).tensors, parameters)


def test_a_module_saved_whole_gives_its_state_dict_without_its_class(tmp_path):
    model = nn.Sequential(nn.Linear(3, 2), nn.Sequential(nn.BatchNorm1d(2)))
    model[0].register_buffer("passing", torch.ones(1), persistent=False)
    for how in ({}, LEGACY):
        same(read_tensors(saved(tmp_path, model, **how)).tensors, model.state_dict())


def test_safetensors_come_back_with_their_metadata(tmp_path):
    tensors = {"a": torch.randn(3, 2), "b": torch.arange(3).half()}
    save_file(tensors, tmp_path / "any-name.bin", metadata={"format": "pt"})
    read = read_tensors(tmp_path / "any-name.bin")
    assert read.container == "safetensors"
    assert read.metadata == {"format": "pt"}
    assert all(torch.equal(read.tensors[k], v) for k, v in tensors.items())


@pytest.mark.parametrize(
    "nest",
    ["state_dict", "model_state_dict", "model", "module", "params_ema", "params", "net"],
)
def test_nested_state_dicts_are_found(tmp_path, nest):
    state = nn.Linear(2, 2).state_dict()
    read = read_tensors(saved(tmp_path, {"epoch": 3, nest: state, "rng": torch.ones(9)}))
    same(read.tensors, state)
    assert read.metadata == {"epoch": 3, "inside": nest}
    assert read.skipped == ["rng: 1 tensor left out"]


def test_the_caller_may_name_another_nest(tmp_path):
    content = {"params": {"w": torch.zeros(2)}, "params_ema": {"w": torch.ones(2)}}
    path = saved(tmp_path, content)
    assert read_tensors(path).metadata["inside"] == "params_ema"
    assert torch.equal(read_tensors(path, inside="params").tensors["w"], torch.zeros(2))
    with pytest.raises(BrokenFile, match=r"no dictionary 'other'.*params"):
        read_tensors(path, inside="other")


def test_state_dicts_side_by_side_are_joined_by_their_names(tmp_path):
    content = {"encoder": {"w": torch.zeros(2)}, "decoder": {"w": torch.ones(2)}, "optim": {}}
    read = read_tensors(saved(tmp_path, content))
    assert list(read.tensors) == ["encoder.w", "decoder.w"]


@pytest.mark.parametrize("how", [{}, LEGACY], ids=["zip", "legacy"])
@pytest.mark.parametrize("protocol", [2, 4])
def test_a_lightning_checkpoint_reads_past_classes_nobody_has(tmp_path, how, protocol):
    state = {"model.w": torch.randn(2, 2), "model.b": torch.zeros(2)}
    content = {
        "epoch": 7,
        "global_step": 100,
        "pytorch-lightning_version": "1.6.0",
        "state_dict": collections.OrderedDict(state),
        "callbacks": {Options: {"best": torch.tensor(1.0), "path": pathlib.PurePosixPath("x")}},
        "optimizer_states": [{"state": {0: {"exp_avg": torch.ones(4)}}, "param_groups": []}],
        "lr_schedulers": [{"base_lrs": [0.1]}],
        "hyper_parameters": {
            "lr": 1e-3,
            "args": argparse.Namespace(size=3),
            "options": Options(deep=Options(deeper=[1, 2])),
            "inner": Options.Inner(),
            "kind": Options,
            "colour": Colour.red,
            "like": DictLike(a=1),
            "when": datetime.datetime(2020, 1, 2),
            "counts": collections.Counter("aab"),
            "default": collections.defaultdict(list, x=[1]),
            "many": {1, 2},
            "size": torch.Size([2, 3]),
            "device": torch.device("cpu"),
            "dtype": torch.float16,
            "number": np.float32(0.5),
            "array": np.arange(4),
            "seeded": np.random.RandomState(1).get_state()[0],
        },
    }
    read = read_tensors(saved(tmp_path, content, pickle_protocol=protocol, **how))
    same(read.tensors, state)
    plain = read.metadata["hyper_parameters"]
    assert read.metadata["epoch"] == 7
    assert plain["lr"] == 1e-3
    assert plain["size"] == [2, 3]
    listed = "\n".join(read.skipped)
    assert "optimizer_states: 1 tensor left out" in listed
    assert "argparse.Namespace (class not imported)" in listed or "hyper_parameters" in listed


def test_left_out_classes_are_listed_by_name(tmp_path):
    content = {
        "state_dict": {"w": torch.ones(1)},
        "hyper_parameters": {"args": argparse.Namespace(size=3), "own": Options(a=1), "n": 2},
    }
    read = read_tensors(saved(tmp_path, content))
    assert read.metadata["hyper_parameters"] == {"n": 2}
    assert any("hyper_parameters.args: argparse.Namespace" in line for line in read.skipped)
    assert any("Options (class not imported)" in line for line in read.skipped)


def test_a_deepspeed_file_reads_from_its_module(tmp_path):
    content = {"module": {"w": torch.ones(2)}, "optimizer": None, "dp_world_size": 1, "args": None}
    path = saved(tmp_path, content, "mp_rank_00_model_states.pt")
    assert list(read_tensors(path).tensors) == ["w"]


@pytest.mark.parametrize("protocol", [0, 1, 2, 3, 4, 5])
def test_plain_pickles_of_arrays_and_of_tensors_are_read(tmp_path, protocol):
    arrays = {"f": np.arange(6, dtype="f4").reshape(2, 3), "i": np.arange(3, dtype=">i8")}
    path = tmp_path / "a.pkl"
    path.write_bytes(pickle.dumps(arrays, protocol=protocol))
    read = read_tensors(path)
    assert read.container == "pickle"
    assert torch.equal(read.tensors["f"], torch.arange(6.0).reshape(2, 3))
    assert torch.equal(read.tensors["i"], torch.arange(3))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        path.write_bytes(pickle.dumps({"w": torch.arange(4.0)[1:]}, protocol=protocol))
    assert torch.equal(read_tensors(path).tensors["w"], torch.arange(4.0)[1:])


def test_a_legacy_view_metadata_tuple_places_the_view(tmp_path):
    # torch 0.4 and before kept views of storages as storages of their own.
    path = tmp_path / "old.pt"

    pickled = (
        b"\x80\x02}X\x01\x00\x00\x00wctorch._utils\n_rebuild_tensor\n("
        b"(X\x07\x00\x00\x00storagectorch\nFloatStorage\nX\x01\x00\x00\x000X\x03\x00\x00\x00cpu"
        b"K\x06(X\x01\x00\x00\x001K\x02K\x04ttQK\x01K\x02\x85K\x01\x85tRs."
    )
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    path.write_bytes(
        pickle.dumps(0x1950A86A20F9469CFC6C, 2)
        + pickle.dumps(1001, 2)
        + pickle.dumps(system, 2)
        + pickled
        + pickle.dumps(["0"], 2)
        + struct.pack("<q6f", 6, *range(6))
    )
    assert read_tensors(path).tensors["w"].tolist() == [3.0, 4.0]


# TorchScript


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(3, 2)
        self.norm = nn.BatchNorm1d(2)
        self.times = 3
        self.numbers = [1, 2]
        self.names = {"a": 1}
        self.plain = torch.ones(2)
        self.register_buffer("running", torch.ones(2))

    def forward(self, x):
        return self.norm(self.fc(x)) * self.times + self.running + self.plain


class Outer(nn.Module):
    def __init__(self):
        super().__init__()
        self.input_resolution = 224
        self.inner = Inner()
        self.several = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Linear(2, 2))
        self.several[2].weight = self.several[0].weight
        self.view = nn.Parameter(torch.randn(4, 2).half().t()[:, 1:3])
        self.register_buffer("context_length", torch.tensor(77))
        self.register_buffer("passing", torch.zeros(2), persistent=False)
        self.register_parameter("absent", None)
        self.positions = nn.ParameterList([nn.Parameter(torch.ones(2))])

    def forward(self, x):
        return self.several(self.inner(x)) + self.passing + self.view.float().sum()


def scripted(kind):
    torch.manual_seed(0)
    model = Outer().eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if kind == "script":
            model.positions = nn.ModuleList([nn.Linear(1, 1)])
            return torch.jit.script(model)
        return torch.jit.trace(model, torch.randn(2, 3))


@pytest.fixture(params=["script", "trace"])
def archive(request, tmp_path):
    path = tmp_path / "some name.pt"
    module = scripted(request.param)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module.save(path)
        expected = torch.jit.load(path).state_dict()
    return path, expected


def renamed_entries(path, target, rename, compress=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", compress) as new:
        for name in old.namelist():
            new.writestr(rename(name), old.read(name))


def test_a_torchscript_archive_gives_the_state_dict_that_torch_gives(archive):
    path, expected = archive
    read = read_tensors(path)
    assert read.container == "torchscript"
    same(read.tensors, expected)
    assert {"inner.norm.num_batches_tracked", "context_length", "view"} <= set(read.tensors)
    assert "inner.plain" not in read.tensors


def test_a_torchscript_archive_reads_under_any_prefix_and_compressed(archive, tmp_path):
    path, expected = archive

    def rename(name):
        return "an other/prefix/" + name.split("/", 1)[1]

    for compress in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        renamed_entries(path, tmp_path / "renamed.pt", rename, compress)
        same(read_tensors(tmp_path / "renamed.pt").tensors, expected)


def test_without_its_source_an_archive_still_gives_every_tensor(archive, tmp_path):
    path, expected = archive
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "bare.pt", "w") as new:
        for name in old.namelist():
            if "/code/" not in name:
                new.writestr(name, old.read(name))
    read = read_tensors(tmp_path / "bare.pt").tensors
    assert set(expected) <= set(read)
    same({name: read[name] for name in expected}, expected)


def test_source_older_than_buffer_lists_counts_every_declared_tensor(archive, tmp_path):
    path, expected = archive
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "old.pt", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith(".py"):
                lines = content.splitlines(keepends=True)
                content = b"".join(line for line in lines if b"__buffers__" not in line)
            new.writestr(name, content)
    read = read_tensors(tmp_path / "old.pt").tensors
    assert set(expected) <= set(read)


def test_integers_among_a_scripted_modules_attributes_are_metadata(tmp_path):
    scripted("script").save(tmp_path / "m.pt")
    assert read_tensors(tmp_path / "m.pt").metadata["input_resolution"] == 224


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_half_precision_traces_and_a_module_used_twice_are_read(tmp_path):
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = nn.Linear(2, 2)
            self.two = self.one

        def forward(self, x):
            return self.two(self.one(x))

    torch.jit.trace(Twice().bfloat16(), torch.ones(1, 2).bfloat16()).save(tmp_path / "m.pt")
    same(read_tensors(tmp_path / "m.pt").tensors, torch.jit.load(tmp_path / "m.pt").state_dict())


def test_frozen_and_quantised_archives_are_refused_with_the_reason(tmp_path):
    model = nn.Sequential(nn.Linear(4, 4), nn.ReLU()).eval()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.freeze(torch.jit.script(model)).save(tmp_path / "frozen.pt")
        quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear})
        torch.jit.script(quantised).save(tmp_path / "small.pt")
    with pytest.raises(Unsupported, match=r"frozen\.pt: .* constants of its program"):
        read_tensors(tmp_path / "frozen.pt")
    with pytest.raises(Unsupported, match=r"small\.pt: .*'0.* holds quantised weights"):
        read_tensors(tmp_path / "small.pt")


def test_archives_that_are_not_read_say_why(tmp_path):
    def archive(*names):
        with zipfile.ZipFile(tmp_path / "a.pt", "w") as new:
            for name in names:
                new.writestr(name, b"{}")
        return tmp_path / "a.pt"

    with pytest.raises(Unsupported, match=r"model\.json.*state_dict"):
        read_tensors(archive("m/model.json", "m/tensors/0", "m/version"))
    with pytest.raises(Unsupported, match=r"torch\.package"):
        read_tensors(archive("m/.data/extern_modules", "m/.data/version"))
    with pytest.raises(Unsupported, match="NumPy"):
        read_tensors(archive("a.npy"))
    with pytest.raises(BrokenFile, match=r"without data\.pkl.*photo\.jpg"):
        read_tensors(archive("photo.jpg"))


# Zip archives


def test_a_compressed_archive_and_one_without_checksums_are_read(tmp_path):
    tensors = some_tensors()
    path = saved(tmp_path, tensors)
    renamed_entries(path, tmp_path / "packed.pt", lambda name: name, zipfile.ZIP_DEFLATED)
    same(read_tensors(tmp_path / "packed.pt").tensors, tensors)
    torch.serialization.set_crc32_options(False)
    try:
        same(read_tensors(saved(tmp_path, tensors)).tensors, tensors)
    finally:
        torch.serialization.set_crc32_options(True)


def test_a_big_endian_archive_is_turned_around(tmp_path):
    values = torch.tensor([1.0, -2.5, 3.25])
    path = saved(tmp_path, {"w": values, "n": torch.tensor([1, 2])})
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "big.pt", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("byteorder"):
                content = b"big"
            elif name.endswith("data/0"):
                content = np.frombuffer(content, "<f4").astype(">f4").tobytes()
            elif name.endswith("data/1"):
                content = np.frombuffer(content, "<i8").astype(">i8").tobytes()
            new.writestr(name, content)
    same(
        read_tensors(tmp_path / "big.pt").tensors,
        {"w": values, "n": torch.tensor([1, 2])},
    )


def test_an_encrypted_entry_is_refused(tmp_path):
    content = bytearray(saved(tmp_path, {"w": torch.ones(2)}).read_bytes())
    for at in range(len(content) - 4):
        if content[at : at + 4] == b"PK\x01\x02":
            content[at + 8] |= 1
    (tmp_path / "locked.pt").write_bytes(content)
    with pytest.raises(Unsupported, match="encrypted"):
        read_tensors(tmp_path / "locked.pt")


def test_a_changed_byte_of_a_weight_is_noticed(tmp_path):
    path = saved(tmp_path, {"w": torch.full((4096,), 1.5)})
    content = bytearray(path.read_bytes())
    at = content.find(struct.pack("<f", 1.5) * 100) + 200
    content[at] ^= 1
    path.write_bytes(content)
    with pytest.raises(BrokenFile, match="checksum of entry 'file/data/0'"):
        read_tensors(path)
    assert read_tensors(path, verify=False).tensors["w"].shape == (4096,)


def test_a_missing_storage_is_named(tmp_path):
    path = saved(tmp_path, {"w": torch.ones(2), "v": torch.ones(3)})
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "less.pt", "w") as new:
        for name in old.namelist():
            if not name.endswith("data/1"):
                new.writestr(name, old.read(name))
    with pytest.raises(BrokenFile, match=r"less\.pt: entry 'file/data/1' is missing"):
        read_tensors(tmp_path / "less.pt")


def with_pickle(tmp_path, change):
    """A saved tensor of six elements whose pickle was changed."""
    path = saved(tmp_path, {"w": torch.arange(6.0).reshape(2, 3)})
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(tmp_path / "lying.pt", "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name.endswith("data.pkl"):
                changed = change(content)
                assert changed != content
                content = changed
            new.writestr(name, content)
    return tmp_path / "lying.pt"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        pytest.param(b"K\x02K\x03\x86", b"K\x02K\x04\x86", id="size"),
        pytest.param(b"K\x03K\x01\x86", b"K\x09K\x01\x86", id="stride"),
        pytest.param(b"QK\x00K\x02", b"QK\x01K\x02", id="offset"),
        pytest.param(b"K\x02K\x03\x86", b"J\xff\xff\xff\xffK\x03\x86", id="negative"),
        pytest.param(b"K\x02K\x03\x86", b"\x8a\x08" + b"\xff" * 7 + b"\x7fK\x03\x86", id="huge"),
        pytest.param(b"cpuq\x06K\x06", b"cpuq\x06K\x05", id="storage"),
        pytest.param(b"FloatStorage", b"DoubleStorage", id="dtype"),
    ],
)
def test_a_tensor_that_lies_about_its_storage_is_broken(tmp_path, old, new):
    path = with_pickle(tmp_path, lambda content: content.replace(old, new))
    with pytest.raises(BrokenFile, match=r"lying\.pt: tensor 'w'"):
        read_tensors(path)


def test_an_expanded_tensor_beyond_reason_is_broken(tmp_path):
    path = saved(tmp_path, {"w": torch.ones(1).expand(1 << 40)})
    with pytest.raises(BrokenFile, match="elements are read from 1"):
        read_tensors(path)


def test_quantised_and_sparse_tensors_are_refused_by_name(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.quantize_per_tensor(torch.ones(3), 0.1, 0, torch.qint8)
    with pytest.raises(Unsupported, match=r"'q': quantised"):
        read_tensors(saved(tmp_path, {"q": quantised}))
    with pytest.raises(Unsupported, match=r"'s': .*sparse"):
        read_tensors(saved(tmp_path, {"s": torch.eye(2).to_sparse()}))
    # Beside the weights they do not matter.
    content = {"state_dict": {"w": torch.ones(1)}, "extra": quantised}
    assert list(read_tensors(saved(tmp_path, content)).tensors) == ["w"]


# Files that are something else


def test_files_that_are_no_checkpoint_say_what_they_are(tmp_path):
    path = tmp_path / "x.pt"
    cases = [
        (b"", BrokenFile, "empty"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", BrokenFile, "LFS"),
        (b"<!DOCTYPE html><html></html>", BrokenFile, "web page"),
        (gzip.compress(b"x" * 100), Unsupported, "gzip"),
        (b"\x89HDF\r\n\x1a\n" + bytes(100), Unsupported, "HDF5"),
        (b"\xff\xd8\xff\xe0 a photo" * 9, BrokenFile, "neither safetensors nor"),
        (bytes(1000), BrokenFile, "neither safetensors nor"),
        (pickle.dumps([1, 2, 3]), BrokenFile, "no tensors"),
        (pickle.dumps({"a": "b"}), BrokenFile, "no tensors; there is a"),
    ]
    for content, kind, message in cases:
        path.write_bytes(content)
        with pytest.raises(kind, match=message):
            read_tensors(path)
    with pytest.raises(UnknownModel, match="no file"):
        read_tensors(tmp_path / "absent.pt")
    with pytest.raises(UnknownModel, match="a folder"):
        read_tensors(tmp_path)


def test_the_tar_form_of_the_first_releases_is_refused(tmp_path):
    with tarfile.open(tmp_path / "old.pt", "w") as tar:
        for name in ("sys_info", "pickle", "tensors", "storages"):
            tar.addfile(tarfile.TarInfo(name), io.BytesIO())
    with pytest.raises(Unsupported, match="tar archive"):
        read_tensors(tmp_path / "old.pt")


# Files that would run code


def evil_calls():
    return {
        "os.system": Calls(os.system, "true"),
        "eval": Calls(eval, "1"),
        "exec": Calls(exec, "1"),
        "open": Calls(open, "/dev/null"),
        "popen": Calls(os.popen, "true"),
        "Popen": Calls(subprocess.Popen, ["true"]),
        "check_output": Calls(subprocess.check_output, ["true"]),
        "__import__": Calls(__import__, "os"),
        "import_module": Calls(importlib.import_module, "os"),
        "run_path": Calls(runpy.run_path, "x.py"),
        "hub": Calls(torch.hub.load, "a/b", "c"),
        "jit": Calls(torch.jit.load, "x.pt"),
        "load": Calls(torch.load, "x.pt"),
        "np.load": Calls(np.load, "x.npy"),
        "getattr": Calls(getattr, "x", "format"),
        "loads": Calls(pickle.loads, b"N."),
        "function": Calls(some_function),
        "nested": {"a": [Calls(some_function, Calls(os.getcwd))]},
        "mkdir": Calls(os.mkdir, "made-by-a-pickle"),
        "rmtree": Calls(importlib.import_module("shutil").rmtree, "absent"),
    }


@pytest.mark.parametrize("name", sorted(evil_calls()))
@pytest.mark.parametrize("form", ["zip", "legacy", "plain-0", "plain-4", "beside"])
def test_a_pickle_that_calls_functions_is_refused_and_not_run(tmp_path, name, form, monkeypatch):
    monkeypatch.delenv(MARKER, raising=False)
    evil = evil_calls()[name]
    path = tmp_path / "evil.pt"
    if form == "zip":
        saved(tmp_path, {"w": torch.ones(2), "x": evil}, "evil.pt")
    elif form == "beside":
        content = {"state_dict": {"w": torch.ones(2)}, "hyper_parameters": {"x": evil}}
        saved(tmp_path, content, "evil.pt")
    elif form == "legacy":
        saved(tmp_path, {"w": torch.ones(2), "x": evil}, "evil.pt", **LEGACY)
    else:
        path.write_bytes(pickle.dumps(evil, protocol=int(form[-1])))
    with pytest.raises(UnsafeFile, match=r"evil\.pt.*nothing was executed"):
        read_tensors(path)
    assert MARKER not in os.environ
    assert not (tmp_path / "made-by-a-pickle").exists()


@pytest.mark.parametrize(
    ("pickled", "callable_"),
    [
        pytest.param(b"cos\nsystem\n(S'true'\ntR.", "os.system", id="protocol 0"),
        pytest.param(b"(S'true'\nios\nsystem\n.", "os.system", id="INST"),
        pytest.param(b"(cos\nsystem\nS'true'\no.", "os.system", id="OBJ"),
        pytest.param(b"\x80\x02cposix\nsystem\n.", "posix.system", id="only named"),
        pytest.param(b"\x80\x02cnt\nsystem\n.", "nt.system", id="Windows"),
        pytest.param(b"\x80\x02c__builtin__\neval\n.", "builtins.eval", id="Python 2"),
        pytest.param(
            b"\x80\x04\x8c\x05torch\x8c\x17serialization.os.system\x93.", "os.system", id="dots"
        ),
        pytest.param(
            b"\x80\x04\x8c\x08builtins\x8c\x0eprint.__self__\x93.", "__self__", id="dunder"
        ),
        pytest.param(
            b"\x80\x04\x8c\x02os\x94\x8c\x06system\x94h\x00h\x01\x93.", "os.system", id="memo"
        ),
        pytest.param(b"\x80\x02\x82\x01.", "extension", id="EXT1"),
        pytest.param(b"\x80\x02\x83\x01\x00.", "extension", id="EXT2"),
        pytest.param(b"\x80\x02\x84\x01\x00\x00\x00.", "extension", id="EXT4"),
        pytest.param(b"\x80\x02cmypackage\nrun\n)R.", "mypackage.run", id="unknown function"),
        pytest.param(b"\x80\x02cmypackage\nThing\n)R)R.", "an object of", id="object called"),
        pytest.param(
            b"\x80\x02cbuiltins\ngetattr\ncmypackage\nThing\nX\x03\x00\x00\x00run\x86R)R.",
            "mypackage.Thing.run",
            id="attribute called",
        ),
        pytest.param(
            b"\x80\x02cbuiltins\ngetattr\ncmypackage\nThing\nX\x09\x00\x00\x00__class__\x86R.",
            "__class__",
            id="attribute of dunder",
        ),
    ],
)
def test_tricks_of_pickles_are_refused_by_name(tmp_path, pickled, callable_):
    path = tmp_path / "trick.pt"
    path.write_bytes(pickled)
    with pytest.raises(UnsafeFile, match=rf"trick\.pt.*{callable_}"):
        read_tensors(path)


def test_objects_with_setstate_and_reduce_of_unknown_classes_do_nothing(tmp_path):
    # BUILD on an object and NEWOBJ of a class nobody has: inert, so the weights are read.
    path = tmp_path / "x.pt"
    pickled = saved(tmp_path, {"w": torch.ones(2), "x": Options(a=1)})
    content = pickled.read_bytes()
    path.write_bytes(content)
    assert list(read_tensors(path).tensors) == ["w"]


@pytest.mark.parametrize(
    "pickled",
    [
        pytest.param(b"\x80\x04\x8e" + b"\xff" * 8 + b".", id="bytes"),
        pytest.param(b"\x80\x04\x8d" + b"\xff" * 7 + b"\x7f.", id="text"),
        pytest.param(b"\x80\x02\x8b\xff\xff\xff\x7f.", id="integer"),
        pytest.param(b"\x80\x02N\x72\xff\xff\xff\xff" * 3 + b"\x6a\xff\xff\xff\x7f.", id="memo"),
        pytest.param(b"\x80\x02cbuiltins\nbytes\nJ\xff\xff\xff\x7f\x85R.", id="bytes of a number"),
        pytest.param(b"\x80\x02(" + b"]" * 1000, id="no end"),
        pytest.param(b"\x80\x02}" + b")" + b"\x85" * 100_000 + b"Ns.", id="deep key"),
        pytest.param(
            b"\x80\x02]q\x00(" + b"N" * 200_000 + b"e"
            b"0(" + b"cbuiltins\nlist\nh\x00\x85R" * 5000 + b"l.",
            id="copies",
        ),
        pytest.param(b"\x80\x02" + b"\x93.", id="empty stack"),
        pytest.param(b"\x80\x02(.", id="mark"),
        pytest.param(b"\x80\x02NNb.", id="state of nothing"),
        pytest.param(b"\x80\x02K\x01)R.", id="call of a number"),
        pytest.param(b"\x80\x07N.", id="protocol"),
        pytest.param(b"\x80\x05\x97.", id="buffer"),
        pytest.param(b"\x80\x02NQ.", id="persistent"),
        pytest.param(b"\x80\x02}]Ns.", id="list as key"),
    ],
)
def test_malformed_and_greedy_pickles_are_broken_files(tmp_path, pickled):
    path = tmp_path / "greedy.pt"
    path.write_bytes(pickled)
    with pytest.raises(BrokenFile, match=r"greedy\.pt"):
        read_tensors(path)


def test_a_pickle_with_too_many_operations_is_broken(tmp_path, monkeypatch):
    monkeypatch.setattr("lascaux.weights.pickles.MAX_OPERATIONS", 1000)
    (tmp_path / "long.pt").write_bytes(b"\x80\x02" + b"N0" * 600 + b"N.")
    with pytest.raises(BrokenFile, match="more than 1,000 opcodes"):
        read_tensors(tmp_path / "long.pt")


def test_a_dictionary_that_holds_itself_is_no_endless_loop(tmp_path):
    looped = {"model": {}, "w": "text"}
    looped["model"]["model"] = looped
    (tmp_path / "loop.pt").write_bytes(pickle.dumps(looped))
    with pytest.raises(BrokenFile, match="no tensors"):
        read_tensors(tmp_path / "loop.pt")


# Truncated and corrupt


def make(form, tmp_path):
    tensors = {
        "a": torch.arange(12.0).reshape(3, 4),
        "b": torch.arange(5),
        "c": torch.ones(3).half(),
    }
    path = tmp_path / f"{form}.pt"
    if form == "safetensors":
        save_file(tensors, path)
    elif form == "torchscript":
        torch.manual_seed(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.jit.trace(nn.Linear(3, 2), torch.ones(1, 3)).save(path)
    elif form == "pickle":
        path.write_bytes(pickle.dumps({k: v.numpy() for k, v in tensors.items()}))
    else:
        saved(tmp_path, tensors, path.name, **(LEGACY if form == "legacy" else {}))
    return path


FORMS = ["safetensors", "zip", "legacy", "torchscript", "pickle"]


@pytest.mark.parametrize("form", FORMS)
def test_a_file_cut_anywhere_is_broken(tmp_path, form):
    whole = make(form, tmp_path).read_bytes()
    path = tmp_path / "cut.pt"
    points = {1, 2, 4, 8, 9, 31, len(whole) - 1, len(whole) - 2, len(whole) // 2}
    points |= set(random.Random(3).sample(range(1, len(whole)), 40))
    for point in sorted(points):
        path.write_bytes(whole[:point])
        with pytest.raises(BrokenFile, match=r"cut\.pt"):
            read_tensors(path)


@pytest.mark.parametrize("form", FORMS)
def test_corrupt_bytes_give_an_error_of_ours_or_tensors(tmp_path, form):
    whole = make(form, tmp_path).read_bytes()
    path = tmp_path / "corrupt.pt"
    draw = random.Random(11)
    refused = intact = 0
    for _ in range(120):
        content = bytearray(whole)
        for _ in range(draw.choice((1, 1, 3, 20))):
            content[draw.randrange(len(content))] = draw.randrange(256)
        path.write_bytes(content)
        try:
            read = read_tensors(path)
        except LascauxError as error:
            refused += "corrupt.pt" in str(error)
        else:
            assert all(tensor.clone().shape == tensor.shape for tensor in read.tensors.values())
            intact += 1
    assert refused + intact == 120
    assert refused > 20


def test_the_hash_of_a_file_is_its_sha256(tmp_path):
    (tmp_path / "x").write_bytes(b"abc")
    assert sha256_of(tmp_path / "x").startswith("ba7816bf8f01cfea414140de5dae2223")
