import numpy as np
from PIL import Image

from lascaux.tasks.check import alike, difference_hash


def test_hashes_within_the_distance_are_grouped_and_others_not():
    rng = np.random.Generator(np.random.PCG64([1]))
    hashes = rng.integers(0, 1 << 63, 300, dtype=np.uint64)
    changed = hashes[:3].copy()
    changed[0] ^= np.uint64(1 << 63 | 1)  # two bits, far apart
    changed[1] ^= np.uint64(0b11 << 31)  # two, side by side across stretches
    changed[2] ^= np.uint64(0b111 << 20)  # three
    both = np.concatenate([hashes, changed])
    assert alike(both, 2) == [[0, 300], [1, 301]]
    assert alike(both, 3) == [[0, 300], [1, 301], [2, 302]]
    assert alike(both, 0) == []
    assert alike(np.concatenate([hashes, hashes[:1]]), 0) == [[0, 300]]
    assert alike(hashes[:0], 2) == []


def test_pairs_link_groups():
    assert alike(np.array([0, 0b11, 0b1111, 0b111111 << 30], np.uint64), 2) == [[0, 1, 2]]


def test_every_pair_within_the_distance_is_found():
    rng = np.random.Generator(np.random.PCG64([2]))
    for most in (1, 2, 5):
        one = rng.integers(0, 1 << 63, 1, dtype=np.uint64)[0]
        for _ in range(50):
            bits = rng.choice(64, most, replace=False)
            other = one
            for bit in bits:
                other ^= np.uint64(1) << np.uint64(bit)
            assert alike(np.array([one, other]), most) == [[0, 1]]
            assert alike(np.array([one, other]), most - 1) == []


def test_the_hash_bears_resizing_and_refuses_plain_pictures():
    rng = np.random.Generator(np.random.PCG64([3]))
    coarse = Image.fromarray(rng.integers(0, 256, (5, 6, 3), dtype=np.uint8))
    large = coarse.resize((300, 200), Image.Resampling.BICUBIC)
    first, second = difference_hash(large), difference_hash(large.resize((90, 60)))
    mirrored = difference_hash(large.transpose(Image.Transpose.FLIP_LEFT_RIGHT))
    assert first is not None
    assert second is not None
    assert mirrored is not None
    assert (first ^ second).bit_count() <= 2
    assert (first ^ mirrored).bit_count() > 20
    assert difference_hash(Image.new("RGB", (50, 50), "red")) is None
