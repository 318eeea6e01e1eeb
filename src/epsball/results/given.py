"""Rows that the user gives: results.csv of earlier runs, or rows.csv of a repository, with mistakes.csv beside them.

A row counts by its identity, a fingerprint of models, images, attack and seed: what a label says does not matter.
"""

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from math import isclose, isfinite, isnan
from pathlib import Path
from typing import Any

from epsball.build import ConfigError, one_line
from epsball.results.metrics import METRICS, Metric
from epsball.results.paired import unpacked_bits
from epsball.results.rows import FINGERPRINTS, KEY, MEASURED, MISTAKES, PAPER, SECONDS, TEXTS

NEEDED = ("dataset", "seed", "source", "target", "attack", "eps", "n", *FINGERPRINTS)
LABELS = ("dataset", "measurement", "seed", "source", "target", *FINGERPRINTS)
DROPPED = (*LABELS, "part", "error_top1_low", "error_top1_high", *PAPER)  # what a run knows or works out for itself
Label = tuple[Any, ...]  # as rows.KEY, then the seed


@dataclass
class GivenRows:
    """Rows by their identity, and which identities a run has asked for."""

    rows: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    """their numbers"""
    places: dict[Label, list[tuple[str, str]]] = field(default_factory=dict)
    """by what their labels say: identity and place, `FILE line N`"""
    files: dict[str, set[str]] = field(default_factory=dict)
    """the identities that each has"""
    differing: dict[tuple[str, str], set[str]] = field(default_factory=dict)
    """by a file and an earlier one, the identities of which the later has other numbers, which do not count"""
    asked: set[str] = field(default_factory=set)

    def find(self, identity: str) -> list[dict[str, Any]] | None:
        """Return the numbers of the rows of one identity."""
        self.asked.add(identity)
        return self.rows.get(identity)

    def unused_files(self) -> list[str]:
        """Return the files of whose rows none was asked for."""
        return [path for path, identities in self.files.items() if not identities & self.asked]

    def differing_files(self) -> list[tuple[str, str, int]]:
        """Return a file, an earlier one, and of how many identities that were asked for it has other numbers."""
        counts = [(*files, len(identities & self.asked)) for files, identities in self.differing.items()]
        return [(later, first, count) for later, first, count in counts if count]

    def check_labels(self, expected: Iterable[Label]) -> None:
        """ConfigError where a row has the label of an expected one and none of its identities was asked for: it is of
        another model, attack or data."""
        for label in expected:
            found = self.places.get(label, [])
            if found and not any(identity in self.asked for identity, _ in found):
                dataset, _, source, target, attack, eps, seed = label
                what = f"{target} clean" if attack == "clean" else f"{attack} at eps {eps:g} from {source} on {target}"
                raise ConfigError(
                    f"rows: {found[0][1]} ({dataset}, seed {seed}, {what}) was measured on other models or with other "
                    "settings than this run's: give rows of the same scale and settings, or leave this file out"
                )


def read_given(paths: Sequence[str]) -> GivenRows:
    """Read files of rows. Raises ConfigError, which names file and line, where one is damaged. The first file that has
    an identity counts; which images were mistaken, where that has none of it, comes from a later one."""
    given = GivenRows()
    for path in map(Path, paths):
        own: dict[str, list[dict[str, Any]]] = {}
        seen: set[object] = set()
        bits = read_mistakes(path.with_name("mistakes.csv"))
        for place, line in lines_of(path, NEEDED):
            row = checked(line, place)
            mistaken = bits.get(row["identity"], {})
            if wrong := why_unfit(row, mistaken):
                raise ConfigError(f"rows: mistakes.csv of {place} is damaged: {wrong}")
            row |= {column: mistaken[column] for column in counting(row) if column in mistaken}
            label = *(row.get(name, "") for name in KEY), row["seed"]
            given.places.setdefault(label, []).append((row["identity"], place))
            numbers = {name: value for name, value in row.items() if name in MEASURED and name not in DROPPED}
            group = own.setdefault(row["identity"], [])
            if "error_top1" in row and group:  # one, whatever its attack is called; others may be many of an identity
                if not is_again(numbers, group[0], numbers.keys() | group[0].keys()):
                    raise ConfigError(f"rows: {place} is damaged: another line of its identity has other numbers")
                continue
            content = row["identity"], *(item for item in numbers.items() if item[0] != SECONDS)
            if content not in seen:
                group.append(numbers)
            seen.add(content)
        for identity, group in own.items():
            rows = counted_once(group)
            first = given.rows.get(identity, rows)
            if not are_again(rows, first):
                earlier = next(file for file, identities in given.files.items() if identity in identities)
                given.differing.setdefault((str(path), earlier), set()).add(identity)
            given.rows[identity] = with_mistakes(first, rows)
        given.files[str(path)] = set(own)
    return given


def is_again(row: Mapping[str, Any], other: Mapping[str, Any], columns: Set[str]) -> bool:
    """Whether a row is another one again, in some columns: measured twice, it may differ in last bits and the seconds
    that it took."""
    return all(is_close(row.get(name), other.get(name)) for name in columns - {SECONDS, "attack"})


def are_again(rows: Sequence[Mapping[str, Any]], others: Sequence[Mapping[str, Any]]) -> bool:
    """Whether the rows of an identity are those of another file again, in the columns that both have: which images were
    mistaken is left aside, as the numbers say how many."""
    pairs = zip(rows, others, strict=False)
    return len(rows) == len(others) and all(
        is_again(row, other, (row.keys() & other.keys()) - set(MISTAKES)) for row, other in pairs
    )


def is_close(value: object, other: object) -> bool:
    if isinstance(value, float) and isinstance(other, float):
        return isclose(value, other, rel_tol=1e-5, abs_tol=1e-9)
    return value == other


def counted_once(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of one identity, once where several parts of a run call their attack differently."""
    named: dict[object, list[dict[str, Any]]] = {}
    for row in rows:
        others = {name: value for name, value in row.items() if name != "attack"}
        named.setdefault(row.get("attack"), []).append(others)
    (attack, first), *more = named.items()
    return [row for row in rows if row.get("attack") == attack] if all(own == first for _, own in more) else rows


def lines_of(path: Path, needed: Sequence[str]) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield the lines of a CSV file, each with its place. ConfigError where it is missing or cut off."""
    try:
        text = path.read_text(encoding="utf-8-sig")  # a spreadsheet begins its CSV files with a byte order mark
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"rows: {path} cannot be read ({one_line(error)})") from None
    reader = csv.reader(io.StringIO(text), strict=True)
    try:
        lines = [(f"{path} line {reader.line_num}", line) for line in reader]
    except csv.Error as error:
        raise ConfigError(f"rows: {path} line {reader.line_num} is damaged: {error}") from None
    columns = lines[0][1] if lines else []
    if absent := [name for name in needed if name not in columns]:
        raise ConfigError(f"rows: {path} lacks the columns {', '.join(absent)}: give a results.csv of this version")
    if not text.endswith("\n"):
        raise ConfigError(f"rows: {path} is cut off: its last line has no end")
    for place, line in lines[1:]:
        if len(line) != len(columns):
            raise ConfigError(f"rows: {place} is damaged: it has {len(line)} fields, the header {len(columns)}")
        yield place, dict(zip(columns, line, strict=True))


def checked(line: Mapping[str, str], place: str) -> dict[str, Any]:
    """Return a line's values, those that are empty left out. ConfigError where one cannot be right."""
    row: dict[str, Any] = {}
    for name, text in line.items():
        if text != "":
            row[name] = text if name in TEXTS else as_number(text)
    if absent := [name for name in NEEDED if name not in row]:
        raise ConfigError(f"rows: {place} is damaged: it lacks {', '.join(absent)}")
    if not (is_whole(row["seed"]) and is_whole(row["n"]) and row["n"] >= 0 and is_finite(row["eps"])):
        raise ConfigError(f"rows: {place} is damaged: seed and n should be whole numbers, and eps a number")
    for name in row.keys() & METRICS.keys():
        check_number(METRICS[name], row[name], row.get(METRICS[name].trials), place)
    return {**row, "seed": int(row["seed"]), "n": int(row["n"])}


def as_number(text: str) -> Any:
    try:
        return float(text)
    except ValueError:
        return text


def is_finite(value: object) -> bool:
    return isinstance(value, float) and isfinite(value)


def is_whole(value: object) -> bool:
    return isinstance(value, float) and value.is_integer()


def check_number(metric: Metric, value: object, trials: object, place: str) -> None:
    """ConfigError unless a rate is a whole number of trials out of all, or a mean of shares, and any other metric a
    number."""
    if not isinstance(value, float) or isnan(value):
        raise ConfigError(f"rows: {place} is damaged: {metric.name} should be a number, is {value!r}")
    counted = value * trials if isinstance(trials, float) else 0.0
    whole = metric.shares or (isfinite(counted) and abs(counted - round(counted)) < 1e-3)
    if metric.is_rate and not (0 <= value <= 1 and whole):
        raise ConfigError(f"rows: {place} is damaged: {metric.name} should be a share of {trials} images, is {value!r}")


def read_mistakes(path: Path) -> dict[str, dict[str, str]]:
    """Return which images were mistaken, packed, by the rows' identity; nothing where there is no such file."""
    if not path.exists():
        return {}
    lines = lines_of(path, ("identity",))
    return {line["identity"]: {name: line[name] for name in MISTAKES if line.get(name)} for _, line in lines}


def counting(row: Mapping[str, Any]) -> dict[str, Metric]:
    """Return the rates of a row that count mistaken images, by the column that says which these are."""
    rates = [metric for metric in METRICS.values() if metric.name in row and not metric.complement]
    return {metric.mistakes: metric for metric in rates if metric.mistakes}


def why_unfit(row: Mapping[str, Any], bits: Mapping[str, str]) -> str:
    """Say why `bits`, by column, are not the mistaken images that a row's rates count; empty where they are as many."""
    for column, metric in counting(row).items():
        if column not in bits:
            continue
        try:
            counted = int(unpacked_bits(bits[column], row["n"]).sum())
        except ValueError as error:
            return str(error)
        if counted != round(row[metric.name] * row["n"]):
            return f"it has {counted} of {row['n']} images, {metric.name} is {row[metric.name]}"
    return ""


def lacks_mistakes(rows: Sequence[Mapping[str, Any]]) -> bool:
    """Whether it is not known which images the error of the one row of an identity counts."""
    return len(rows) == 1 and not counting(rows[0]).keys() <= rows[0].keys()


def with_mistakes(rows: list[dict[str, Any]], others: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the rows of an identity; one alone with the images mistaken that it lacks and that the same row has among
    `others`. Those of a machine on which they were more or fewer do not count."""
    if not lacks_mistakes(rows) or len(others) != 1:
        return rows
    row, other = rows[0], others[0]
    bits = {column: other[column] for column in counting(row) if column not in row and column in other}
    return rows if why_unfit(row, bits) else [row | bits]
