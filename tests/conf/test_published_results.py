"""What docs/results says of a paper follows from the rows beside it: they are judged and drawn again."""

from collections.abc import Mapping
from typing import Any

import pandas as pd
import pytest
from configs import Compose, Config
from conftest import ROOT
from stated import PARTS

from epsball.build import construct
from epsball.output.tables import markdown
from epsball.paper.claims import Claim, claims_table
from epsball.paper.tables import Table, compare, paper_table
from epsball.results.given import read_given
from epsball.results.rows import as_dicts

PUBLISHED = ROOT / "docs" / "results" / "tramer"
Redrawn = dict[str, tuple[pd.DataFrame, pd.DataFrame]]
TEXTS = dict.fromkeys(("source_model", "target_model", "identity"), str)


@pytest.fixture(scope="module")
def parts(compose: Compose) -> dict[str, Config]:
    return {part: compose(f"paper=tramer/{part}", "scale=paper") for part in PARTS}


@pytest.fixture(scope="module")
def rows() -> pd.DataFrame:
    return pd.read_csv(PUBLISHED / "rows.csv", dtype=TEXTS)


def own(rows: pd.DataFrame, config: Config) -> list[Mapping[str, Any]]:
    """The rows of one part: those of its models, attacks and eps."""
    eps = {name: attack["eps"] for name, attack in config["suite"].items() if attack}
    values = {name: found if isinstance(found, list) else [found] for name, found in eps.items()}
    known = [
        row["attack"] not in values or any(abs(row["eps"] - value) < 1e-9 for value in values[row["attack"]])
        for row in as_dicts(rows)
    ]
    return as_dicts(rows[known])


@pytest.fixture(scope="module")
def redrawn(parts: dict[str, Config], rows: pd.DataFrame) -> Redrawn:
    """The comparison and the judged claims of each part."""
    found = {}
    for part, config in parts.items():
        tables = {name: construct(Table, spec, where=name) for name, spec in config["tables"].items()}
        claims = {name: construct(Claim, spec, where=name) for name, spec in config["claims"].items()}
        mine = own(rows, config)
        found[part] = compare(tables, mine), claims_table(claims, mine)
    return found


def test_rows_are_whole_and_of_four_seeds(rows: pd.DataFrame) -> None:
    given = read_given([str(PUBLISHED / "rows.csv")])
    assert len(given.rows) == rows["identity"].nunique() > 100
    assert set(rows["seed"]) == {0, 1, 2, 3}


def test_numbers_and_verdicts_follow_from_the_rows(redrawn: Redrawn) -> None:
    compared, judged = (pd.read_csv(PUBLISHED / f"{name}.csv") for name in ("comparison", "claims"))
    for part, (numbers, verdicts) in redrawn.items():
        for found, published in ((numbers, compared), (verdicts, judged)):
            mine = published[published["part"] == f"tramer/{part}"].drop(columns="part").reset_index(drop=True)
            assert len(found) == len(mine), part
            if len(found):
                pd.testing.assert_frame_equal(found[list(mine)], mine, rtol=1e-9, check_dtype=False)


def test_the_page_shows_these_tables_and_verdicts(parts: dict[str, Config], redrawn: Redrawn) -> None:
    page = (PUBLISHED / "README.md").read_text()
    shown = 0
    for part, (numbers, verdicts) in redrawn.items():
        for name, spec in parts[part]["tables"].items():
            text = markdown(paper_table(name, construct(Table, spec, where=name), numbers))
            assert text in page, f"{part}: the page should have\n{text}"
            shown += 1
        for claim, checks in verdicts.groupby("claim") if len(verdicts) else ():
            verdict = checks["verdict"].iloc[0]
            assert f"| {claim} | {verdict} |" in page or f"| {claim} | **{verdict}** |" in page, (claim, verdict)
            shown += 1
    assert shown >= 16 + 9
