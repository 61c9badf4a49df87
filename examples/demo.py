"""Classify the pictures of examples/pictures with the embedded model, as `make demo` does."""

import sys
from pathlib import Path

import lascaux
from lascaux.cli.main import main

HERE = Path(__file__).parent
OUT = HERE.parent / "demo"
CLASSES = (
    "pizza, fox, guitar, handwritten digit seven, handwritten digit one, dog, cat, wolf, violin, "
    "hot dog, cookie, fire engine, house, sailing boat"
)

print(f"Lascaux {lascaux.__version__}: naming what the pictures of {HERE / 'pictures'} show\n")
OUT.mkdir(exist_ok=True)
sheet = OUT / "contact-sheet.png"
pictures = [str(HERE / "pictures")]
code = main(["classify", *pictures, "--classes", CLASSES, "--top", "3", "--sheet", str(sheet)])
print(f"""
An annotated contact sheet is in {sheet}.
The embedded model knows a small world: 325 emoji objects and handwritten digits.
For your own photographs, with OpenAI's weights (338 MB, downloaded once):

    .venv/bin/lascaux classify photo.jpg --classes "cat, dog, fire truck" --model ViT-B/32
""")
sys.exit(code)
