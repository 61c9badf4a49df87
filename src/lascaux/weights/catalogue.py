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


_HEIBOX = "https://heibox.uni-heidelberg.de"
_TAMING = "CompVis, 2020 (https://github.com/CompVis/taming-transformers)"
_LATENT = "CompVis, 2021 (https://github.com/CompVis/latent-diffusion)"


def _heibox(link: str, called: str) -> RemoteFile:
    return RemoteFile(url=f"{_HEIBOX}/f/{link}/?dl=1", folder="taming", called=called)


def _offered(url: str, called: str, how: str) -> RemoteFile:
    """A file behind a page, or inside an archive."""
    return RemoteFile(url=url, folder="taming", called=called, by_hand=how.format(url=url))


_LAST = "open {url} and download checkpoints/last.ckpt of what it offers"
_UNPACK = "fetch {url} and unpack it; the file is model.ckpt in there"


def _vqgan(
    name: str,
    variant: str,
    *files: RemoteFile,
    source: str = _TAMING,
    part: str | None = None,
    licence: str = "MIT",
    notes: str = "",
    aliases: tuple[str, ...] = (),
) -> Entry:
    return Entry(
        name=name,
        aliases=aliases,
        model="vqgan",
        variant=variant,
        part=part,
        files=files,
        licence=licence,
        source=source,
        notes=notes,
    )


def _stages(name: str, page: str, first: str, condition: str | None, of: str) -> tuple[Entry, ...]:
    """The VQGANs inside one of CompVis's transformers."""
    file = _offered(page, f"{name}_transformer.ckpt", _LAST)
    inside = f"Inside the transformer's checkpoint: {of}."
    entries = [
        _vqgan(f"{name}_first_stage", first, file, part="first_stage_model", notes=inside),
    ]
    if condition is not None:
        entries.append(
            _vqgan(f"{name}_cond_stage", condition, file, part="cond_stage_model", notes=inside)
        )
    return tuple(entries)


def _transformer(name: str, page: str, notes: str, *aliases: str) -> Entry:
    """One of CompVis's transformers, with the VQGANs inside."""
    return Entry(
        name=name,
        aliases=(f"{name}_transformer", *aliases),
        model="taming_transformer",
        variant=name,
        files=(_offered(page, f"{name}_transformer.ckpt", _LAST),),
        licence="MIT",
        source=_TAMING,
        notes=notes,
    )


def _scenes(name: str, variant: str | None, file: RemoteFile, notes: str) -> Entry:
    return Entry(
        name=name,
        model="taming_transformer",
        variant=variant,
        files=(file,),
        licence="MIT",
        source="CompVis, 2021 (https://github.com/CompVis/taming-transformers)",
        notes=notes,
    )


_DRIVE = "open {url} in a browser and download the file"
_TAMING_TRANSFORMERS = (
    _transformer(
        "sflckr",
        f"{_HEIBOX}/d/73487ab6e5314cb5adba",
        "2020-11-09T13-31-51_sflckr: landscapes from maps of 182 classes",
    ),
    _transformer(
        "drin",
        "https://k00.fr/39jcugc5",
        "2020-11-20T12-54-32_drin: ImageNet from depth maps",
    ),
    _transformer(
        "faceshq",
        "https://k00.fr/qqfl2do8",
        "2020-11-13T21-41-45_faceshq: faces from coordinates",
    ),
    _transformer("celebahq", "https://k00.fr/2xkmielf", "2021-04-23T18-11-19_celebahq: faces"),
    _transformer("ffhq", "https://k00.fr/yndvfu95", "2021-04-23T18-19-01_ffhq: faces"),
    _transformer(
        "cin",
        "https://k00.fr/s511rwcv",
        "2021-04-03T19-39-50_cin: ImageNet by class; its sizes were not checked against the file",
    ),
    _transformer(
        "ade20k",
        "https://k00.fr/ot46cksa",
        "2020-11-20T21-45-44_ade20k: scenes from maps of 151 classes",
    ),
    _transformer(
        "coco",
        "https://k00.fr/2zz6i2ce",
        "2021-01-20T16-04-20_coco: photographs from maps of 183 classes",
    ),
    _scenes(
        "scene-coco-30",
        "scene-coco",
        _heibox("0d0b2594e9074c7e9a33", "scene_coco_30_epochs.ckpt"),
        "COCO from boxes of objects, after 30 epochs",
    ),
    _scenes(
        "scene-coco-60",
        "scene-coco",
        _offered(
            "https://drive.google.com/file/d/1bInd49g2YulTJBjU32Awyt5qnzxxG5U9/",
            "scene_coco_60_epochs.ckpt",
            _DRIVE,
        ),
        "COCO from boxes of objects, after 60 epochs",
    ),
    _scenes(
        "scene-openimages",
        "scene-openimages",
        _offered(
            "https://drive.google.com/file/d/1FEK-Z7hyWJBvFWQF50pzSK9y1W_CJEig/view",
            "scene_openimages.ckpt",
            _DRIVE,
        ),
        "Open Images from boxes of objects",
    ),
    _scenes(
        "scene-openimages-distilled",
        None,
        _offered(
            "https://drive.google.com/file/d/1xf89g0mc78J3d8Bx5YhbK4tNRNlOoYaO/view",
            "scene_openimages_distilled.ckpt",
            _DRIVE,
        ),
        "A smaller one that learned from scene-openimages. Its sizes are not published: keep the "
        "yaml that comes with it beside the file.",
    ),
)
_VQGANS = (
    _vqgan(
        "vqgan_imagenet_f16_1024",
        "imagenet-f16-1024",
        _heibox("140747ba53464f49b476", "vqgan_imagenet_f16_1024.ckpt"),
        notes=f"All files: {_HEIBOX}/d/8088892a516d4e3baf92",
    ),
    _vqgan(
        "vqgan_imagenet_f16_16384",
        "imagenet-f16-16384",
        _heibox("867b05fc8c4841768640", "vqgan_imagenet_f16_16384.ckpt"),
        notes=f"All files: {_HEIBOX}/d/a7530b09fed84f80a887",
    ),
    _vqgan(
        "vqgan_gumbel_f8",
        "gumbel-f8",
        _heibox("34a747d5765840b5a99d", "vqgan_gumbel_f8.ckpt"),
        aliases=("vqgan_gumbel_f8_8192", "vqgan_openimages_f8_8192"),
        notes=f"All files: {_HEIBOX}/d/2e5662443a6b4307b470",
    ),
    _vqgan(
        "vq-f8",
        "vq-f8",
        _offered("https://ommer-lab.com/files/latent-diffusion/vq-f8.zip", "vq-f8.ckpt", _UNPACK),
        source=_LATENT,
        aliases=("vqgan_openimages_f8_16384",),
    ),
    _vqgan(
        "vq-f8-n256",
        "vq-f8-n256",
        _offered(
            "https://ommer-lab.com/files/latent-diffusion/vq-f8-n256.zip",
            "vq-f8-n256.ckpt",
            _UNPACK,
        ),
        source=_LATENT,
        aliases=("vqgan_openimages_f8_256",),
    ),
    _vqgan(
        "vqgan_faceshq",
        "faceshq",
        _offered("https://k00.fr/uxy5usa9", "faceshq_vqgan.ckpt", _LAST),
        notes="2020-11-09T13-33-36_faceshq_vqgan",
    ),
    _vqgan(
        "vqgan_imagenet_depth",
        "depth",
        _offered("https://k00.fr/55rlxs6i", "imagenetdepth_vqgan.ckpt", _LAST),
        notes="2020-11-03T15-34-24_imagenetdepth_vqgan; depth maps in one channel",
    ),
    *_stages(
        *("sflckr", f"{_HEIBOX}/d/73487ab6e5314cb5adba", "imagenet-f16-1024", "sflckr-labels"),
        "landscapes and their 182 classes",
    ),
    *_stages(
        *("drin", "https://k00.fr/39jcugc5", "imagenet-f16-1024", "depth"),
        "ImageNet and its depth maps",
    ),
    *_stages("faceshq", "https://k00.fr/qqfl2do8", "faceshq", None, "faces"),
    *_stages("celebahq", "https://k00.fr/2xkmielf", "imagenet-f16-1024", None, "faces"),
    *_stages("ffhq", "https://k00.fr/yndvfu95", "imagenet-f16-1024", None, "faces"),
    *_stages(
        *("cin", "https://k00.fr/s511rwcv", "imagenet-f16-16384", None),
        "ImageNet; its sizes were not checked against the file",
    ),
    *_stages(
        *("coco", "https://k00.fr/2zz6i2ce", "coco-8k", "coco-labels"),
        "COCO and its 183 classes",
    ),
    *_stages(
        *("ade20k", "https://k00.fr/ot46cksa", "ade20k", "ade20k-labels"),
        "scenes and their 151 classes",
    ),
    _vqgan(
        "vqgan_coco_f16_8192",
        "coco-8k",
        _heibox("78dea9589974474c97c1", "vqgan_coco_f16_8192.ckpt"),
        notes="First stage of the scene transformers.",
    ),
    _vqgan(
        "vqgan_coco_openimages_f16_8192",
        "coco-8k",
        _heibox("461d9a9f4fcf48ab84f4", "vqgan_coco_openimages_f16_8192.ckpt"),
        notes="First stage of the scene transformers.",
    ),
    _vqgan(
        "clip-gen-vqgan-coco",
        "clip-gen-coco",
        RemoteFile(
            url="https://github.com/HFAiLab/clip-gen/releases/download/v0.1.0/vqgan_coco.pt",
            folder="clip-gen",
        ),
        licence="not stated",
        source="HFAiLab, 2022 (https://github.com/HFAiLab/clip-gen)",
    ),
)
_CLIP_GEN = Entry(
    name="clip-gen-coco",
    aliases=("gpt_coco", "clip-gen"),
    model="clip_gen",
    variant="coco",
    files=(
        RemoteFile(
            url="https://github.com/HFAiLab/clip-gen/releases/download/v0.1.0/gpt_coco.pt",
            folder="clip-gen",
        ),
    ),
    licence="not stated",
    source="HFAiLab, 2022 (https://github.com/HFAiLab/clip-gen)",
    notes="Writes codes of clip-gen-vqgan-coco from embeddings of ViT-B/32.",
)
_LPIPS = Entry(
    name="lpips-vgg16",
    model="lpips",
    variant="vgg16",
    files=(
        # The name has the first eight digits of the hash; the rest is that of the file so named.
        RemoteFile(
            url="https://download.pytorch.org/models/vgg16-397923af.pth",
            folder="lpips",
            sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
        ),
        # taming-transformers' copy has the same MD5, d507d7349b931f0638a25a48a722f98a.
        RemoteFile(
            url="https://raw.githubusercontent.com/richzhang/PerceptualSimilarity/master/lpips/"
            "weights/v0.1/vgg.pth",
            folder="lpips",
            sha256="a78928a0af1e5f0fcb1f3b9e8f8c3a2a5a3de244d830ad5c1feddc79b8432868",
        ),
    ),
    licence="CC-BY-4.0 AND BSD-2-Clause",
    source="VGG, 2014, and Zhang et al., 2018 (https://github.com/richzhang/PerceptualSimilarity)",
    notes="Both files together are one model; for training, and as a measure.",
)

_INCEPTIONS = (
    Entry(
        name="inception-fid",
        aliases=("pt_inception-2015-12-05", "fid-inception"),
        model="inception",
        variant="inception-fid",
        files=(
            # The name has the first eight digits; the rest is that of many public records of
            # the file so named, all alike.
            RemoteFile(
                url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
                "pt_inception-2015-12-05-6726825d.pth",
                folder="inception",
                sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
                size=95_628_359,
            ),
        ),
        licence="Apache-2.0",
        source="Google, 2015, ported by Maximilian Seitzer (https://github.com/mseitzer/pytorch-fid)",
        notes="A measure: FID compares its features; 1008 classes of TensorFlow's own order.",
    ),
    Entry(
        name="inception-imagenet",
        aliases=("inception_v3_google", "inception_v3"),
        model="inception",
        variant="inception-imagenet",
        files=(
            RemoteFile(
                url="https://download.pytorch.org/models/inception_v3_google-0cc3c7bd.pth",
                folder="inception",
            ),
        ),
        licence="BSD-3-Clause",
        source="Google, 2015, ported by torchvision (https://github.com/pytorch/vision)",
        notes="Other weights and pools than FID's: distances of its features are no FID.",
    ),
)

_STYLED = "Li De Hu, 2024 (https://github.com/hamigualisingl/Styled_vae_vq)"
_FIRST_VERSION = (
    "Of the first version, whose model file was never published: it is recognised and refused."
)


def _styled(name: str, variant: str, url: str, how: str) -> Entry:
    file = RemoteFile(url=url, folder="styled-vq", called=f"{name}.pt", by_hand=how.format(url=url))
    return Entry(
        name=name,
        model="styled_vq",
        variant=variant,
        files=(file,),
        licence="not stated",
        source=_STYLED,
        notes=_FIRST_VERSION,
    )


_STYLED_VQS = (
    _styled(
        "styled-vq-v1-768-128",
        "styled-vq-768-128",
        "https://drive.google.com/file/d/1X6q2eb-3pVu5GrERi4Pypc4xQKDclFKv/view",
        "open {url} in a browser and download the file",
    ),
    _styled(
        "styled-vq-v1-768-64",
        "styled-vq-768-64",
        "https://pan.baidu.com/s/152D-JIHdavImpTLElc0XuQ",
        "open {url} in a browser, give the code qimi, and download the file",
    ),
)


def _titok(name: str, short: str, notes: str = "") -> Entry:
    hub = f"yucornetto/tokenizer_titok_{name}_imagenet"
    return Entry(
        name=hub,
        aliases=(f"tokenizer_titok_{name}_imagenet", short),
        model="titok",
        variant=short,
        hub=hub,
        licence="Apache-2.0",
        source=f"ByteDance, 2024 (https://huggingface.co/{hub})",
        notes=notes,
    )


_CONTINUOUS = "A variational autoencoder: its tokens are continuous, and it has no codes."
_TITOKS = (
    *(_titok(name, f"titok-{name}") for name in ("l32", "b64", "s128")),
    *(
        _titok(f"{name}_vq8k", f"titok-{name}-vq8k", "Decodes to pixels by itself.")
        for name in ("bl64", "bl128", "sl256")
    ),
    *(
        _titok(f"{name}_vae_c16", f"titok-{name}-vae-c16", _CONTINUOUS)
        for name in ("ll32", "bl64", "bl128")
    ),
    Entry(
        name="tokenizer_titok_l32.bin",
        model="titok",
        variant="titok-l32",
        files=(
            RemoteFile(
                url="https://huggingface.co/fun-research/TiTok/resolve/main/tokenizer_titok_l32.bin",
                folder="titok",
            ),
        ),
        licence="Apache-2.0",
        source="ByteDance, 2024 (https://huggingface.co/fun-research/TiTok)",
        notes="The older form of titok-l32: a single file.",
    ),
)

_COLLECTED = "the collection of R. van Volt, 2021 (https://github.com/robvanvolt/DALLE-models)"


def _dalle(
    name: str,
    url: str,
    *aliases: str,
    by_hand: str = "",
    tokenizer: RemoteFile = OPENAI_VOCABULARY,
    source: str = _COLLECTED,
    notes: str = "With CLIP's text tokeniser.",
) -> Entry:
    file = RemoteFile(
        url=url, folder="dalle-pytorch", called=f"{name}.pt", by_hand=by_hand.format(url=url)
    )
    return Entry(
        name=name,
        aliases=aliases,
        model="dalle",
        key_map="dalle-pytorch",
        files=(file,),
        tokenizer=(tokenizer,),
        licence="not stated",
        source=source,
        notes=notes,
    )


_BROWSER = "open {url} in a browser and download the file"
_DALLES = (
    _dalle(
        "coco_512_16_16D_16H_80TSL",
        "https://wandb.ai/dalle-pytorch-replicate/COCO512_16_16D_16H_80TSL",
        "coco512_16_16D_80TSL",
        by_hand="open {url}, choose Artifacts, trained-dalle, Files, and download the .pt file",
        tokenizer=RemoteFile(
            url="https://data.megengine.org.cn/research/multimodality/dalle_new_variety.bpe",
            folder="dalle-pytorch",
        ),
        source="the group dalle-pytorch-replicate, 2021 "
        "(https://github.com/lucidrains/DALLE-pytorch/discussions)",
        notes="COCO's captions, pictures of 256 pixels. MegEngine's port names other layers for "
        "the same weights and turns positions otherwise; what the file says counts.",
    ),
    _dalle(
        "16L_64HD_8H_512I_128T_cc12m_cc3m_3E",
        "https://www.dropbox.com/s/8mmgnromwoilpfm/16L_64HD_8H_512I_128T_cc12m_cc3m_3E.pt?dl=1",
    ),
    _dalle(
        "8L_64HD_8H_756I_128T_cc12mcc3m_2E",
        "https://api.wandb.ai/files/robvanvolt/dalle_train_transformer/3bwiteds/dalle.pt",
    ),
    _dalle(
        "64L_64HD_8H_756I_128T_cc12m_1E",
        "https://mega.nz/file/5PhBUCSD#kVzo_VFJde1kxPn3-cPpu2cN5dZwaBxFEO_o4hm9RSM",
        by_hand=_BROWSER,
        notes="Reversible blocks; with CLIP's text tokeniser.",
    ),
    _dalle(
        "16L_64HD_16H_756I_128T_cc12m_1E",
        "https://mega.nz/file/kShC2QjR#5BEPvrouy89XgRFo130hYdSLZu_hyz9s7oWUnhQsXb4",
        by_hand=_BROWSER,
        notes="Every other layer is sparse: it is recognised and refused.",
    ),
)

ENTRIES: tuple[Entry, ...] = (
    _ochre(
        "ochre-clip",
        "clip",
        "A small CLIP of a small world; works offline, in English and Chinese.",
    ),
    _ochre("ochre-vq", "vqgan", "64 pixels as 64 of 4096 codes; works offline, on emoji scenes."),
    _ochre(
        "ochre-imagine", "clip_gen", "Scenes of emoji from sentences; learnt without a sentence."
    ),
    _ochre(
        "ochre-map", "taming_transformer", "Scenes of emoji after maps of what each pixel shows."
    ),
    _ochre("ochre-dalle", "dalle", "Scenes of emoji from sentences, in English and Chinese."),
    _ochre(
        "ochre-styled",
        "styled_vq",
        "64 pixels as 36 of 1024 codes, from general to particular; on emoji scenes.",
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
    *_VQGANS,
    *_TAMING_TRANSFORMERS,
    _CLIP_GEN,
    *_STYLED_VQS,
    *_TITOKS,
    *_DALLES,
    _LPIPS,
    *_INCEPTIONS,
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
