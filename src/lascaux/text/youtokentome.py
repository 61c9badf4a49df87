"""YouTokenToMe's byte-pair encoder of characters, from its model files and without its package.

Belousov and others: https://github.com/VKCOM/YouTokenToMe, 2019, version 1.0.6. A model file is
text: how many characters and rules there are; each character's code point and id; each rule's two
ids and the one that they make, most urgent first; the ids of unknown, padding, beginning and end,
-1 where there is none.
"""

import heapq
from collections.abc import Collection, Iterable
from pathlib import Path

from lascaux.errors import BadInput, BadText, BrokenFile

SPACE = "\u2581"  # stands before every word
_BLANK = frozenset(" \t\n\v\f\r" + SPACE)  # as isspace of C has it
_MARKS = ("<UNK>", "<PAD>", "<BOS>", "<EOS>")
_MOST_WORDS = 100_000  # that are remembered


class YouTokenToMe:
    """Turns texts into ids and back as the package does; make one with `from_file`."""

    def __init__(
        self,
        characters: dict[str, int],
        rules: list[tuple[int, int, int]],
        marks: tuple[int, int, int, int],
    ) -> None:
        """Build from what a model file holds.

        Args:
            characters: each with its id.
            rules: first, second, and what they make; most urgent first.
            marks: ids of unknown, padding, beginning and end; -1: there is none.

        Raises:
            BrokenFile: an id is used twice, or a rule joins what is not there.
        """
        if SPACE not in characters:
            raise BrokenFile(f"no character {SPACE!r}, which stands before every word")
        self._characters, self._rules, self._marks = characters, rules, marks
        self._spelt = {number: character for character, number in characters.items()}
        for x, y, z in rules:
            if x not in self._spelt or y not in self._spelt:
                raise BrokenFile(f"the rule {x} {y} {z} joins ids that nothing before it makes")
            self._spelt[z] = self._spelt[x] + self._spelt[y]
        for number, mark in zip(marks, _MARKS, strict=True):
            if number in self._spelt:
                raise BrokenFile(f"id {number} is {mark} and {self._spelt[number]!r}")
        self._unknown = marks[0]
        self._named = {i: mark for i, mark in zip(marks, _MARKS, strict=True) if i != -1}
        self.vocabulary_size = len(characters) + len(rules) + len(self._named)
        # As published: of two rules for one pair the later counts.
        self._priority = {(x, y): number for number, (x, y, _) in enumerate(rules)}
        self._known: dict[str, list[int]] = {}

    @classmethod
    def from_file(cls, path: str | Path) -> "YouTokenToMe":
        """Read a model file.

        Raises:
            BadInput: there is no such file.
            BrokenFile: it is damaged, or another kind of file.
        """
        path = Path(path)
        if not path.is_file():
            raise BadInput(f"no file {path}; expected a model of YouTokenToMe")
        try:
            numbers = [int(each) for each in path.read_text(encoding="ascii").split()]
            count, rules = numbers[:2]
            at = 2 + 2 * count
            end = at + 3 * rules
            if min(count, rules) < 0 or len(numbers) != end + 4:
                raise ValueError(f"{len(numbers)} numbers where {end + 4} are expected")
            pairs = zip(numbers[2:at:2], numbers[3:at:2], strict=True)
            triples = zip(*(numbers[at + each : end : 3] for each in range(3)), strict=True)
            unk, pad, bos, eos = numbers[end:]
            return cls(
                {chr(code): number for code, number in pairs}, list(triples), (unk, pad, bos, eos)
            )
        except (ValueError, OverflowError, BrokenFile) as error:
            raise BrokenFile(f"{path} is no whole model of YouTokenToMe: {error}") from error

    def save(self, path: str | Path) -> None:
        """Write a model file that `from_file`, and the package, read back."""
        lines = [f"{len(self._characters)} {len(self._rules)}"]
        lines += [f"{ord(character)} {number}" for character, number in self._characters.items()]
        lines += [f"{x} {y} {z}" for x, y, z in self._rules]
        lines.append(" ".join(map(str, self._marks)))
        Path(path).write_text("\n".join(lines) + "\n", encoding="ascii")

    def write(self, folder: Path) -> None:
        """Writes tokenizer.bpe."""
        self.save(folder / "tokenizer.bpe")

    def encode(self, text: str) -> list[int]:
        """The ids of a text."""
        ids: list[int] = []
        for word in _words(text):
            if (known := self._known.get(word)) is None:
                known = self._encode_word(word)
                if len(self._known) < _MOST_WORDS:
                    self._known[word] = known
            ids += known
        return ids

    def _encode_word(self, word: str) -> list[int]:
        symbols = [self._characters[SPACE]]
        for character in word:
            number = self._characters.get(character, self._unknown)
            # A run of unknown characters is one unknown token.
            if number != self._unknown or symbols[-1] != self._unknown:
                symbols.append(number)
        after = [*range(1, len(symbols)), -1]
        before = list(range(-1, len(symbols) - 1))
        queue: list[tuple[int, int]] = []

        def offer(place: int) -> None:
            if place >= 0 and after[place] >= 0:
                pair = symbols[place], symbols[after[place]]
                if (priority := self._priority.get(pair)) is not None:
                    heapq.heappush(queue, (priority, place))

        for place in range(len(symbols)):
            offer(place)
        while queue:
            priority, place = heapq.heappop(queue)
            x, y, z = self._rules[priority]
            right = after[place]
            if symbols[place] != x or right < 0 or symbols[right] != y:
                continue  # one of the two was joined to another meanwhile
            symbols[place], symbols[right] = z, -1
            after[place] = after[right]
            if after[place] >= 0:
                before[after[place]] = place
            offer(before[place])
            offer(place)
        return [each for each in symbols if each != -1]

    def decode(self, ids: Iterable[int], ignored: Collection[int] = ()) -> str:
        """The text that ids spell, without those that are ignored.

        Raises:
            BadText: an id that there is not.
        """
        text = ""
        for number in ids:
            if number in ignored:
                continue
            piece = self._named.get(number, self._spelt.get(number))
            if piece is None:
                raise BadText(f"id {number}; expected 0 to {self.vocabulary_size - 1}")
            text += " " + piece[1:] if piece.startswith(SPACE) else piece
        return text.removeprefix(" ")


def _words(text: str) -> list[str]:
    joined = "".join(" " if each in _BLANK else each for each in text)
    return [word for word in joined.split(" ") if word]
