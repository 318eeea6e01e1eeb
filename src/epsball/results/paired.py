"""Two rates of the same images, compared image by image: one bit an image, McNemar's table, its correlation."""

import base64
import zlib
from collections.abc import Sequence
from math import sqrt
from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Bits: TypeAlias = NDArray[np.bool_]


def packed_bits(wrong: Sequence[bool] | Bits) -> str:
    """Write one bit an image as text: bits in bytes, compressed, in base64."""
    return base64.b64encode(zlib.compress(np.packbits(np.asarray(wrong, dtype=bool)).tobytes(), 9)).decode()


def unpacked_bits(text: str, n: int) -> Bits:
    """Read (n,) booleans that `packed_bits` wrote. ValueError if they are not as many."""
    try:
        content = np.frombuffer(zlib.decompress(base64.b64decode(text, validate=True)), dtype=np.uint8)
    except (ValueError, zlib.error) as error:
        raise ValueError(f"{text[:20]!r} is no packed bits ({error})") from None
    if len(content) != (n + 7) // 8:
        raise ValueError(f"{text[:20]!r} should hold {n} bits, has {8 * len(content)}")
    return np.unpackbits(content, count=n).astype(bool)


class Mistaken(NamedTuple):
    """The images that a rate counts."""

    dataset: str
    bits: Bits
    """(N,) booleans, one for each of its test images"""

    def first(self, n: int | None) -> "Mistaken":
        """Return those among the first `n` images, of all where it is None or more: whoever measures fewer images
        measures the first."""
        return Mistaken(self.dataset, self.bits[:n])

    def has_images_of(self, other: "Mistaken") -> bool:
        """Whether both are of the same images: those of another data set may be as many."""
        return self.dataset == other.dataset and len(self.bits) == len(other.bits)


class PairedTable(NamedTuple):
    """McNemar's table of two kinds of mistakes on the same images (Q. McNemar, Psychometrika 12, 1947)."""

    both: int
    first: int
    """images that are mistaken in the first alone"""
    second: int
    neither: int

    @property
    def n(self) -> int:
        return sum(self)


def paired_table(first: Bits, second: Bits) -> PairedTable:
    """Count the images of McNemar's table."""
    both, one, two = int((first & second).sum()), int(first.sum()), int(second.sum())
    return PairedTable(both, one - both, two - both, len(first) - one - two + both)


def phi(table: PairedTable, narrowing: int) -> float:
    """Return the correlation of the two, in [-1, 1]; 0 where one of them is the same for all images.

    `narrowing`: the sign of the correlation that narrows the interval of what is made of them, which is corrected for
    continuity: 1 of a difference (R. G. Newcombe, Statistics in Medicine 17 (1998) 2635-2650, method 10), -1 of a sum.
    """
    a, b, c, d = table
    margins = (a + b) * (c + d) * (a + c) * (b + d)
    if margins == 0:
        return 0.0
    excess = float(a * d - b * c)
    if narrowing * excess > 0:
        excess = narrowing * max(abs(excess) - table.n / 2, 0.0)
    return excess / sqrt(margins)
