"""What docs/results says follows from the rows beside it: scripts/draw_pages.py would change nothing."""

import re
from pathlib import Path
from typing import NamedTuple

import draw_pages
import pytest

from epsball.results.given import read_given


class Published(NamedTuple):
    """Results that docs/results has."""

    seeds: set[int]
    claims: int
    """how many are judged"""
    tables: int
    identities: int
    """how many rows are measured, each under one name or several"""


PUBLISHED = {  # by folder
    "kariyappa": Published({0}, claims=11, tables=9, identities=144),
    "kariyappa/log_odds": Published({0, 1, 2}, claims=5, tables=3, identities=204),
    "kariyappa/log_odds/activations": Published({0, 1, 2}, claims=1, tables=3, identities=30),
    "kariyappa/log_odds/images_30000": Published({0}, claims=4, tables=2, identities=24),
    "kariyappa/log_odds/images_30000/seed_1": Published({1}, claims=4, tables=2, identities=24),
    "kariyappa/log_odds/paper": Published({0}, claims=3, tables=1, identities=22),
    "kariyappa/log_odds/paper/epochs": Published({0}, claims=3, tables=2, identities=114),
    "kariyappa/log_odds/paper/noise_alone": Published({0, 1, 2}, claims=3, tables=2, identities=108),
    "kariyappa/paper": Published({0}, claims=5, tables=3, identities=68),
    "kariyappa/paper/augment": Published({0}, claims=0, tables=1, identities=34),
    "kariyappa/paper/forks_base": Published({0}, claims=0, tables=3, identities=120),
    "kariyappa/paper/forks_div": Published({0}, claims=0, tables=2, identities=84),
    "kariyappa/paper/gradients_of": Published({0}, claims=0, tables=2, identities=39),
    "kariyappa/paper/noise": Published({0}, claims=0, tables=1, identities=33),
    "kariyappa/paper/resnet20": Published({0}, claims=6, tables=2, identities=60),
    "kariyappa/paper/rounding": Published({0}, claims=0, tables=2, identities=28),
    "kurakin": Published({0}, claims=16, tables=13, identities=364),
    "kurakin/images_50000": Published({0}, claims=4, tables=3, identities=37),
    "kurakin/images_50000/epochs_3": Published({0}, claims=4, tables=3, identities=27),
    "kurakin/images_50000/seed_1": Published({1}, claims=3, tables=1, identities=10),
    "kurakin/resnet20": Published({0}, claims=15, tables=13, identities=269),
    "kurakin/resnet20/paper/hidden_gradients": Published({0}, claims=2, tables=1, identities=52),
    "kurakin/resnet20/paper/label_leaking": Published({0}, claims=3, tables=2, identities=35),
    "kurakin/three_seeds": Published({0, 1, 2}, claims=16, tables=13, identities=1092),
    "madry": Published({0}, claims=22, tables=10, identities=274),
    "madry/resnet20": Published({0}, claims=7, tables=4, identities=83),
    "tramer": Published({0, 1, 2, 3}, claims=17, tables=10, identities=204),
    "tramer/quick": Published({0}, claims=17, tables=10, identities=58),
}


@pytest.fixture(scope="module", params=PUBLISHED)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def folder(name: str) -> Path:
    return draw_pages.RESULTS / name


@pytest.fixture(scope="module")
def drawn(name: str) -> dict[str, draw_pages.Drawn]:
    return draw_pages.draw(name)


def test_every_folder_of_results_is_looked_at() -> None:
    assert draw_pages.folders() == list(PUBLISHED)


def test_rows_are_whole_and_of_their_seeds(name: str, folder: Path) -> None:
    given = read_given([str(folder / "rows.csv")])
    rows = draw_pages.read_rows(folder)
    assert len(given.rows) == rows["identity"].nunique() == PUBLISHED[name].identities
    assert set(rows["seed"]) == PUBLISHED[name].seeds


def test_all_tables_and_claims_are_drawn(name: str, drawn: dict[str, draw_pages.Drawn]) -> None:
    assert sum(len(part.tables) for part in drawn.values()) == PUBLISHED[name].tables
    assert sum(len(draw_pages.claim_lines(part.claims)) for part in drawn.values()) == PUBLISHED[name].claims


def test_numbers_and_verdicts_follow_from_the_rows(folder: Path, drawn: dict[str, draw_pages.Drawn]) -> None:
    assert [path.name for path, _ in draw_pages.tables_drawn(folder, drawn)] == []


def test_the_page_shows_these_tables_and_claims(folder: Path, drawn: dict[str, draw_pages.Drawn]) -> None:
    page = (folder / "README.md").read_text()
    for table in (table for part in drawn.values() for table in part.tables.values()):
        assert table in page, f"the page should have\n{table}"
    for old, new in zip(page.splitlines(), draw_pages.drawn_page(page, drawn).splitlines(), strict=True):
        assert words(old) == words(new)
        assert all(map(is_near, NUMBER.findall(old), NUMBER.findall(new))), old


NUMBER = re.compile(r"-?\d+(?:\.\d+)?(?:e-?\d+)?")


def words(line: str) -> list[str]:
    return [text.strip(" -") for text in NUMBER.split(line)]


def is_near(old: str, new: str) -> bool:
    """Whether two written numbers differ by one of the last digit at most: a half may be rounded either way."""
    mantissa, _, power = old.partition("e")
    digit = 10.0 ** (int(power or 0) - len(mantissa.partition(".")[2]))
    return abs(float(old) - float(new)) <= 1.01 * digit
