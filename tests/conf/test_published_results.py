"""What docs/results says of a paper follows from the rows beside it: they are judged and drawn again."""

from collections.abc import Collection, Mapping
from functools import partial
from math import isnan
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import pytest
from configs import Compose, Config
from conftest import ROOT
from stated import KARIYAPPA_MEASURED, KURAKIN_MEASURED, MADRY_PARTS, PARTS

from epsball.build import construct
from epsball.experiment.grid import expand_grids, resolve
from epsball.output.tables import markdown
from epsball.paper.claims import Claim, claims_table
from epsball.paper.tables import Table, compare, paper_table
from epsball.results.given import read_given
from epsball.results.rows import as_dicts

EXPERIMENTS = sorted((ROOT / "docs" / "results").rglob("paper/*/*.yaml"))
"""configs of experiments of our own, each in a folder with its rows and its page"""
Redrawn = dict[str, tuple[pd.DataFrame, pd.DataFrame]]
TEXTS = dict.fromkeys(("source_model", "target_model", "identity", "worst_for"), str)


class Published(NamedTuple):
    """Results of a paper that docs/results has."""

    parts: Collection[str]
    scale: str
    seeds: set[int]
    claims: int
    """how many are judged"""
    tables: int
    identities: int
    """how many rows are measured, each under one name or several"""


PAPERS = {  # by folder
    "tramer": Published(PARTS, "paper", {0, 1, 2, 3}, claims=17, tables=10, identities=204),
    "madry": Published(MADRY_PARTS, "quick", {0}, claims=22, tables=10, identities=274),
    "kariyappa": Published(KARIYAPPA_MEASURED, "quick", {0}, claims=11, tables=9, identities=144),
    "kariyappa/paper": Published(
        ("table2_conv3", "figure4_conv3", "surrogates"), "paper", {0}, claims=5, tables=3, identities=68
    ),
    "kariyappa/log_odds": Published(
        ("table2_conv3", "figure4_conv3", "surrogates"), "quick", {0, 1, 2}, claims=5, tables=3, identities=204
    ),
    "kariyappa/log_odds/activations": Published(
        ("activations",), "quick", {0, 1, 2}, claims=1, tables=3, identities=30
    ),
    "kariyappa/log_odds/images_30000": Published(
        ("table2_conv3", "figure4_conv3"), "quick", {0}, claims=4, tables=2, identities=24
    ),
    "kariyappa/log_odds/images_30000/seed_1": Published(
        ("table2_conv3", "figure4_conv3"), "quick", {1}, claims=4, tables=2, identities=24
    ),
    "kurakin": Published(KURAKIN_MEASURED, "quick", {0}, claims=15, tables=13, identities=364),
    "kurakin/three_seeds": Published(
        (
            *("table1", "table2", "table3", "table4", "table5", "table6", "table7", "table8"),
            *("figure1", "figure2", "figure3", "figure4", "figure5", "text"),
        ),
        "quick",
        {0, 1, 2},
        claims=15,
        tables=13,
        identities=1092,
    ),
    "kurakin/images_50000/epochs_3": Published(("table1", "table3"), "quick", {0}, claims=3, tables=3, identities=27),
    "kurakin/images_50000/seed_1": Published(("table1",), "quick", {1}, claims=2, tables=1, identities=10),
    "kurakin/images_50000": Published(("table1", "table3"), "quick", {0}, claims=3, tables=3, identities=37),
}


@pytest.fixture(scope="module", params=PAPERS)
def published(request: pytest.FixtureRequest) -> Published:
    return PAPERS[request.param]


@pytest.fixture(scope="module")
def folder(published: Published) -> Path:
    return ROOT / "docs" / "results" / next(name for name, value in PAPERS.items() if value is published)


@pytest.fixture(scope="module")
def paper(folder: Path) -> str:
    return folder.relative_to(ROOT / "docs" / "results").parts[0]


@pytest.fixture(scope="module")
def parts(compose: Compose, published: Published, paper: str) -> dict[str, Config]:
    return {part: compose(f"paper={paper}/{part}", f"scale={published.scale}") for part in published.parts}


@pytest.fixture(scope="module")
def rows(folder: Path) -> pd.DataFrame:
    return read_rows(folder)


def read_rows(folder: Path) -> pd.DataFrame:
    """Read rows.csv, with the images that were mistaken where they were kept."""
    rows = pd.read_csv(folder / "rows.csv", dtype=TEXTS)
    bits = folder / "mistakes.csv"
    return rows.merge(pd.read_csv(bits, dtype=str), on="identity", how="left") if bits.exists() else rows


def own(rows: pd.DataFrame, config: Config) -> list[Mapping[str, Any]]:
    """The rows of one part: those of its data set, models, measurements, attacks and eps."""
    eps = {name: attack["eps"] for name, attack in config["suite"].items() if attack}
    values = {name: found if isinstance(found, list) else [found] for name, found in eps.items()}
    measured = {config["measurement"]["name"]: config["measurement"], **config["measurements"]}

    def belongs(row: Mapping[str, Any]) -> bool:
        attacks = row["attack"] not in values or any(abs(row["eps"] - value) < 1e-9 for value in values[row["attack"]])
        known = row["attack"] in ("clean", *values) or not values or row["measurement"] not in STARTS
        by = measured.get(row["measurement"])
        named = by is not None or row["measurement"] == "clean"
        return (
            str(row["dataset"]).startswith(config["dataset"]["name"]) and attacks and known and named and fits(row, by)
        )

    return [row for row in as_dicts(rows) if belongs(row)]


STARTS = ("loss_paths", "restarts")
"""what parts of Madry's paper call a loss_paths: several have one, of other starts and images"""


def fits(row: Mapping[str, Any], by: Config | None) -> bool:
    """Whether a row of loss_paths is of so many starts, and where it is of all images, of so many of these."""
    if by is None or by["name"] != "loss_paths":
        return True
    restarts = row["restarts"]
    starts = isnan(restarts) or restarts in (1, by["restarts"])
    return starts and (isnan(row["final_loss"]) or row["n"] == by["images"])


@pytest.fixture(scope="module")
def redrawn(parts: dict[str, Config], rows: pd.DataFrame) -> Redrawn:
    """The comparison and the judged claims of each part."""
    found = {}
    for part, config in parts.items():
        tables = {name: construct(Table, spec, where=name) for name, spec in config["tables"].items()}
        members = partial(resolve, places=expand_grids(config)[1])
        claims = {n: construct(Claim, spec, where=n).mapped(members) for n, spec in config["claims"].items()}
        mine = own(rows, config)
        found[part] = compare(tables, mine), claims_table(claims, mine)
    return found


def test_rows_are_whole_and_of_their_seeds(rows: pd.DataFrame, folder: Path, published: Published) -> None:
    given = read_given([str(folder / "rows.csv")])
    assert len(given.rows) == rows["identity"].nunique() == published.identities
    assert set(rows["seed"]) == published.seeds


def test_numbers_and_verdicts_follow_from_the_rows(redrawn: Redrawn, folder: Path, paper: str) -> None:
    compared, judged = (pd.read_csv(folder / f"{name}.csv") for name in ("comparison", "claims"))
    for part, (numbers, verdicts) in redrawn.items():
        for found, stated in ((numbers, compared), (verdicts, judged)):
            mine = stated[stated["part"] == f"{paper}/{part}"].drop(columns="part").reset_index(drop=True)
            assert len(found) == len(mine), part
            if len(found):
                again = found.reindex(columns=list(mine))
                pd.testing.assert_frame_equal(again.mask(again.isna()), mine, rtol=1e-9, check_dtype=False)


def test_the_page_shows_these_tables_and_verdicts(
    parts: dict[str, Config], redrawn: Redrawn, folder: Path, published: Published
) -> None:
    page = (folder / "README.md").read_text()
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
    assert shown == published.claims + published.tables


@pytest.mark.parametrize("file", EXPERIMENTS, ids=lambda file: file.stem)
def test_the_page_of_an_experiment_of_our_own_shows_its_tables(compose: Compose, file: Path) -> None:
    folder = file.parent
    config = compose(f"hydra.searchpath=[file://{folder.parents[1]}]", f"paper={folder.name}/{file.stem}")
    tables = {name: construct(Table, spec, where=name) for name, spec in config["tables"].items()}
    numbers = compare(tables, as_dicts(read_rows(folder)))
    page = (folder / "README.md").read_text()
    assert tables
    for name, table in tables.items():
        text = markdown(paper_table(name, table, numbers))
        assert text in page, f"the page should have\n{text}"


def test_experiments_of_our_own_were_found() -> None:
    assert len(EXPERIMENTS) >= 5
