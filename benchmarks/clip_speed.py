"""CLIP beside its peers, as one table of ratios.

    python benchmarks/clip_speed.py --peer ~/checkouts/CLIP

Peers are `transformers`, if it is installed, and the checkout of github.com/openai/CLIP that --peer
names (unmodified; its import of torchvision is answered by a stand-in, in this process only). Where
a peer is missing its rows are. Every pair computes with the same random weights of ViT-B/32, one
thread, in rounds that take turns; a ratio is the peer's processor time over ours in the same round,
given as the median of the rounds and their range. Differences are of unit vectors. With no other
work on the machine it takes about twenty minutes; --only head,image,start,folder chooses.
"""

import argparse
import importlib.util
import os
import statistics
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from stand_in import stand_in_for_torchvision
from torch import Tensor

from lascaux.models.clip import VARIANTS, Clip
from lascaux.nn.linear import onednn_gain
from lascaux.tasks.features import image_features, stream_features
from lascaux.tasks.prototypes import prototypes
from lascaux.tasks.templates import class_list, read_templates
from lascaux.text.clip_bpe import ClipTokenizer
from lascaux.weights.keymap import translate
from lascaux.weights.load import build
from lascaux.weights.maps.clip import recognise

ROOT = Path(__file__).resolve().parents[1]
VOCABULARY = ROOT / "build" / "vocabulary" / "bpe_simple_vocab_16e6.txt.gz"
PARTS = ("head", "image", "start", "folder")
Row = tuple[str, str, str, str]

torch.set_grad_enabled(False)
torch.set_num_threads(1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peer", type=Path, help="a checkout of github.com/openai/CLIP")
    parser.add_argument("--only", default=",".join(PARTS), help="parts, with commas between")
    parser.add_argument("--rounds", type=int, default=7, help="of images; heads take 3 at most")
    asked = parser.parse_args()
    parts = asked.only.split(",")
    peers: dict[str, Any] = {}
    if asked.peer:
        peers["OpenAI's code"] = OpenAi(asked.peer)
    if importlib.util.find_spec("transformers"):
        peers["transformers"] = Transformers()
    rows: list[Row] = []
    for name, peer in peers.items():
        if "head" in parts:
            rows += head(name, peer, min(3, asked.rounds))
        if "image" in parts:
            rows += images(name, peer, asked.rounds)
        if "start" in parts:
            rows += start(name, peer, min(5, asked.rounds))
    if "folder" in parts:
        rows += folder()
    print(f"\n{processor()}; one thread; torch {torch.__version__}")
    print(", ".join(f"{name} {peer.version}" for name, peer in peers.items()) or "no peers")
    print(f"{products()}\n")
    print("| what | beside | times less processor time | difference |\n|---|---|---|---|")
    for row in rows:
        print("| " + " | ".join(row) + " |")


class OpenAi:
    """github.com/openai/CLIP from a checkout."""

    def __init__(self, checkout: Path) -> None:
        sys.path.insert(0, str(checkout))
        with stand_in_for_torchvision():
            import clip
            import clip.model

        self.clip, self.checkout = clip, checkout
        torch.manual_seed(0)
        self.model = clip.model.CLIP(512, 224, 12, 768, 32, 77, 49408, 512, 8, 12).float().eval()
        commit = subprocess.run(
            ["git", "-C", str(checkout), "rev-parse", "--short", "HEAD"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        self.version = commit.stdout.strip() or "checkout"

    def encode_image(self, x: Tensor) -> Tensor:
        return self.model.encode_image(x)

    def heads(self) -> dict[str, Callable[[str], Tensor]]:
        return {"": lambda name: self.model.encode_text(self.clip.tokenize(prompts(name)))}

    def save(self, folder: Path) -> Path:
        """The model as OpenAI publishes it: a TorchScript archive."""
        path = folder / "ViT-B-32.pt"
        example = torch.zeros(1, 3, 224, 224), torch.zeros(1, 77, dtype=torch.int64)
        torch.jit.trace(self.model, example, check_trace=False).save(str(path))
        return path

    def first_embedding(self) -> str:
        return f"""
            import sys; sys.path[:0] = [{str(self.checkout)!r}, {str(ROOT / "benchmarks")!r}]
            import torch; torch.set_num_threads(1); torch.set_grad_enabled(False)
            from stand_in import stand_in_for_torchvision
            with stand_in_for_torchvision(): import clip
            from PIL import Image
            model, _ = clip.load(WEIGHTS, device="cpu", jit=False)
            x = torch.zeros(1, 3, 224, 224)
            Image.open(PICTURE).convert("RGB").resize((224, 224))
            model.encode_image(x)
        """


class Transformers:
    """transformers' CLIPModel."""

    def __init__(self) -> None:
        import transformers

        self.version = transformers.__version__
        torch.manual_seed(0)
        text = {"bos_token_id": 49406, "eos_token_id": 49407}
        config = transformers.CLIPConfig(text_config=text, projection_dim=512)
        self.model = transformers.CLIPModel(config).eval()

    def encode_image(self, x: Tensor) -> Tensor:
        return tensor_of(self.model.get_image_features(pixel_values=x))

    def heads(self) -> dict[str, Callable[[str], Tensor]]:
        tokenizer = own_tokenizer()

        def encode(name: str, *, longest: bool) -> Tensor:
            ids = tokenizer(prompts(name), context_length=77)
            if longest:
                ids = ids[:, : int(ids.argmax(dim=1).max()) + 1]
            return tensor_of(self.model.get_text_features(input_ids=ids))

        return {
            ", padded to 77": lambda name: encode(name, longest=False),
            ", padded to the longest": lambda name: encode(name, longest=True),
        }

    def save(self, folder: Path) -> Path:
        path = folder / "hub"
        self.model.save_pretrained(path)
        return path

    def first_embedding(self) -> str:
        return """
            import torch; torch.set_num_threads(1); torch.set_grad_enabled(False)
            from transformers import CLIPModel
            from PIL import Image
            model = CLIPModel.from_pretrained(WEIGHTS).eval()
            x = torch.zeros(1, 3, 224, 224)
            Image.open(PICTURE).convert("RGB").resize((224, 224))
            model.get_image_features(pixel_values=x)
        """


OURS_FIRST = """
    import torch; torch.set_num_threads(1); torch.set_grad_enabled(False)
    import lascaux
    from PIL import Image
    model = lascaux.load(WEIGHTS)
    x = torch.zeros(1, 3, 224, 224)
    Image.open(PICTURE).convert("RGB").resize((224, 224))
    model.encode_image(x)
"""


def head(name: str, peer: Any, rounds: int) -> list[Row]:
    """A zero-shot head of 20 of ImageNet's classes with its 80 templates."""
    model = with_weights_of(peer)
    model.tokenizer = own_tokenizer()
    names = [names[0] for names in class_list("imagenet")][::50][:20]

    def of_peer(encode: Callable[[str], Tensor], names: list[str]) -> Tensor:
        means = [F.normalize(encode(name), dim=-1).mean(dim=0) for name in names]
        return F.normalize(torch.stack(means), dim=-1)

    rows: list[Row] = []
    for path, encode in peer.heads().items():
        ways = {
            "peer": lambda encode=encode: of_peer(encode, names),
            "plain": lambda: prototypes(model, names, "imagenet"),
            "fast": lambda: prototypes(model, names, "imagenet"),
        }
        of_peer(encode, names[:1])  # warms up; all of it would take minutes
        prototypes(model, names, "imagenet")
        seconds, found = raced(ways, rounds, warm=False)
        for way, label in (("plain", "torch's products"), ("fast", "oneDNN's products")):
            rows.append(
                (
                    f"zero-shot head, 20 classes x 80 templates, {label}",
                    f"{name}{path}",
                    ratio(seconds["peer"], seconds[way]),
                    difference(found["peer"], found[way]),
                )
            )
    return rows


def images(name: str, peer: Any, rounds: int) -> list[Row]:
    """Encoding of prepared pictures."""
    model = with_weights_of(peer)
    short = with_weights_of(peer).bfloat16()
    rows: list[Row] = []
    for batch in (1, 16):
        x = torch.randn(batch, 3, 224, 224, generator=torch.Generator().manual_seed(batch))
        ways = {
            "peer": lambda x=x: peer.encode_image(x),
            "plain": lambda x=x: model.encode_image(x),
            "fast": lambda x=x: model.encode_image(x),
            "bfloat16": lambda x=x: short.encode_image(x),
        }
        seconds, found = raced(ways, rounds)
        for way, label in (
            ("plain", "float32, torch's products"),
            ("fast", "float32, oneDNN's products"),
            ("bfloat16", "bfloat16"),
        ):
            rows.append(
                (
                    f"image encoding, batch {batch}, {label}",
                    name,
                    ratio(seconds["peer"], seconds[way]),
                    difference(found["peer"], found[way]),
                )
            )
    return rows


def start(name: str, peer: Any, rounds: int) -> list[Row]:
    """From the start of a process to the first embedding, from one file of weights."""
    with tempfile.TemporaryDirectory() as place:
        weights = peer.save(Path(place))
        picture = Path(place) / "picture.jpg"
        photograph(500, 375, 0).save(picture, quality=90)
        scripts = {"peer": peer.first_embedding(), "ours": OURS_FIRST}
        used: dict[str, list[tuple[float, float]]] = {way: [] for way in scripts}
        for turn in range(rounds + 1):
            for way in turned(scripts, turn):
                spent = process(scripts[way], weights, picture)
                if turn:
                    used[way].append(spent)
    times = {way: [seconds for seconds, _ in spent] for way, spent in used.items()}
    peaks = {way: statistics.median(peak for _, peak in spent) for way, spent in used.items()}
    memory = f"{peaks['ours'] / peaks['peer']:.2f} of its memory"
    megabytes = f"{peaks['ours']:.0f} beside {peaks['peer']:.0f} MB at most"
    return [
        ("process start to first embedding", name, ratio(times["peer"], times["ours"]), ""),
        ("peak memory of that process", name, memory, megabytes),
    ]


def folder() -> list[Row]:
    """A folder of JPEGs from end to end: what decoding beside the model gains, and who takes how
    much."""
    from lascaux.images.preprocess import pixels

    torch.manual_seed(0)
    model = Clip(VARIANTS["ViT-B/32"]).eval()
    cores = len(os.sched_getaffinity(0))
    rows: list[Row] = []
    for label, size, count in (("500x375", (500, 375), 192), ("12 megapixels", (4000, 3000), 48)):
        with tempfile.TemporaryDirectory() as place:
            paths = [Path(place) / f"{at:03}.jpg" for at in range(count)]
            for at, path in enumerate(paths):
                photograph(*size, at).save(path, quality=90)
            how = model.config.preprocessing

            def in_turn(paths: list[Path] = paths) -> None:
                for at in range(0, len(paths), 16):
                    image_features(model, paths[at : at + 16], "official")

            def beside(paths: list[Path] = paths) -> None:
                for _ in stream_features(model, paths, "official", batch_size=16):
                    pass

            beside()
            decode = wall(lambda paths=paths, how=how: pixels(paths, how)) / count
            apart, together = (
                statistics.median(wall(way) for _ in range(3)) / count for way in (in_turn, beside)
            )
            share = f"decoding {decode / apart:.0%}, model {1 - decode / apart:.0%} of the time"
            rows += [
                (
                    f"folder of JPEGs of {label}, batch 16, {cores} cores",
                    "ours, decoding and model in turn",
                    f"{apart / together:.2f} in time on the clock",
                    f"{1 / apart:.1f} to {1 / together:.1f} pictures a second; in turn: {share}",
                )
            ]
    return rows


def raced(
    ways: dict[str, Callable[[], Tensor]], rounds: int, *, warm: bool = True
) -> tuple[dict[str, list[float]], dict[str, Tensor]]:
    """Processor seconds of each way in every round, and what each gave."""
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    found: dict[str, Tensor] = {}
    for turn in range(0 if warm else 1, rounds + 1):
        for way in turned(ways, turn):
            os.environ["LASCAUX_LINEAR"] = "torch" if way == "plain" else "onednn"
            started = time.process_time()
            found[way] = ways[way]().float()
            if turn:  # the first round warms up
                seconds[way].append(time.process_time() - started)
        print(
            f"  round {turn} of {rounds}", {w: s[-1:] for w, s in seconds.items()}, file=sys.stderr
        )
    del os.environ["LASCAUX_LINEAR"]
    return seconds, found


def turned(ways: Iterable[str], turn: int) -> list[str]:
    """The ways in another order every round."""
    each = list(ways)
    return each[turn % len(each) :] + each[: turn % len(each)]


def ratio(theirs: list[float], ours: list[float]) -> str:
    each = [a / b for a, b in zip(theirs, ours, strict=True)]
    return f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})"


def difference(theirs: Tensor, ours: Tensor) -> str:
    theirs, ours = F.normalize(theirs, dim=-1), F.normalize(ours, dim=-1)
    if (largest := float((theirs - ours).abs().max())) < 1e-4:
        return f"{largest:.0e}"
    return f"cosine at least {float((theirs * ours).sum(dim=-1).min()):.5f}"


def products() -> str:
    """What this processor reaches in the products that image encoding is made of."""
    told: list[str] = []
    for dtype in (torch.float32, torch.bfloat16):
        x, weight = torch.randn(800, 768).to(dtype), torch.randn(3072, 768).to(dtype)
        laid_out, bias = torch.ops.mkldnn._reorder_linear_weight(weight), weight[:, 0].clone()
        ways = {
            "torch": lambda x=x, w=weight, b=bias: F.linear(x, w, b),
            "oneDNN, weight laid out": lambda x=x, w=laid_out, b=bias: (
                torch.ops.mkldnn._linear_pointwise(x, w, b, "none", [], "")
            ),
        }
        for way, multiply in ways.items():
            spent: list[float] = []
            for _ in range(20):
                started = time.process_time()
                multiply()
                spent.append(time.process_time() - started)
            rate = 2 * 800 * 768 * 3072 / statistics.median(spent) / 1e9
            told.append(f"{str(dtype).removeprefix('torch.')} by {way} {rate:.0f}")
    gains = [onednn_gain(dtype) for dtype in (torch.float32, torch.bfloat16)]
    return (
        "products of 800 x 768 by 768 x 3072 in GFLOP/s: {}; of 64 rows oneDNN is {:.2f} times "
        "as fast in float32, {:.2f} in bfloat16".format(", ".join(told), *gains)
    )


def with_weights_of(peer: Any) -> Clip:
    """Our model with the peer's weights, by the key map of its publisher."""
    tensors = peer.model.state_dict()
    layout = recognise(tensors.keys(), source="peer")
    model = build(lambda: Clip(VARIANTS["ViT-B/32"]))
    state = translate(tensors, layout.rules, source="peer")
    model.load_state_dict({key: value.clone() for key, value in state.items()}, strict=True)
    return model.eval()


def own_tokenizer() -> ClipTokenizer:
    if not VOCABULARY.exists():
        raise SystemExit("the vocabulary is missing: `make vocabulary` brings it")
    return ClipTokenizer.from_file(VOCABULARY, context_length=77)


def prompts(name: str) -> list[str]:
    return [template.replace("{}", name) for template in read_templates("imagenet")]


def tensor_of(answer: Any) -> Tensor:
    """transformers 5 wraps embeddings in an output object."""
    return answer if isinstance(answer, Tensor) else answer.pooler_output


def process(script: str, weights: Path, picture: Path) -> tuple[float, float]:
    """Processor seconds and peak MB of a fresh process, on Linux."""
    lines = textwrap.dedent(script).replace("WEIGHTS", repr(str(weights)))
    # The kernel's count for a child begins with its parent's memory, so the child asks for its own.
    lines = lines.replace("PICTURE", repr(str(picture))) + textwrap.dedent("""
        for line in open("/proc/self/status"):
            if line.startswith("VmHWM"):
                print(line.split()[1])
    """)
    child = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", lines],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert child.stdout
    assert child.stderr
    said, complaint = child.stdout.read(), child.stderr.read()
    _, status, used = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"a process of the benchmark failed:\n{complaint}")
    return used.ru_utime + used.ru_stime, int(said) / 1024


def photograph(width: int, height: int, seed: int) -> Image.Image:
    """Something with the detail of a photograph: noise of many sizes, coarse strong, fine weak."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), dtype=np.float32)
    for cells in (4, 16, 64, 256):
        small = rng.integers(0, 256, (max(2, height * cells // width), cells, 3), dtype=np.uint8)
        grown = Image.fromarray(small).resize((width, height), Image.Resampling.BICUBIC)
        total += np.asarray(grown, dtype=np.float32) / cells**0.5
    total *= 255 / total.max()
    return Image.fromarray(total.astype(np.uint8))


def wall(work: Callable[[], Any]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def processor() -> str:
    """The processor's name, as Linux tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return sys.platform
    pairs = (line.partition(":") for line in lines)
    fields = {key.strip(): value.strip() for key, _, value in pairs}
    said = (fields.get(key, "?") for key in ("model name", "cpu family", "model"))
    return "{} (family {}, model {})".format(*said)


if __name__ == "__main__":
    main()
