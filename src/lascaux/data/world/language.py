"""What a scene says in words: captions in English and Chinese, and tags.

Several wordings say the same thing; which one is drawn by a random generator. A caption never
says what the picture does not show.
"""

from typing import Literal

import numpy as np

from lascaux.data.world.backgrounds import COLOURS
from lascaux.data.world.objects import Object, objects
from lascaux.data.world.scene import Scene

Language = Literal["en", "zh"]

ZH = {
    "red": "红色", "orange": "橙色", "yellow": "黄色", "green": "绿色", "turquoise": "青色",
    "blue": "蓝色", "purple": "紫色", "pink": "粉色", "brown": "棕色", "black": "黑色",
    "grey": "灰色", "white": "白色", "meadow": "草地", "sea": "大海", "night": "夜空",
    "desert": "沙漠", "snow": "雪地", "street": "街道", "room": "房间", "forest": "森林",
}  # fmt: skip
WHERE = {
    "meadow": ("on a meadow", "in a green meadow"), "sea": ("at sea", "over the sea"),
    "night": ("at night", "in the night sky"), "desert": ("in the desert", "in a sandy desert"),
    "snow": ("in the snow", "on snowy ground"), "street": ("on a street", "in a city street"),
    "room": ("in a room", "inside a room"), "forest": ("in a forest", "among the forest trees"),
}  # fmt: skip
COUNTS = {2: ("two", "两个"), 3: ("three", "三个"), 4: ("four", "四个")}
RELATIONS = {
    "left": ("to the left of", "在{b}的左边"),
    "above": ("above", "在{b}的上面"),
}
_FORMS = (
    "a photo of a {}", "a photo of a {}.", "a picture of a {}", "the {}", "a photo of the {}.",
    "a bad photo of a {}.", "a drawing of a {}.", "a rendering of a {}.", "a cartoon {}.",
    "a photo of one {}.", "an emoji of a {}", "a blurry photo of the {}.", "a scan of a {}",
    "itap of a {}.", "art of the {}.", "a photo of the small {}.", "a photo of the large {}.",
    "a {} in a video game.", "a close-up photo of a {}.", "a low resolution photo of a {}.",
)  # fmt: skip
_SMALL, _LARGE = 0.4, 0.62  # sizes below and above which a caption may say small or large


def caption(scene: Scene, rng: np.random.Generator, language: Language = "en") -> str:
    """A sentence that describes `scene`, its wording drawn with `rng`."""
    if not scene.things:
        return background_prompt(scene.background, rng, language)
    who = _who_zh(scene, rng) if language == "zh" else _who_en(scene, rng)
    place, colour = scene.background, scene.background in COLOURS
    if language == "zh":
        where = f"{ZH[place]}背景" if colour else ZH[place]
        forms = (
            f"{where}上的{who}",
            f"{who}，{where}",
            f"一张{who.removeprefix('一个')}的图片，{where}",
            f"{where}，{who}",
        )
        return forms[rng.integers(len(forms))]
    if colour:
        forms = (
            f"{who} on a {place} background",
            f"{who}, {place} background",
            f"a picture of {who} on {place}",
            f"{who} on {place}",
            f"{place} background with {who}",
        )
    else:
        spot = WHERE[place][rng.integers(2)]
        forms = (f"{who} {spot}", f"a picture of {who} {spot}", f"{who}, {place}", f"{spot}, {who}")
    return forms[rng.integers(len(forms))]


def name_prompt(thing: Object, rng: np.random.Generator, language: Language = "en") -> str:
    """A short text that names one object and nothing else."""
    if language == "zh":
        forms = ("{}", "一个{}", "一张{}的图片", "一张{}的照片")
        return forms[rng.integers(len(forms))].format(thing.zh)
    name = _name(thing, rng)
    if rng.random() < 0.5:
        return (name, _article(name), f"a photo of {_article(name)}")[rng.integers(3)]
    return _FORMS[rng.integers(len(_FORMS))].format(name)


def background_prompt(name: str, rng: np.random.Generator, language: Language = "en") -> str:
    """A short text that names one background and nothing else."""
    colour = name in COLOURS
    if language == "zh":
        forms = ("{}背景", "{}", "{}的背景") if colour else ("{}", "在{}", "{}的图片")
        return forms[rng.integers(len(forms))].format(ZH[name])
    if colour:
        forms = ("a {} background", "{}", "{} background", "something on {}")
        return forms[rng.integers(len(forms))].format(name)
    forms = (name, f"a {name}", f"a picture of a {name}", *WHERE[name])
    return forms[rng.integers(len(forms))]


def tags(scene: Scene) -> list[str]:
    """English tags of a scene: its objects once each, their kinds, then its background."""
    seen: dict[str, None] = {}
    for thing in scene.things:
        seen[objects()[thing.object].name] = None
    for thing in scene.things:
        seen[objects()[thing.object].kind] = None
    seen[scene.background] = None
    return list(seen)


def relation(scene: Scene) -> tuple[str, int, int] | None:
    """How two different things stand: ("left" or "above", which thing, of which thing)."""
    if len(scene.things) != 2 or scene.things[0].object == scene.things[1].object:
        return None
    a, b = scene.things
    dx, dy = b.x - a.x, b.y - a.y
    if abs(dx) > abs(dy):
        return ("left", 0, 1) if dx > 0 else ("left", 1, 0)
    return ("above", 0, 1) if dy > 0 else ("above", 1, 0)


def _name(thing: Object, rng: np.random.Generator) -> str:
    if thing.synonyms and rng.random() < (0.7 if thing.kind == "digits" else 0.25):
        return thing.synonyms[rng.integers(len(thing.synonyms))]
    return thing.name


def _article(name: str) -> str:
    # By sound, not by letter: a unicorn, a ewe.
    vowel = name[0] in "aeiou" and not name.startswith(("uni", "ew"))
    return f"{'an' if vowel else 'a'} {name}"


def _count(number: int) -> tuple[str, str]:
    return COUNTS.get(number, (str(number), f"{number}个"))


def _plural(name: str) -> str:
    if name.endswith(("s", "sh", "ch", "x", "z")):
        return name + "es"
    if name.endswith("y") and name[-2] not in "aeiou":
        return name[:-1] + "ies"
    return name + "s"


def _who_en(scene: Scene, rng: np.random.Generator) -> str:
    things = [objects()[thing.object] for thing in scene.things]
    related = relation(scene)
    if related:
        kind, first, second = related
        a, b = _name(things[first], rng), _name(things[second], rng)
        if rng.random() < 0.3:
            return f"{_article(a)} and {_article(b)}"
        return f"{_article(a)} {RELATIONS[kind][0]} {_article(b)}"
    if len(set(things)) > 1:
        *before, last = [_article(_name(thing, rng)) for thing in things]
        return f"{', '.join(before)} and {last}"
    name = _name(things[0], rng)
    if len(things) > 1:
        return f"{_count(len(things))[0]} {_plural(name)}"
    size = scene.things[0].size
    if size < _SMALL and rng.random() < 0.3:
        return f"a small {name}"
    if size > _LARGE and rng.random() < 0.3:
        return f"a large {name}"
    return _article(name) if rng.random() < 0.8 else name


def _who_zh(scene: Scene, rng: np.random.Generator) -> str:
    things = [objects()[thing.object] for thing in scene.things]
    related = relation(scene)
    if related:
        kind, first, second = related
        a, b = things[first].zh, things[second].zh
        if rng.random() < 0.3:
            return f"{a}和{b}"
        return a + RELATIONS[kind][1].format(b=b)
    if len(set(things)) > 1:
        *before, last = [thing.zh for thing in things]
        return f"{'、'.join(before)}和{last}"
    if len(things) > 1:
        return _count(len(things))[1] + things[0].zh
    size = scene.things[0].size
    if size < _SMALL and rng.random() < 0.3:
        return f"小{things[0].zh}"
    if size > _LARGE and rng.random() < 0.3:
        return f"大{things[0].zh}"
    return f"一个{things[0].zh}" if rng.random() < 0.5 else things[0].zh
