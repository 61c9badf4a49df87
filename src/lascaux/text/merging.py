"""Learning byte-pair merges from counted words (Sennrich et al. 2016, arXiv 1508.07909)."""

import heapq
import re
from collections import Counter, defaultdict
from collections.abc import Mapping
from collections.abc import Set as AbstractSet
from itertools import pairwise

Pair = tuple[str, str]

# Thai, Lao, Myanmar, Khmer, kana and Han: words follow each other without a blank.
_UNSPACED = (
    "[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff"
    "\U00020000-\U0003ffff]+"
)


def short_names(alone: AbstractSet[str], words: AbstractSet[str]) -> set[str]:
    """Those pieces that stood alone in a text and look like one word of a script without blanks.

    They have at most four characters, and no word of two or more within: "red cat" is no word where
    "red" is one, and a whole sentence never is.
    """
    known = {word for word in words if len(word) > 1}
    names: set[str] = set()
    for piece in sorted(alone - words, key=lambda piece: (len(piece), piece)):
        short = len(piece) <= 4 and re.fullmatch(_UNSPACED, piece)
        if short and not any(word in piece for word in known):
            names.add(piece)
            known |= {piece} if len(piece) > 1 else set()
    return names


def count_words(pieces: Mapping[str, int], known: AbstractSet[str]) -> Counter[tuple[str, bool]]:
    """How often each (word, does it end a piece) is to be counted when merges are learnt.

    A piece in a script with blanks is one word and ends itself. A piece in a script without is
    parted at known words, the longest first, and every part counts in both forms: whether it ends a
    run is an accident of the sentence.
    """
    unspaced = sorted((w for w in known if re.fullmatch(_UNSPACED, w)), key=lambda w: (-len(w), w))
    parts = re.compile(f"({'|'.join(unspaced)})" if unspaced else "(?!)")
    counts: Counter[tuple[str, bool]] = Counter()
    for piece, count in pieces.items():
        if not re.fullmatch(_UNSPACED, piece):
            counts[piece, True] += count
            continue
        for part in filter(None, parts.split(piece)):
            counts[part, True] += count
            counts[part, False] += count
    return counts


def learn_merges(words: Mapping[tuple[str, ...], int], symbols: int) -> list[Pair]:
    """The merges that join the most frequent neighbours, in the order in which they were learnt.

    Ties go to the pair that sorts first, so equal words give equal merges in every process.
    A pair that occurs once is never merged.

    Args:
        words: each word as its symbols, with how often it occurs.
        symbols: how many new symbols to learn at most; a merge that spells a known one is free.
    """
    spellings = [list(word) for word in words]
    weights = list(words.values())
    counts: dict[Pair, int] = defaultdict(int)
    places: dict[Pair, set[int]] = defaultdict(set)
    for index, spelling in enumerate(spellings):
        for pair in pairwise(spelling):
            counts[pair] += weights[index]
            places[pair].add(index)
    known: set[str] = set()
    queue = [(-count, pair) for pair, count in counts.items()]
    heapq.heapify(queue)
    learnt: list[Pair] = []
    while queue and len(known) < symbols:
        negative, pair = heapq.heappop(queue)
        if -negative != counts[pair]:
            continue  # an older count of the pair; the newer one is in the queue as well
        if -negative < 2:
            break
        known.add(pair[0] + pair[1])
        learnt.append(pair)
        changed: dict[Pair, int] = defaultdict(int)
        for index in places.pop(pair):
            before = spellings[index]
            after = join(before, pair)
            for old in pairwise(before):
                changed[old] -= weights[index]
            for new in pairwise(after):
                changed[new] += weights[index]
                places[new].add(index)
            spellings[index] = after
        for other, difference in changed.items():
            if difference:
                counts[other] += difference
                heapq.heappush(queue, (-counts[other], other))
    return learnt


def join(symbols: list[str], pair: Pair) -> list[str]:
    """The symbols with every occurrence of the pair, from the left, made one."""
    joined: list[str] = []
    i = 0
    while i < len(symbols):
        if i + 1 < len(symbols) and (symbols[i], symbols[i + 1]) == pair:
            joined.append(symbols[i] + symbols[i + 1])
            i += 2
        else:
            joined.append(symbols[i])
            i += 1
    return joined
