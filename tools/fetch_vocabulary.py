"""Bring OpenAI's byte-pair vocabulary to build/vocabulary, for tests.

The wheel of open_clip_torch carries the published file as data; it is downloaded, never installed.
Run again, it finds the file and does nothing. Without a network it says so and succeeds: the tests
that need the vocabulary then skip with that reason.

    python tools/fetch_vocabulary.py
"""

import hashlib
import os
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

NAME = "bpe_simple_vocab_16e6.txt.gz"
SHA256 = "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a"
TARGET = Path(__file__).resolve().parents[1] / "build" / "vocabulary" / NAME


def main() -> int:
    if TARGET.exists() and hashlib.sha256(TARGET.read_bytes()).hexdigest() == SHA256:
        print(f"{TARGET} is there already")
        return 0
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
        command += ["--only-binary", ":all:", "--dest", folder, "open_clip_torch"]
        finished = subprocess.run(command, capture_output=True, text=True)
        wheels = list(Path(folder).glob("*.whl"))
        if finished.returncode or not wheels:
            reason = (finished.stderr.strip().splitlines() or ["no wheel came"])[-1]
            print(
                f"OpenAI's vocabulary could not be fetched ({reason}).\n"
                "Tests that need it will be skipped. Try again with a network, or set\n"
                f"LASCAUX_CLIP_VOCABULARY to a copy of {NAME}.",
                file=sys.stderr,
            )
            return 0
        with zipfile.ZipFile(wheels[0]) as wheel:
            content = wheel.read(f"open_clip/{NAME}")
    found = hashlib.sha256(content).hexdigest()
    if found != SHA256:
        print(f"{NAME} has SHA-256 {found}; expected {SHA256}. Not kept.", file=sys.stderr)
        return 1
    TARGET.parent.mkdir(parents=True, exist_ok=True)
    aside = TARGET.with_suffix(f".{os.getpid()}.part")
    aside.write_bytes(content)
    os.replace(aside, TARGET)
    print(f"wrote {TARGET}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
