"""What a run says of its rows: statements judged, part by part and of all together, files and pages written."""

import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from epsball.experiment.prepare import Experiment
from epsball.experiment.record import Part, Record
from epsball.experiment.statements import Statements
from epsball.measurements.measurement import Row, Rows
from epsball.output.pages import Section, html_page, markdown_page
from epsball.output.tables import write_csv, write_results
from epsball.paper.claims import (
    claims_sections,
    claims_summary,
    claims_table,
    conclusion_sections,
    console_claims,
)
from epsball.paper.figures import figure_sections
from epsball.paper.points import figure_points
from epsball.paper.statement import Statement
from epsball.paper.tables import compare, comparison_sections, table_sections, with_paper_values
from epsball.paper.values import by_seed, why_unknown
from epsball.results.intervals import with_intervals
from epsball.results.rows import COLUMNS, FURTHER, IMAGES, KEY, MEASURED, PAPER, as_dicts
from epsball.runtime.files import write_whole
from epsball.training.spec import ModelSpec

if TYPE_CHECKING:
    import pandas as pd

Stated = TypeVar("Stated", bound=Statement)

log = logging.getLogger(__name__)


class Judged(NamedTuple):
    """What rows say of the statements of a paper."""

    compared: "pd.DataFrame"
    """every number of its tables beside the paper's"""
    claims: "pd.DataFrame"
    """every check of its claims"""
    points: "pd.DataFrame"
    """every point of its figures"""


@dataclass(frozen=True)
class PartResult:
    """A part when it is done: its files, its sections, its numbers judged."""

    files: list[Path]
    """most readable first"""
    sections: list[Section]
    results: "pd.DataFrame"
    """its rows"""
    judged: Judged
    images: str
    """checksum of the test images that they are of"""


def present_part(part: Part, rows: Rows, record: Record) -> PartResult:
    """Judge the rows of one part, write all files of its directory but run.json, and print what they show."""
    experiment, folder, frames = part[0], record.directory, as_frames(rows)
    frames["results"] = results = with_paper_values(with_intervals(frames["results"]), experiment.statements.tables)
    kept = write_results(results, folder / "results.csv")  # first: whatever else fails
    judged = judge(experiment.statements, results)
    sections = judged_sections(experiment.statements, judged, folder)
    for label, measurement in experiment.measurements.items():
        own = {file: of_measurement(frame, label) for file, frame in frames.items()}
        with folder_of(label, experiment, folder) as own_folder:
            sections += measurement.present(own, own_folder)
        print(measurement.say(own), end="")
    sections.append(models_section(part, results, record))
    print(console_claims(claims_summary(judged.claims)))
    for section in conclusion_sections(experiment.statements.conclusion, judged.claims):
        print(section.text)
    written = write_judged(judged, folder)
    files = [*write_pages(record, sections), *images_of(sections), *written, *kept]
    return PartResult(files, sections, results, judged, experiment.data.test_checksum)


def judge(statements: Statements, results: "pd.DataFrame") -> Judged:
    """Set our numbers beside those of the paper's tables, judge its claims, check by check, and measure its figures."""
    rows = as_dicts(results)
    seeds = by_seed(rows)
    for where, statement in statements.named():
        reasons = dict.fromkeys(why_unknown(quantity, seeds) for quantity in statement.quantities)
        for reason in filter(None, reasons):
            log.warning("%s: the worst of several is not known: %s", where, reason)
    return Judged(
        compared=answered("tables", compare, statements.tables, rows),
        claims=answered("claims", claims_table, statements.claims, rows),
        points=answered("figures", figure_points, statements.figures, rows),
    )


def answered(
    key: str,
    answer: Callable[[Mapping[str, Stated], Sequence[Row]], "pd.DataFrame"],
    stated: Mapping[str, Stated],
    rows: Sequence[Row],
) -> "pd.DataFrame":
    """Answer statements from rows. A statement that names several rows where it means one is logged as an error and
    stays open, so that what has been measured is still reported."""
    import pandas as pd

    try:
        return answer(stated, rows)
    except ValueError:
        single = []
        for name, each in stated.items():
            try:
                single.append(answer({name: each}, rows))
            except ValueError as error:
                log.error("%s.%s stays open: %s", key, name, error)
                single.append(answer({name: each}, []))
        return pd.concat([frame for frame in single if len(frame)] or single[:1], ignore_index=True)


def images_of(sections: Iterable[Section]) -> list[Path]:
    return [section.image for section in sections if section.image]


def judged_sections(statements: Statements, judged: Judged, folder: Path) -> list[Section]:
    """Show tables, figures, which are drawn into `folder`, claims and every number beside the paper's."""
    return [
        *conclusion_sections(statements.conclusion, judged.claims),
        *table_sections(statements.tables, judged.compared),
        *figure_sections(statements.figures, judged.points, folder),
        *claims_sections(claims_summary(judged.claims)),
        *comparison_sections(judged.compared),
    ]


def models_section(part: Part, results: "pd.DataFrame", record: Record) -> Section:
    """Say what each model of a part is; of several seeds in one line, with the mean of their clean errors, those of the
    rows or else, of a model that has none, of its training."""
    import pandas as pd

    clean = results[results["measurement"] == "clean"]
    measured: dict[tuple[Any, Any], Any] = {(row["target"], row["seed"]): row["error_top1"] for row in as_dicts(clean)}
    found: dict[str, list[tuple[int, ModelSpec, Mapping[str, Any]]]] = {}
    for experiment in part:
        known = dict(record.models.recorded(experiment.specs))
        for name, spec in experiment.specs.items():
            found.setdefault(name, []).append((experiment.settings.seed, spec, known[name]))
    columns = ["model", "arch and trainer", "epochs", "seed", "parameters", "clean error", "fingerprint"]
    lines: list[list[object]] = []
    for name, each in found.items():
        (_, spec, row), specs = each[0], [spec for _, spec, _ in each]
        names = [other for other, same in part[0].aliases.items() if same == name] or [name]
        epochs = "-" if spec.trainer is None else f"{spec.epochs:g}"
        every = [measured.get((name, seed), own.get("clean_error")) for seed, _, own in each]
        errors = [error for error in every if error is not None]
        error = fmean(errors) * 100 if errors else "-"
        own = [listed_once(one.seed for one in specs), row.get("parameters", "-"), error]
        lines.append([", ".join(names), spec.label, epochs, *own, listed_once(one.key for one in specs)])
    text = "Clean error in per cent; epochs of training; -: not known."
    return Section("Models", text, pd.DataFrame(lines, columns=columns))


def listed_once(values: Iterable[object]) -> str:
    """Write values one after another, equal ones once."""
    return ", ".join(dict.fromkeys(map(str, values)))


@contextmanager
def folder_of(label: str, experiment: Experiment, directory: Path) -> Iterator[Path]:
    """Give a measurement the folder to write its files in: the first one the run's own, so that no file overwrites
    another's; every other one a folder below, which goes again if it stays empty."""
    first = label == next(iter(experiment.measurements))
    folder = directory if first else directory / label
    folder.mkdir(exist_ok=True)
    yield folder
    if not any(folder.iterdir()):
        folder.rmdir()


def of_measurement(frame: "pd.DataFrame", label: str) -> "pd.DataFrame":
    """Return a measurement's own rows and those of clean images, without columns in which they have nothing."""
    if frame.empty:
        return frame
    own = frame[frame["measurement"].isin(["clean", label])]
    return own.dropna(axis=1, how="all") if len(own) else own


def as_frames(rows: Rows) -> dict[str, "pd.DataFrame"]:
    """Return rows as frames; one of no results has their columns."""
    import pandas as pd

    columns = {"results": COLUMNS}
    return {file: pd.DataFrame(found, columns=None if found else columns.get(file)) for file, found in rows.items()}


def joined_rows(results: Iterable[PartResult]) -> "pd.DataFrame":
    """Return the rows of all parts, without the papers' numbers. What several parts have is there once, as the first
    measured it, with the grid's values that any of them gives it: the same model may stand in a grid in one alone."""
    import pandas as pd

    rows = pd.concat([result.results for result in results], ignore_index=True)
    rows = rows.drop(columns=list(PAPER), errors="ignore")
    known = [name for name in ("seed", *KEY, *FURTHER, "identity") if name in rows]
    grid = [str(name) for name in rows if name not in MEASURED]
    if grid and len(rows):
        rows[grid] = rows.groupby(known, dropna=False, sort=False)[grid].transform("first")
    return rows.drop_duplicates(known, ignore_index=True)


def join_parts(
    results: Mapping[str, PartResult], rows: "pd.DataFrame", record: Record, joint: Statements
) -> list[Path]:
    """Write the rows, the report, the claims, the comparison and the figures' points of all parts together."""
    kept = write_results(rows, record.directory / "rows.csv")
    images = {identity: result.images for result in results.values() for identity in result.results["identity"]}
    own = judge(joint, rows.assign(**{IMAGES: rows["identity"].map(images)}))
    every = {"": own, **{name: result.judged for name, result in results.items()}}
    judged = Judged(*(together({name: one[i] for name, one in every.items()}) for i in range(len(own))))
    stated = judged_sections(joint, own._replace(claims=own.claims[:0]), record.directory)
    concluded = conclusion_sections(joint.conclusion, own.claims)
    drawn, sections = images_of(stated), [*concluded, *claims_sections(claims_summary(judged.claims)), *stated]
    for name, result in results.items():
        sections += [Section(name), *(replace(section, level=section.level + 1) for section in result.sections)]
    print(console_claims(claims_summary(judged.claims)))
    for section in concluded:
        print(section.text)
    return [*write_pages(record, sections), *drawn, *write_judged(judged, record.directory), *kept]


def together(frames: Mapping[str, "pd.DataFrame"]) -> "pd.DataFrame":
    """Put the frames of several parts one below the other, with the name of their part."""
    import pandas as pd

    filled = [frame.assign(part=name) for name, frame in frames.items() if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()


def write_pages(record: Record, sections: list[Section]) -> list[Path]:
    html, markdown, facts = record.directory / "report.html", record.directory / "report.md", record.facts()
    write_whole(html, html_page(record.name, facts, sections))
    write_whole(markdown, markdown_page(record.name, facts, sections, record.directory))
    return [html, markdown]


def write_judged(judged: Judged, folder: Path) -> list[Path]:
    """Write `claims.csv`, `comparison.csv` and `figures.csv`, each where it has something to say; else none is left of
    an earlier run that goes on here."""
    names = {"claims.csv": judged.claims, "comparison.csv": judged.compared, "figures.csv": judged.points}
    files = {folder / name: frame for name, frame in names.items()}
    for path, frame in files.items():
        if len(frame):
            write_csv(frame, path)
        else:
            path.unlink(missing_ok=True)
    return [path for path, frame in files.items() if len(frame)]
