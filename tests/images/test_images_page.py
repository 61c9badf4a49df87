import re
from pathlib import Path

PAGE = Path(__file__).resolve().parents[2] / "docs" / "images.md"


def test_the_examples_of_the_page_on_images_run():
    examples = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.M | re.S)
    assert len(examples) >= 3
    exec(compile("\n".join(examples), str(PAGE), "exec"), {})
