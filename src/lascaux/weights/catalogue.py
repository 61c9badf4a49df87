"""The models known by name: where their files are, what they must hash to, under which licence.

Nothing here imports torch, so that the command line can list models at once. Hashes are those their
publishers give; where a publisher gives none it says None, and none is made up.
"""

import difflib
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files as resources
from pathlib import Path

from lascaux.errors import UnknownModel


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """One file of a publisher.

    Attributes:
        url: where it is published; a page, where no address leads to the file itself.
        folder: the folder of the cache it is kept in, one for each publisher.
        sha256: 64 hexadecimal digits, or None where the publisher gives none.
        size: bytes, or None where that is not known.
        called: what it is kept as, where its address does not end in a name.
        by_hand: what a person does to get it, where the library cannot fetch it.
    """

    url: str
    folder: str
    sha256: str | None = None
    size: int | None = None
    called: str | None = None
    by_hand: str = ""

    @property
    def name(self) -> str:
        """The file's name."""
        return self.called or self.url.rstrip("/").rpartition("/")[2]


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A model known by name.

    Weights come from exactly one of `files`, `hub` and `embedded`.

    Attributes:
        name: as its publisher writes it.
        aliases: other names; case and punctuation never matter.
        model: the file of `lascaux.models` it belongs to.
        variant: its config's name among the variants of that model; None: the config is in the
            folder with the weights, and only that tells.
        key_map: the layout of its tensors' names, or None where the folder tells.
        part: the prefix of its keys, where the files hold larger models of which it is a part.
        files: the weights, and behind them what must lie beside them.
        hub: an id on the Hugging Face hub.
        embedded: the name of its folder within the package.
        tokenizer: vocabulary files that do not come with the weights.
        licence: SPDX identifier of the weights.
        source: who published it, with a page to read.
        notes: what a user should know.
    """

    name: str
    aliases: tuple[str, ...] = ()
    model: str = "clip"
    variant: str | None = None
    key_map: str | None = None
    part: str | None = None
    files: tuple[RemoteFile, ...] = ()
    hub: str | None = None
    embedded: str | None = None
    tokenizer: tuple[RemoteFile, ...] = ()
    licence: str
    source: str
    notes: str = ""

    @property
    def embedded_folder(self) -> Path | None:
        """The folder within the package, whether or not it is there."""
        return Path(str(resources("lascaux"))) / "ochre" / self.embedded if self.embedded else None

    @property
    def available(self) -> bool:
        """Whether an embedded model is in this installation; True of all others."""
        folder = self.embedded_folder
        return folder is None or (folder / "model.safetensors").is_file()


OPENAI_VOCABULARY = RemoteFile(
    url="https://raw.githubusercontent.com/openai/CLIP/main/clip/bpe_simple_vocab_16e6.txt.gz",
    folder="openai-clip",
    sha256="924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a",
)

# openai/CLIP, clip/clip.py: the folder in the address is the file's SHA-256.
_OPENAI_FILES = {
    "RN50": ("RN50.pt", "afeb0e10f9e5a86da6080e35cf09123aca3b358a0c3e3b6c78a7b63bc04b6762"),
    "RN101": ("RN101.pt", "8fa8567bab74a42d41c5915025a8e4538c3bdbe8804a470a72f30b0d94fab599"),
    "RN50x4": ("RN50x4.pt", "7e526bd135e493cef0776de27d5f42653e6b4c8bf9e0f653bb11773263205fdd"),
    "RN50x16": ("RN50x16.pt", "52378b407f34354e150460fe41077663dd5b39c54cd0bfd2b27167a4a06ec9aa"),
    "RN50x64": ("RN50x64.pt", "be1cfb55d75a9666199fb2206c106743da0f6468c9d327f3e0d0a543a9919d9c"),
    "ViT-B/32": ("ViT-B-32.pt", "40d365715913c9da98579312b702a82c18be219cc2a73407c4526f58eba950af"),
    "ViT-B/16": ("ViT-B-16.pt", "5806e77cd80f8b59890b7e101eabd078d9fb84e6937f9e85e4ecb61988df416f"),
    "ViT-L/14": ("ViT-L-14.pt", "b8cca3fd41ae0c99ba7e8951adf17d267cdb84cd88be6f7c2e0eca1737a03836"),
    "ViT-L/14@336px": (
        "ViT-L-14-336px.pt",
        "3035c92b350959924f9f00213499208652fc7ea050643e8b385c2dac08641f02",
    ),
}
_SAME_ON_HUB = {
    "ViT-B/32": "openai/clip-vit-base-patch32",
    "ViT-B/16": "openai/clip-vit-base-patch16",
    "ViT-L/14": "openai/clip-vit-large-patch14",
    "ViT-L/14@336px": "openai/clip-vit-large-patch14-336",
}


def _openai(name: str) -> Entry:
    file, sha256 = _OPENAI_FILES[name]
    plain = name.removesuffix("px")
    same = _SAME_ON_HUB.get(name)
    spellings = {f"{each}{end}" for each in (name, plain) for end in ("-quickgelu", "-openai")}
    return Entry(
        name=name,
        aliases=tuple(sorted({plain, *spellings, f"openai/{name}", f"CLIP-{name}"} - {name})),
        variant=name,
        key_map="openai" if name.startswith("ViT") else "openai-resnet",
        files=(
            RemoteFile(
                url=f"https://openaipublic.azureedge.net/clip/models/{sha256}/{file}",
                folder="openai-clip",
                sha256=sha256,
            ),
        ),
        tokenizer=(OPENAI_VOCABULARY,),
        licence="MIT",
        source="OpenAI, 2021 (https://github.com/openai/CLIP)",
        notes=f"The same weights are {same} on the hub." if same else "",
    )


def _hub(hub: str, variant: str, source: str, *, licence: str = "MIT", notes: str = "") -> Entry:
    return Entry(
        name=hub,
        aliases=(hub.partition("/")[2],),
        variant=variant,
        hub=hub,
        licence=licence,
        source=f"{source} (https://huggingface.co/{hub})",
        notes=notes,
    )


def _laion(name: str, variant: str) -> Entry:
    return _hub(f"laion/{name}", variant, "LAION, by OpenCLIP")


def _ochre(name: str, model: str, notes: str) -> Entry:
    return Entry(
        name=name,
        model=model,
        embedded=name,
        licence="MIT",
        source="Lascaux, trained by its own recipe on its emoji world",
        notes=notes,
    )


ENTRIES: tuple[Entry, ...] = (
    _ochre(
        "ochre-clip",
        "clip",
        "A small CLIP of a small world; works offline, in English and Chinese.",
    ),
    _ochre("ochre-judge", "judge", "Checks what was generated; never used to guide or select."),
    *map(_openai, _OPENAI_FILES),
    *(
        _hub(hub, name, "OpenAI, 2021", notes=f"The same weights as {name}.")
        for name, hub in _SAME_ON_HUB.items()
    ),
    Entry(
        name="openai-dvae",
        aliases=("dvae", "openai/DALL-E", "dall-e-dvae"),
        model="dvae",
        variant="openai-dvae",
        key_map="openai",
        files=tuple(
            RemoteFile(url=f"https://cdn.openai.com/dall-e/{half}.pkl", folder="openai-dall-e")
            for half in ("encoder", "decoder")
        ),
        licence="LicenseRef-OpenAI-Modified-MIT",
        source="OpenAI, 2021 (https://github.com/openai/DALL-E)",
        notes="Pictures as 32 x 32 of 8192 codes and back; the transformer was never published.",
    ),
    _laion("CLIP-ViT-B-32-laion2B-s34B-b79K", "openclip-ViT-B-32"),
    _laion("CLIP-ViT-B-16-laion2B-s34B-b88K", "openclip-ViT-B-16"),
    _laion("CLIP-ViT-L-14-laion2B-s32B-b82K", "openclip-ViT-L-14"),
    _laion("CLIP-ViT-H-14-laion2B-s32B-b79K", "openclip-ViT-H-14"),
    _laion("CLIP-ViT-g-14-laion2B-s12B-b42K", "openclip-ViT-g-14"),
    _laion("CLIP-ViT-g-14-laion2B-s34B-b88K", "openclip-ViT-g-14"),
    _laion("CLIP-ViT-bigG-14-laion2B-39B-b160k", "openclip-ViT-bigG-14"),
    _laion("CLIP-ViT-B-32-DataComp.XL-s13B-b90K", "openclip-ViT-B-32"),
    _laion("CLIP-ViT-B-16-DataComp.XL-s13B-b90K", "openclip-ViT-B-16"),
    _laion("CLIP-ViT-L-14-DataComp.XL-s13B-b90K", "openclip-ViT-L-14"),
)


def find(name: str) -> Entry:
    """The entry of a name or alias, whatever its case and punctuation.

    Raises:
        UnknownModel: there is none; the message names the nearest.
    """
    found = _spellings().get(_plain(name))
    if found is not None:
        return found
    raise UnknownModel(
        f"no model named {name!r}; nearest: {', '.join(nearest(name))}; `lascaux models` lists "
        "all, and a folder, a file or a hub id (owner/name) does as well"
    )


def nearest(name: str, count: int = 3) -> list[str]:
    """The names that a misspelt one may have meant, nearest first."""
    spellings = _spellings()
    close = difflib.get_close_matches(_plain(name), spellings, n=20, cutoff=0.0)
    names = list(dict.fromkeys(spellings[each].name for each in close))
    return names[:count]


def _plain(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


@cache
def _spellings() -> dict[str, Entry]:
    found: dict[str, Entry] = {}
    for entry in ENTRIES:
        for spelling in (entry.name, *entry.aliases):
            if found.setdefault(_plain(spelling), entry) is not entry:
                raise ValueError(f"two models are called {spelling!r}")
    return found
