"""A run, in the order in which things happen: train, set up, measure, judge, write; part by part and seed by seed."""

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from torch import nn

from epsball.experiment.prepare import Experiment
from epsball.experiment.record import Part, Record
from epsball.measurements.measurement import Rows, Setup, clean_row
from epsball.output.pages import Section, html_page, markdown_page
from epsball.output.tables import write_csv, write_results
from epsball.paper.claims import claims_sections, claims_summary, claims_table, console_claims
from epsball.paper.tables import compare, comparison_sections, table_sections, with_paper_values
from epsball.results.intervals import with_intervals
from epsball.results.rows import as_dicts
from epsball.runtime.device import executing
from epsball.runtime.files import write_whole
from epsball.runtime.progress import Stop
from epsball.runtime.store import Store
from epsball.training.parallel import train_in_parallel
from epsball.training.trained import TrainedModels

if TYPE_CHECKING:
    import pandas as pd

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PartResult:
    """A part when it is done: its files, its sections, its numbers judged."""

    files: list[Path]
    """most readable first"""
    sections: list[Section]
    compared: "pd.DataFrame"
    """every number of its tables beside the paper's"""
    judged: "pd.DataFrame"
    """every check of its claims"""


def run_experiments(name: str, parts: Sequence[Part], directory: Path, overrides: list[str], stop: Stop) -> list[Path]:
    """Run all parts; the files written, most readable first. `run.json` says how it ended.

    Several parts get a folder each, with the files of a run, and a report of all of them above.
    """
    settings, store = parts[0][0].settings, Store(Path(parts[0][0].settings.outputs), stop.check)
    models = TrainedModels(store, stop, [experiment.specs for part in parts for experiment in part])
    record = Record(name, parts, directory, overrides, models)
    with record.recording():
        if settings.workers > 1:
            train_in_parallel(record.wanted(), models, settings.workers, settings.threads)
        if len(parts) == 1:
            return [*run_part(parts[0], record, models).files, directory / "run.json"]
        results = {}
        for part, part_record in zip(parts, record.of_parts(), strict=True):
            log.info("%s", part_record.name)
            with part_record.recording():
                results[part_record.name] = run_part(part, part_record, models)
        return [*join_parts(results, record), directory / "run.json"]


def run_part(part: Part, record: Record, models: TrainedModels) -> PartResult:
    """Train, set up, measure, judge and write one part, an experiment per seed."""
    rows: Rows = {}
    for experiment in part:
        with executing(experiment.execution):
            networks = models.train(record.titled(experiment), experiment.execution)
            setup = set_up(experiment, dict(zip(experiment.specs, networks.values(), strict=True)), models)
            for file, found in measure(experiment, setup).items():
                rows.setdefault(file, []).extend(found)
        models.release(experiment.specs)
    frames = as_frames(rows)
    frames["results"] = with_paper_values(with_intervals(frames["results"]), part[0].tables)
    write_results(frames["results"], record.directory / "results.csv")  # first: whatever else fails, these are kept
    compared, judged = judge(part[0], frames["results"])
    return write(part[0], frames, compared, judged, record)


def set_up(experiment: Experiment, networks: Mapping[str, nn.Module], models: TrainedModels) -> Setup:
    """Put together what the measurements of one seed work with."""
    settings, execution, specs = experiment.settings, experiment.execution, experiment.specs
    return Setup(
        dataset=experiment.data.name,
        models=networks,
        keys={name: spec.key for name, spec in specs.items()},
        sources=experiment.sources,
        targets=experiment.targets,
        attacks=experiment.attacks,
        asked=experiment.asked,
        test=models.data(experiment.data, execution.device).test,
        test_checksum=experiment.data.test_checksum,
        batch_size=execution.batch_size,
        tf32=execution.precision != "fp32",
        cuda_graphs=execution.cuda_graphs,
        seed=settings.seed,
        store=models.store,
        reuse=settings.reuse,
        stop=models.stop,
        clean=models.known_mistakes(experiment.data, execution),
    )


def measure(experiment: Experiment, setup: Setup) -> Rows:
    """Return the rows of one seed by file: of clean images, then of each measurement."""
    seed, measurements = {"seed": setup.seed}, experiment.measurements
    names = dict.fromkeys(name for each in measurements.values() for name in each.clean_models(setup))
    rows: Rows = {"results": [{**seed, "measurement": "clean", **clean_row(setup, name)} for name in names]}
    for label, measurement in measurements.items():
        for file, found in measurement.measure(setup).items():
            rows.setdefault(file, []).extend({**seed, "measurement": label, **row} for row in found)
    return rows


def judge(experiment: Experiment, results: "pd.DataFrame") -> tuple["pd.DataFrame", "pd.DataFrame"]:
    """Return the paper's tables with our numbers beside them, and its claims, check by check."""
    rows = as_dicts(results)
    return compare(experiment.tables, rows), claims_table(experiment.claims, rows)


def write(
    experiment: Experiment,
    frames: Mapping[str, "pd.DataFrame"],
    compared: "pd.DataFrame",
    judged: "pd.DataFrame",
    record: Record,
) -> PartResult:
    """Write all files of a part's directory but results.csv and run.json, and say on the terminal what they show."""
    sections = [
        *table_sections(experiment.tables, compared),
        *claims_sections(claims_summary(judged)),
        *comparison_sections(compared),
    ]
    for label, measurement in experiment.measurements.items():
        own = {file: of_measurement(frame, label) for file, frame in frames.items()}
        with folder_of(label, experiment, record.directory) as folder:
            sections += measurement.present(own, folder)
        print(measurement.say(own), end="")
    print(console_claims(claims_summary(judged)))
    files = [*write_judged(compared, judged, record.directory), record.directory / "results.csv"]
    figures = [section.image for section in sections if section.image]
    return PartResult([*write_pages(record, sections), *figures, *files], sections, compared, judged)


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
    return own.dropna(axis=1, how="all")


def as_frames(rows: Rows) -> dict[str, "pd.DataFrame"]:
    import pandas as pd

    return {file: pd.DataFrame(found) for file, found in rows.items()}


def join_parts(results: Mapping[str, PartResult], record: Record) -> list[Path]:
    """Write the report, the claims and the comparison of all parts together."""
    import pandas as pd

    def together(what: Literal["compared", "judged"]) -> pd.DataFrame:
        frames = {name: getattr(result, what) for name, result in results.items()}
        filled = [frame.assign(part=name) for name, frame in frames.items() if len(frame)]
        return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()

    judged = together("judged")
    sections = claims_sections(claims_summary(judged))
    for name, result in results.items():
        sections += [Section(name), *(replace(section, level=section.level + 1) for section in result.sections)]
    print(console_claims(claims_summary(judged)))
    return [*write_pages(record, sections), *write_judged(together("compared"), judged, record.directory)]


def write_pages(record: Record, sections: list[Section]) -> list[Path]:
    html, markdown = record.directory / "report.html", record.directory / "report.md"
    write_whole(html, html_page(record.name, record.facts(), sections))
    write_whole(markdown, markdown_page(record.name, record.facts(), sections, record.directory))
    return [html, markdown]


def write_judged(compared: "pd.DataFrame", judged: "pd.DataFrame", folder: Path) -> list[Path]:
    """Write `comparison.csv` and `claims.csv`, where there is something to compare or to judge."""
    files = {folder / "claims.csv": judged, folder / "comparison.csv": compared}
    for path, frame in files.items():
        if len(frame):
            write_csv(frame, path)
    return [path for path, frame in files.items() if len(frame)]
