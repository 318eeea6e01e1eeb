"""One bit an image, and what two rates of the same images say together: against numpy, formulas and simulation."""

import base64
import zlib
from math import sqrt

import numpy as np
import pytest
from cells import Bits, Z, ends, of_table, wilson

from epsball.results import intervals
from epsball.results.intervals import Estimate, Term, estimate_sum
from epsball.results.paired import Mistaken, PairedTable, packed_bits, paired_table, phi, unpacked_bits

# ---- as text


@pytest.mark.parametrize("n", [0, 1, 7, 8, 9, 40, 1001, 10_000])
def test_bits_survive_a_round_trip(n: int) -> None:
    """Also where the last byte is not full."""
    draw = np.random.default_rng(n)
    for wrong in (draw.random(n) < 0.1, np.zeros(n, dtype=bool), np.ones(n, dtype=bool)):
        text = packed_bits(wrong)
        back = unpacked_bits(text, n)
        assert back.dtype == bool and back.shape == (n,) and (back == wrong).all()
        assert packed_bits(wrong.tolist()) == text and text.isascii() and not set(text) & set(',"\n ')


def test_few_mistakes_take_little_room() -> None:
    wrong = np.random.default_rng(0).random(10_000) < 0.01
    assert len(packed_bits(wrong)) < 0.4 * 10_000 / 8 * 4 / 3


def damaged(content: bytes) -> str:
    return base64.b64encode(content).decode()


WHOLE = packed_bits([True, False] * 50)
DAMAGED: dict[str, tuple[str, int, str]] = {
    "no base64": ("?" + WHOLE[1:], 100, "is no packed bits"),
    "no text": ("é", 8, "is no packed bits"),
    "nothing": ("", 8, "is no packed bits"),
    "cut off": (damaged(base64.b64decode(WHOLE)[:-3]), 100, "is no packed bits"),
    "not compressed": (damaged(b"\xff" * 13), 100, "is no packed bits"),
    "changed": (damaged(b"\x00" + base64.b64decode(WHOLE)[1:]), 100, "is no packed bits"),
    "too many": (WHOLE, 96, "should hold 96 bits, has 104"),
    "too few": (WHOLE, 105, "should hold 105 bits, has 104"),
    "none": (damaged(zlib.compress(b"")), 1, "should hold 1 bits, has 0"),
}


@pytest.mark.parametrize(("text", "n", "message"), DAMAGED.values(), ids=list(DAMAGED))
def test_damaged_bits_are_refused_in_one_line(text: str, n: int, message: str) -> None:
    with pytest.raises(ValueError) as caught:
        unpacked_bits(text, n)
    assert message in str(caught.value) and "\n" not in str(caught.value)


# ---- McNemar's table


def test_images_are_counted_by_who_mistakes_them() -> None:
    first = np.array([True, True, True, False, False, False, True])
    second = np.array([True, False, False, True, False, False, True])
    table = paired_table(first, second)
    assert table == PairedTable(both=2, first=2, second=1, neither=2)
    assert table.n == 7


@pytest.mark.parametrize("counts", [(36, 12, 2, 0), (0, 0, 0, 5), (3, 0, 0, 0), (1, 2, 3, 4)])
def test_a_table_of_so_many_is_that_table(counts: tuple[int, int, int, int]) -> None:
    assert tuple(paired_table(*of_table(*counts))) == counts


@pytest.mark.parametrize("seed", range(20))
def test_phi_is_pearsons_correlation(seed: int) -> None:
    draw = np.random.default_rng(seed)
    first = draw.random(200) < draw.uniform(0.05, 0.95)
    second = np.where(draw.random(200) < 0.5, first ^ (seed % 2 == 1), draw.random(200) < 0.5)
    expected = np.corrcoef(first, second)[0, 1]
    assert phi(paired_table(first, second), narrowing=0) == pytest.approx(expected, abs=1e-12)


def test_phi_of_equal_and_of_opposite_mistakes() -> None:
    wrong = np.arange(1000) < 300
    assert phi(paired_table(wrong, wrong), narrowing=0) == phi(paired_table(wrong, wrong), narrowing=-1) == 1
    assert phi(paired_table(wrong, ~wrong), narrowing=0) == phi(paired_table(wrong, ~wrong), narrowing=1) == -1
    for narrowing in (-1, 0, 1):
        assert phi(paired_table(wrong, np.ones(1000, dtype=bool)), narrowing) == 0  # of no variance
        assert phi(paired_table(np.zeros(1000, dtype=bool), wrong), narrowing) == 0


def test_the_correlation_that_narrows_is_corrected_for_continuity() -> None:
    """Newcombe 1998, 2635-2650, method 10: n / 2 off the excess ad - bc, not below 0."""
    assert phi(PairedTable(20, 12, 2, 16), narrowing=1) == pytest.approx(
        (20 * 16 - 12 * 2 - 25) / sqrt(32 * 18 * 22 * 28)
    )
    assert phi(PairedTable(1, 1, 7, 12), narrowing=1) == 0  # 5 - 10.5
    negative = PairedTable(36, 12, 2, 0)
    assert phi(negative, narrowing=1) == phi(negative, narrowing=0) == -24 / sqrt(48 * 2 * 38 * 12)
    opposite = PairedTable(12, 20, 16, 2)  # the same of the images that the second does not count: of a sum
    assert phi(opposite, narrowing=-1) == -phi(PairedTable(20, 12, 2, 16), narrowing=1)


# ---- the interval of a difference


def term(weight: float, wrong: Bits, dataset: str = "digits") -> Term:
    rate = float(wrong.mean())
    low, high = intervals.wilson(int(wrong.sum()), len(wrong))
    return Term(weight, Estimate(rate, low, high), Mistaken(dataset, wrong))


def difference(first: Bits, second: Bits) -> Estimate:
    return estimate_sum(0.0, [term(1.0, first), term(-1.0, second)])


def unpaired(first: Bits, second: Bits) -> Estimate:
    """The same of as many images of another data set."""
    return estimate_sum(0.0, [term(1.0, first), term(-1.0, second, "mnist")])


def newcombe(e: int, f: int, g: int, h: int) -> tuple[float, float]:
    """Method 10 as R. G. Newcombe writes it, Statistics in Medicine 17 (1998) 2635-2650, section 2."""
    n = e + f + g + h
    p1, p2 = (e + f) / n, (e + g) / n
    (l1, u1), (l2, u2) = wilson(e + f, n), wilson(e + g, n)
    excess = e * h - f * g
    corrected = excess - n / 2 if excess > n / 2 else min(excess, 0)
    margins = (e + f) * (g + h) * (e + g) * (f + h)
    r = corrected / sqrt(margins) if margins else 0
    below = sqrt((p1 - l1) ** 2 - 2 * r * (p1 - l1) * (u2 - p2) + (u2 - p2) ** 2)
    above = sqrt((u1 - p1) ** 2 - 2 * r * (u1 - p1) * (p2 - l2) + (p2 - l2) ** 2)
    return p1 - p2 - below, p1 - p2 + above


TABLES = [
    *((36, 12, 2, 0), (20, 12, 2, 16), (36, 14, 0, 0), (18, 14, 0, 18), (2, 12, 0, 36)),
    *((53, 0, 0, 1), (53, 1, 0, 0), (54, 0, 0, 0), (30, 0, 0, 24), (29, 1, 1, 23)),
    *((1, 1, 7, 12), (794, 150, 86, 570), (0, 5, 40, 0), (9_000, 300, 200, 500)),
]


@pytest.mark.parametrize("counts", TABLES, ids=str)
def test_a_difference_of_the_same_images_has_newcombes_paired_interval(counts: tuple[int, int, int, int]) -> None:
    found = difference(*of_table(*counts))
    assert found.value == pytest.approx((counts[1] - counts[2]) / sum(counts))
    assert ends(found) == pytest.approx(newcombe(*counts), abs=1e-12)


def test_newcombes_worked_example() -> None:
    """Statistics in Medicine 17 (1998) 2635-2650: 36, 12, 2, 0 by method 10."""
    assert ends(difference(*of_table(36, 12, 2, 0))) == pytest.approx((0.0569, 0.3404), abs=5e-5)


def test_agrestis_approval_ratings() -> None:
    """A. Agresti, Categorical Data Analysis, section on matched pairs: 944 of 1600 approved first and 880 then; the
    difference of -0.04 has the Wald interval (-0.059, -0.021). With so many, Newcombe's is the same to three digits."""
    first, then = of_table(794, 150, 86, 570)
    found = difference(then, first)
    half = Z * sqrt((150 + 86) / 1600 - 0.04**2) / sqrt(1600)
    assert found.value == pytest.approx(-0.04)
    assert [round(end, 3) for end in (-0.04 - half, -0.04 + half)] == [-0.059, -0.021]
    assert [round(end, 3) for end in ends(found)] == [-0.059, -0.021]


def width(estimate: Estimate) -> float:
    return estimate.high - estimate.low


def test_the_reversed_difference_is_mirrored() -> None:
    first, second = of_table(20, 12, 2, 16)
    one, other = difference(first, second), difference(second, first)
    assert ends(other) == pytest.approx((-one.high, -one.low), abs=1e-15)


def test_pairs_narrow_a_gap_of_alike_mistakes_and_widen_one_of_opposite() -> None:
    """At phi 0 nothing is gained: 24 * 6 = 36 * 4, and the interval is the unpaired one."""
    for counts, expected in [((30, 10, 10, 50), -1), ((24, 36, 4, 6), 0), ((5, 35, 35, 25), 1)]:
        paired, alone = difference(*of_table(*counts)), unpaired(*of_table(*counts))
        assert paired.value == alone.value
        if expected == 0:
            assert ends(paired) == pytest.approx(ends(alone), abs=1e-15)
        assert np.sign(round(width(paired) - width(alone), 12)) == expected


def test_a_gap_of_equal_mistakes_is_not_quite_without_width() -> None:
    """Their correlation is 1 but for the correction: two attacks that fool the same 30 of 100 may differ on others."""
    wrong = np.arange(100) < 30
    found = difference(wrong, wrong)
    assert found.value == 0 and -found.low == pytest.approx(found.high)
    assert 0 < found.high < unpaired(wrong, wrong).high / 2


@pytest.mark.parametrize("n", [100, 400, 1000])
@pytest.mark.parametrize(
    "kinds",
    [(0.05, 0.05, 0.01, 0.89), (0.30, 0.10, 0.05, 0.55), (0.20, 0.20, 0.20, 0.40), (0.02, 0.40, 0.28, 0.30)],
)
def test_the_paired_interval_covers_the_truth(kinds: tuple[float, float, float, float], n: int) -> None:
    """Rates of the same images that depend on each other, alike or oppositely."""
    truth = kinds[1] - kinds[2]
    counts = np.random.default_rng(n).multinomial(n, kinds, 1000).tolist()
    found = [difference(*of_table(*each)) for each in counts]
    assert sum(one.low <= truth <= one.high for one in found) >= 930


def test_a_gap_that_only_pairs_show() -> None:
    """Two attacks fool 50.5 and 49.5 % of 10,000 images, and differ in 200 of them."""
    mistakes = of_table(4_900, 150, 50, 4_900)
    assert difference(*mistakes).low > 0 > unpaired(*mistakes).low


# ---- sums of several rates of the same images


def test_a_rate_twice_under_two_names_is_twice_that_rate() -> None:
    """A correlation that widens an interval is not corrected."""
    wrong = np.arange(200) < 60
    twice = estimate_sum(0.0, [term(2.0, wrong)])
    found = estimate_sum(0.0, [term(1.0, wrong), term(1.0, wrong)])
    assert (found.value, *ends(found)) == pytest.approx((twice.value, *ends(twice)))


def test_three_rates_are_correlated_two_by_two() -> None:
    """Zou and Donner 2008 with correlations: every pair has its own, corrected where the signs differ."""
    draw = np.random.default_rng(3)
    base = draw.random(300) < 0.4
    a, b, c = (base ^ (draw.random(300) < flipped) for flipped in (0.1, 0.2, 0.3))
    found = estimate_sum(0.25, [term(1.0, a), term(-2.0, b), term(0.5, c)])
    (al, au), (bl, bu), (cl, cu) = (wilson(int(wrong.sum()), 300) for wrong in (a, b, c))
    p, q, r = a.mean(), b.mean(), c.mean()
    ab, bc = (phi(paired_table(one, b), narrowing=1) for one in (a, c))
    ac = phi(paired_table(a, c), narrowing=-1)
    assert found.value == pytest.approx(0.25 + p - 2 * q + 0.5 * r)
    for end, (x, y, z) in {
        found.low: (p - al, 2 * (bu - q), (r - cl) / 2),
        found.high: (au - p, 2 * (q - bl), (cu - r) / 2),
    }.items():
        reach = sqrt(x * x + y * y + z * z - 2 * ab * x * y - 2 * bc * y * z + 2 * ac * x * z)
        assert abs(end - found.value) == pytest.approx(reach)
