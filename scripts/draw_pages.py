"""Draw again what pages of docs/results show, from the rows beside them, after rows or what a paper states changed.

    python scripts/draw_pages.py [FOLDER ...]    # of docs/results; all without any

A folder has rows.csv, README.md and mostly comparison.csv and claims.csv. These two are written anew, and in README.md
the tables of numbers and the lines of judged claims, each where one of the same header and names stands. Text and
figures are not touched.
"""

import argparse
import re
from collections.abc import Iterator, Mapping
from functools import partial
from math import isnan
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from epsball.build import construct
from epsball.cli.compose import composed
from epsball.experiment.grid import expand_grids, resolve
from epsball.output.tables import markdown
from epsball.paper.claims import Claim, claims_table, number_format, side_text
from epsball.paper.tables import Table, compare, paper_table
from epsball.results.rows import TEXTS, as_dicts

RESULTS = Path(__file__).resolve().parent.parent / "docs" / "results"
PAPER_SCALE = ("tramer", "kariyappa/paper", "kariyappa/log_odds/paper", "kariyappa/log_odds/paper/epochs")
"""folders of rows at paper scale; others are of quick"""
AS_TEXT = dict.fromkeys((*TEXTS, "worst_for"), str)
STARTS = ("loss_paths", "restarts")
"""what parts of Madry's paper call a loss_paths: several have one, of other starts and images"""


class Drawn(NamedTuple):
    """What the rows of a folder say of one config."""

    tables: dict[str, str]
    """each in Markdown"""
    comparison: pd.DataFrame
    claims: pd.DataFrame
    """of every check"""


def folders() -> list[str]:
    """Folders with results of a paper's parts, and those of experiments of our own, each with its config."""
    found = [path.parent for pattern in ("**/comparison.csv", "**/paper/*/*.yaml") for path in RESULTS.glob(pattern)]
    return sorted({path.relative_to(RESULTS).as_posix() for path in found if (path / "rows.csv").exists()})


def configs_of(name: str) -> dict[str, dict[str, Any]]:
    """Compose what a folder has rows of, by part."""
    folder = RESULTS / name
    scale = "paper" if name in PAPER_SCALE else "quick"
    if (folder / f"{folder.name}.yaml").exists():
        place = f"hydra.searchpath=[file://{folder.parents[1]}]"
        return {folder.name: composed(place, f"paper={folder.name}/{folder.name}", f"scale={scale}")}
    parts = {part for file in ("comparison", "claims") for part in pd.read_csv(folder / f"{file}.csv")["part"]}
    return {part: composed(f"paper={part}", f"scale={scale}") for part in sorted(parts)}


def draw(name: str) -> dict[str, Drawn]:
    """Compare and judge the rows of a folder, by part."""
    rows = read_rows(RESULTS / name)
    return {part: draw_part(config, rows) for part, config in configs_of(name).items()}


def draw_part(config: dict[str, Any], rows: pd.DataFrame) -> Drawn:
    """Compare and judge those of the rows that are of one config."""
    members = partial(resolve, places=expand_grids(config)[1])
    tables = {n: construct(Table, spec, where=n).mapped(members) for n, spec in config["tables"].items()}
    claims = {n: construct(Claim, spec, where=n).mapped(members) for n, spec in config["claims"].items()}
    own = rows_of(config, rows)
    numbers = compare(tables, own)
    shown = {name: markdown(paper_table(name, table, numbers)) for name, table in tables.items()}
    return Drawn(shown, numbers, claims_table(claims, own))


def read_rows(folder: Path) -> pd.DataFrame:
    """Read rows.csv, with the images that were mistaken where they were kept."""
    rows = pd.read_csv(folder / "rows.csv", dtype=AS_TEXT)
    bits = folder / "mistakes.csv"
    return rows.merge(pd.read_csv(bits, dtype=str), on="identity", how="left") if bits.exists() else rows


def rows_of(config: dict[str, Any], rows: pd.DataFrame) -> list[Mapping[str, Any]]:
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


def fits(row: Mapping[str, Any], by: dict[str, Any] | None) -> bool:
    """Whether a row of loss_paths is of so many starts, and where it is of all images, of so many of these."""
    if by is None or by["name"] != "loss_paths":
        return True
    restarts = row["restarts"]
    starts = isnan(restarts) or restarts in (1, by["restarts"])
    return starts and (isnan(row["final_loss"]) or row["n"] == by["images"])


class ClaimLine(NamedTuple):
    """What a page's line of a claim has behind its name."""

    says: str
    verdict: str
    numbers: str
    """of each check left, right, their gap, its interval and verdict"""


def claim_lines(claims: pd.DataFrame) -> dict[str, ClaimLine]:
    """Return the line of each claim."""
    if claims.empty:
        return {}
    lines = {}
    for name, group in claims.groupby("claim", sort=False):
        checks = as_dicts(group)
        known = [check for check in checks if not isnan(check["gap"])]
        missing = len(checks) - len(known)
        absent = [f"{missing} check{'s'[: missing > 1]} not measured"] if missing else []
        says = " ".join(str(checks[0]["says"]).replace("|", r"\|").split())
        lines[str(name)] = ClaimLine(says, str(checks[0]["verdict"]), "; ".join([*map(check_text, known), *absent]))
    return lines


def check_text(check: Mapping[str, Any]) -> str:
    """Write `left, right: gap [interval] verdict`, rates in per cent; with several seeds, in how many it holds."""
    number = number_format(check["percent"], check["gap_high"] - check["gap_low"])
    left, right = (number(check[side]) for side in ("left", "right"))
    seeds = f", holds in {check['seeds_holding']} of {check['seeds']}" if check["seeds"] > 1 else ""
    return f"{left}, {right}: {side_text(check, 'gap')} {check['check_verdict']}{seeds}"


def with_tables(page: str, tables: list[str]) -> str:
    """Put each table in the place of the first with its header and first column that is none of `tables`; of several
    with the same, each where most of its words stand. ValueError where there is no such place, or no one such."""
    for table in tables:
        if table in page:
            continue
        alike = [other for other in tables if names_of(other) == names_of(table)]
        blocks = re.finditer(r"(?:^\|.*\n)+", page, re.MULTILINE)
        free = [block for block in blocks if names_of(block[0]) == names_of(table) and block[0] not in alike]
        if len(alike) > 1:
            free.sort(key=lambda place: shared_words(place[0], table), reverse=True)
            if len(free) > 1 and shared_words(free[0][0], table) == shared_words(free[1][0], table):
                raise ValueError(f"README.md has several tables that this one might take the place of:\n{table}")
        if not free:
            raise ValueError(f"README.md should have a table with this header and these lines:\n{table}")
        page = page[: free[0].start()] + table + page[free[0].end() :]
    return page


def shared_words(one: str, other: str) -> int:
    """Return how many words two tables of one shape have at the same places."""
    return sum(a == b for a, b in zip(one.split(), other.split(), strict=False))


def names_of(table: str) -> tuple[list[str], list[str]]:
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table.splitlines()]
    return cells[0], [line[0] for line in cells[2:]]


def with_claim(page: str, name: str, line: ClaimLine) -> str:
    """Put a claim's line in the place of the one with its name, a verdict in bold stays so; ValueError where there is
    none."""
    found = re.search(rf"^\| {re.escape(name)} \| .* \| (\**)\w+\** \| .* \|$", page, re.MULTILINE)
    bold = found[1] if found else ""
    text = f"| {name} | {line.says} | {bold}{line.verdict}{bold} | {line.numbers} |"
    if not found:
        raise ValueError(f"README.md should have a line {text}")
    return page[: found.start()] + text + page[found.end() :]


def drawn_page(page: str, parts: Mapping[str, Drawn]) -> str:
    """Return the page with its tables and claims as drawn; ValueError where it has no place for one."""
    page = with_tables(page, [table for part in parts.values() for table in part.tables.values()])
    for part in parts.values():
        for name, line in claim_lines(part.claims).items():
            page = with_claim(page, name, line)
    return page


def joined(parts: Mapping[str, pd.DataFrame], old: pd.DataFrame) -> pd.DataFrame:
    """Put the parts below each other, in the order and with the columns of the file that stands."""
    order = [*dict.fromkeys(old.get("part", ()))]
    known = [frame.assign(part=part) for part, frame in parts.items() if len(frame)]
    known.sort(key=lambda frame: order.index(frame["part"][0]) if order else 0)
    return pd.concat(known, ignore_index=True).reindex(columns=list(old))


def same(new: pd.DataFrame, old: pd.DataFrame) -> bool:
    """Whether the numbers are equal but for rounding, all else exactly."""
    try:
        pd.testing.assert_frame_equal(new.mask(new.isna()), old, rtol=1e-9, check_dtype=False)
    except AssertionError:
        return False
    return True


def tables_drawn(folder: Path, parts: Mapping[str, Drawn]) -> Iterator[tuple[Path, str]]:
    """Yield comparison.csv and claims.csv with their texts where they should be others."""
    for path, frames in (
        (folder / "comparison.csv", {part: drawn.comparison for part, drawn in parts.items()}),
        (folder / "claims.csv", {part: drawn.claims for part, drawn in parts.items()}),
    ):
        if path.exists() and not same(new := joined(frames, old := pd.read_csv(path)), old):
            yield path, new.to_csv(index=False)


def files_drawn(folder: Path, parts: Mapping[str, Drawn]) -> Iterator[tuple[Path, str]]:
    """Yield each file of a folder that should be another, with its text."""
    yield from tables_drawn(folder, parts)
    page = folder / "README.md"
    if (text := drawn_page(old := page.read_text(), parts)) != old:
        yield page, text


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="*", metavar="FOLDER", help="of docs/results: kurakin/three_seeds")
    for name in parser.parse_args().folders or folders():
        try:
            for path, text in files_drawn(RESULTS / name, draw(name)):
                path.write_text(text)
                print(path)
        except (OSError, ValueError) as error:
            parser.error(f"{name}: {error}")


if __name__ == "__main__":
    main()
