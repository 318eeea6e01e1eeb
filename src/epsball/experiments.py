"""Joins the parts: a run's experiments become models, rows and the run directory with its pages.

A run has one part, or several (`paper=tramer/all`); a part has one experiment per seed.
"""

import contextlib
import json
import logging
import re
import shlex
import subprocess
import sys
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from epsball import claims, statistics, tables
from epsball.build import ConfigError
from epsball.device import allow_tf32
from epsball.files import write_whole
from epsball.lab import Lab
from epsball.plan import Experiment
from epsball.progress import Interrupted, Stop
from epsball.report import Section, html_page, markdown_page
from epsball.store import fingerprint, free_name
from epsball.workshop import Workshop, environment

if TYPE_CHECKING:
    import pandas as pd

Row = dict[str, Any]
Part = list[Experiment]  # one per seed

JUDGED = (
    "± is the 95 % interval. Confirmed: in every check left - right lies on the claim's side and its interval leaves "
    "out 0 (with one seed: the two sides' intervals do not overlap). Refuted: in one, on the other side. Else open."
)

log = logging.getLogger(__name__)


def config_hash(parts: Sequence[Part]) -> str:
    """Names everything that can change a run's results."""
    hashes = [experiment.config_hash for part in parts for experiment in part]
    return hashes[0] if len(hashes) == 1 else fingerprint({"experiments": hashes})


def claim_directory(name: str, parts: Sequence[Part], given: str | None, job: Path | None) -> Path:
    """A run directory that no other run has: outputs/<name>/<date_time[-n]>, or a sweep's `job` folder; or the
    `given` one, where a run of the same experiments goes on.

    Raises ConfigError when `given` holds anything else.
    """
    if given is None:
        stamp = time.strftime("%Y-%m-%d_%H-%M-%S")
        return claim(job or Path(parts[0][0].settings.outputs) / name / stamp)
    path = Path(given)
    path.mkdir(parents=True, exist_ok=True)
    if any(path.iterdir()) and read_json(path / "run.json").get("config_hash") != config_hash(parts):
        raise ConfigError(f"hydra.run.dir={given} holds something else than this experiment: name another directory")
    return path


def claim(path: Path) -> Path:
    """Make `path`, or path-2, path-3, ...: whichever this process is the one to make."""
    path.parent.mkdir(parents=True, exist_ok=True)
    while True:
        candidate = free_name(path)
        with contextlib.suppress(FileExistsError):  # another process was quicker
            candidate.mkdir()
            return candidate


def record_refusal(job: Path, overrides: list[str], reason: str) -> None:
    """A sweep's job whose config is wrong leaves a run.json too, so that the hole in the grid has a name."""
    content = {"status": "failed", "exit_reason": reason, "overrides": overrides}
    write_whole(claim(job) / "run.json", json.dumps(content, indent=2) + "\n")


def run(name: str, parts: Sequence[Part], directory: Path, overrides: list[str], stop: Stop) -> list[Path]:
    """Train, attack, evaluate, write; the files written, most readable first. `run.json` says how it ended.

    Several parts get a folder each, with the files of a run, and a report of all of them above.
    """
    shop = Workshop([experiment for part in parts for experiment in part], stop)
    record = Record(name, parts, directory, overrides, shop)
    with record.kept():
        if len(parts) == 1:
            return [*finish(parts[0], record).files, directory / "run.json"]
        findings = {}
        for part in parts:
            own = part[0].settings.experiment
            folder = directory / own.removeprefix(f"{Path(name).parent}/")
            folder.mkdir(parents=True, exist_ok=True)
            part_record = Record(own, [part], folder, overrides, shop)
            log.info("%s", own)
            with part_record.kept():
                findings[own] = finish(part, part_record)
        return [*finish_all(findings, record), directory / "run.json"]


@dataclass
class Record:
    """What run.json says of a run, or of one part: what ran, on what, how it ended."""

    name: str
    parts: Sequence[Part]
    directory: Path
    overrides: list[str]
    shop: Workshop
    began: float = field(default_factory=time.time)

    @contextlib.contextmanager
    def kept(self) -> Iterator[None]:
        """Write run.json at the start and at the end of the block, whichever way it ends."""
        self.write("running", None)
        try:
            yield
        except Interrupted as error:
            self.write("interrupted", str(error))
            raise
        except BaseException as error:
            write_whole(self.directory / "traceback.txt", traceback.format_exc())
            self.write("failed", f"{type(error).__name__}: {error}")
            raise
        self.write("done", None)

    def write(self, status: Literal["running", "done", "failed", "interrupted"], reason: str | None) -> None:
        content = json.dumps(self.content(status, reason), indent=2) + "\n"
        write_whole(self.directory / "run.json", content)

    def content(self, status: str, reason: str | None) -> Row:
        first = self.parts[0][0]
        seeds = [experiment.settings.seed for experiment in self.parts[0]]
        return {
            "status": status,
            "exit_reason": reason,
            "experiment": self.name,
            **({"parts": [part[0].settings.experiment for part in self.parts]} if len(self.parts) > 1 else {}),
            "seed": seeds[0],
            "seeds": seeds,
            "overrides": self.overrides,
            "command": shlex.join(["python", *sys.argv]),
            "config_hash": config_hash(self.parts),
            "started": time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(self.began)),
            "seconds": round(time.time() - self.began, 2),
            "git_commit": git_commit(),
            "data": first.data.origin,
            "models": {name: row for part in self.parts for each in part for name, row in self.shop.records(each)},
            **environment(self.shop.device),
        }

    def facts(self) -> Row:
        """What stands at the head of a report."""
        content = self.content("done", None)
        return {
            "command": content["command"],
            "device": content["device"],
            "threads": content["threads"],
            "commit": content["git_commit"],
            "seeds": ", ".join(map(str, content["seeds"])),
            "data": content["data"],
            "started": content["started"],
            "wall time": f"{content['seconds']:.0f} s",
        }


@dataclass(frozen=True)
class Findings:
    """What a part has written, shown and judged."""

    files: list[Path]
    sections: list[Section]
    compared: "pd.DataFrame"
    judged: "pd.DataFrame"


def finish(part: Part, record: Record) -> Findings:
    """Measure a part and write all files of its directory but run.json."""
    first, folder = part[0], record.directory
    frames = measure(part, record.shop)
    results = claims.with_paper(statistics.with_intervals(frames["results"]), first.tables)
    frames["results"] = results
    tables.write_results(results, folder / "results.csv")  # first: whatever else may fail, the numbers are kept
    rows = statistics.records(results)
    compared, judged = claims.cells(first.tables, rows), claims.claims_table(first.claims, rows)
    sections = paper_sections(first, compared, judged) + first.task.present(frames, folder)
    print(first.task.say(frames) + claims.console(claims.claims_summary(judged)))
    written = [*write_judged(compared, judged, folder), folder / "results.csv"]
    figures = [section.image for section in sections if section.image]
    return Findings([*write_pages(record, sections), *figures, *written], sections, compared, judged)


def finish_all(findings: Mapping[str, Findings], record: Record) -> list[Path]:
    """The report, the claims and the comparison of all parts together."""
    import pandas as pd

    def together(what: Literal["compared", "judged"]) -> pd.DataFrame:
        frames = {name: getattr(found, what) for name, found in findings.items()}
        filled = [frame.assign(part=name) for name, frame in frames.items() if len(frame)]
        return pd.concat(filled, ignore_index=True) if filled else pd.DataFrame()

    summary = pd.concat([claims.claims_summary(found.judged) for found in findings.values()])
    summary = summary.sort_values("claim", key=lambda names: names.map(natural), ignore_index=True)
    sections = [Section("Claims", JUDGED, summary)] if len(summary) else []
    for name, found in findings.items():
        sections += [Section(name), *(replace(section, level=section.level + 1) for section in found.sections)]
    print(claims.console(summary))
    return [*write_pages(record, sections), *write_judged(together("compared"), together("judged"), record.directory)]


def natural(name: str) -> list[tuple[int, str]]:
    """Sorts tramer-2 before tramer-10."""
    return [(int(piece), "") if piece.isdigit() else (-1, piece) for piece in re.split(r"(\d+)", name)]


def measure(part: Part, shop: Workshop) -> dict[str, "pd.DataFrame"]:
    """The rows of all seeds by file, those without a seed with the one they are of."""
    import pandas as pd

    found: dict[str, list[Row]] = {}
    for experiment in part:
        with allow_tf32(experiment.settings.evaluation_precision):
            for name, rows in experiment.task.measure(Lab(experiment, shop)).items():
                found.setdefault(name, []).extend({"seed": experiment.settings.seed, **row} for row in rows)
    return {name: pd.DataFrame(rows) for name, rows in found.items()}


def paper_sections(experiment: Experiment, compared: "pd.DataFrame", judged: "pd.DataFrame") -> list[Section]:
    """The paper's tables in their own shape, its claims, and every number beside the paper's."""
    sections = []
    for name, table in experiment.tables.items():
        text = "Ours" + (" (the paper's)" if table.paper else "") + ("; per cent" if table.unit == "percent" else "")
        text += "; mean ± sd over the seeds" if compared["seeds"].max() > 1 else ""
        text += "; bold: the lowest, and those whose interval overlaps its interval" if table.best != "none" else ""
        sections.append(Section(table.title, text + ".", claims.in_shape(name, table, compared)))
    if len(judged):
        sections.append(Section("Claims", JUDGED, claims.claims_summary(judged)))
    if len(compared):
        beside = claims.beside(compared)
        rule = "Wilson's and the normal 95 % interval; inside: the paper's number lies in Wilson's."
        sections.append(Section("Every number with its interval", rule, beside))
    return sections


def write_pages(record: Record, sections: list[Section]) -> list[Path]:
    html, markdown = record.directory / "report.html", record.directory / "report.md"
    write_whole(html, html_page(record.name, record.facts(), sections))
    write_whole(markdown, markdown_page(record.name, record.facts(), sections, record.directory))
    return [html, markdown]


def write_judged(compared: "pd.DataFrame", judged: "pd.DataFrame", folder: Path) -> list[Path]:
    """`comparison.csv` and `claims.csv`, where there is something to compare or to judge."""
    files = {folder / "claims.csv": judged, folder / "comparison.csv": compared}
    for path, frame in files.items():
        if len(frame):
            tables.write_csv(frame, path)
    return [path for path, frame in files.items() if len(frame)]


@cache
def git_commit() -> str | None:
    """The checkout's commit when the process first asks, with a plus sign when files differ from it; None outside a
    checkout. A commit made while a run is under way is not the code that runs."""
    here = Path(__file__).parent
    try:
        ask = partial(subprocess.run, cwd=here, capture_output=True, text=True, check=True, timeout=10)
        commit = ask(["git", "rev-parse", "--short=12", "HEAD"]).stdout.strip()
        return commit + ("+" if ask(["git", "status", "--porcelain", "-uno"]).stdout.strip() else "")
    except (OSError, subprocess.SubprocessError):
        return None


def read_json(path: Path) -> Row:
    """A JSON object out of a file; empty when there is none or it cannot be read."""
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}
