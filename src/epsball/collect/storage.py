"""List what lies under outputs, and delete what no run uses: named first, never without a yes."""

import argparse
import shutil
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import FileLock, Timeout

from epsball.collect.runs import status_of
from epsball.runtime.files import is_abandoned, try_lock
from epsball.runtime.progress import unfailing_output
from epsball.runtime.records import read_record
from epsball.runtime.store import EXAMPLES, FOLDER, LAST, MANIFEST, MODELS, ROWS, lock_file

Choice = Literal["none", "failed", "interrupted", "all"]


@dataclass(frozen=True)
class RunFolder:
    """A run directory, with all that lies below it: its parts."""

    path: Path
    record: dict[str, Any]
    """its run.json"""
    status: str
    ended: bool
    """whether it and its parts are known to run no more"""
    unread: list[Path]
    """each run.json that cannot be read"""
    models: frozenset[str]
    """fingerprints of its models and their sources"""


@dataclass(frozen=True)
class StoredModel:
    """A folder of the store's models, trained, in training or put aside."""

    path: Path
    label: str
    key: str
    runs: list[str]
    """the runs that use it"""


@unfailing_output()
def main(arguments: Sequence[str] | None = None) -> int:
    """List or clean; return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("act", choices=("list", "clean"))
    parser.add_argument("outputs", nargs="?", type=Path, default=Path("outputs"), help="default: outputs")
    parser.add_argument("--also", type=Path, action="append", default=[], help="a folder of runs that lie elsewhere")
    parser.add_argument("--runs", choices=get_args(Choice), default="none")
    parser.add_argument("--yes", action="store_true", help="delete without asking")
    options = parser.parse_args(arguments)
    if not options.outputs.is_dir():
        print(f"error: {options.outputs} is no folder: name the one that the runs' `outputs` named")
        return 2
    if missing := [path for path in options.also if not path.is_dir()]:  # its runs may use what would be deleted
        print(f"error: --also {missing[0]} is no folder: name one of runs that lie elsewhere")
        return 2
    outputs, also = options.outputs.resolve(), [path.resolve() for path in options.also]
    if options.act == "list":
        print(listing(outputs, also))
        return 0
    return clean(outputs, also, options.runs, options.yes)


def listing(outputs: Path, also: Sequence[Path]) -> str:
    """Write each run, each model and which runs use it, rows, examples, totals."""
    runs = find_run_folders([outputs, *also])
    models = find_models(outputs, runs)
    lines = [f"{len(runs)} runs, {shown(sum(size(run.path) for run in runs))}"]
    for run in runs:
        facts = (run.record.get("experiment", "?"), run.status, run.record.get("started", "?"), shown(size(run.path)))
        lines.append(f"  {shorter(run.path, outputs)}: {', '.join(map(str, facts))}")
    lines.append(f"{len(models)} models, {shown(sum(size(model.path) for model in models))}")
    for model in models:
        used = ", ".join(model.runs) or "no run"
        lines.append(f"  {model.label} {model.key}{state(model.path)}, {shown(size(model.path))}: {used}")
    for name in (ROWS, EXAMPLES):
        count = sum(1 for file in (outputs / name).glob("*") if file.is_file())
        lines.append(f"{count} {name}, {shown(size(outputs / name))}")
    return "\n".join([*lines, f"{shown(size(outputs))} in all"])


def clean(outputs: Path, also: Sequence[Path], choice: Choice, yes: bool) -> int:
    """Name what no run uses, ask, delete; return the exit code."""
    found = leftovers(outputs, also, choice)
    if not found:
        print(f"nothing to delete under {outputs}")
        return 0
    for path, why in found.items():
        print(f"  {shorter(path, outputs)}: {why}, {shown(size(path))}")
    print("Runs that lie elsewhere (hydra.run.dir) are not looked at: name their folders with --also.")
    if not (yes or confirmed(len(found))):
        print("nothing was deleted")
        return 0
    still = leftovers(outputs, also, choice)  # while one was asked, a run may have begun
    freed = sum(delete(path, outputs) for path in found if path in still)
    print(f"{shown(freed)} freed")
    return 0


def confirmed(count: int) -> bool:
    """Ask whether to delete; no answer is a no."""
    try:
        return input(f"delete these {count}? [y/N] ").strip().lower() in ("y", "yes")
    except EOFError:
        return False


def leftovers(outputs: Path, also: Sequence[Path], choice: Choice) -> dict[Path, str]:
    """Return what can go, and why: models that no run uses, what killed runs left, and the runs that were named.

    Never a model in training, whose lock is held, nor, where a run's record cannot be read, any model.
    """
    runs, found = find_run_folders([outputs, *also]), dict[Path, str]()
    unread = [file for run in runs for file in run.unread]
    for file in unread:
        print(f"{shorter(file, outputs)} cannot be read: which models it uses is unknown, so all stay")
    for model in find_models(outputs, runs):
        if model.path.is_symlink() or is_locked(lock_of(model.path)):
            continue
        if not model.runs and not unread:
            found[model.path] = "no run uses it"
        elif (model.path / MANIFEST).exists() and (model.path / LAST).exists():
            found[model.path / LAST] = "state of a training that has ended"
    for part in sorted(outputs.rglob(".*.part")):
        if is_abandoned(part) and not any(part.is_relative_to(path) for path in found):
            found[part] = "half written by a process that is gone"
    return found | {run.path: run.status for run in runs if is_chosen(run, choice, outputs)}


def is_chosen(run: RunFolder, choice: Choice, outputs: Path) -> bool:
    """Whether a run is of those to delete. One that runs, or may run, never is, nor one that has the store in it."""
    inside = run.path.is_relative_to(outputs) and run.path != outputs
    return inside and run.ended and (choice == "all" or run.status.startswith(choice))


def find_run_folders(roots: Iterable[Path]) -> list[RunFolder]:
    """Return the run directories below some folders; a part belongs to its run."""
    paths = {path.parent for root in roots for path in root.rglob("run.json")}
    tops = sorted(path for path in paths if not paths & set(path.parents))
    return [read_run_folder(path) for path in tops]


def read_run_folder(path: Path) -> RunFolder:
    """Read the records of a run and of its parts."""
    read = {file: read_record(file) for file in path.rglob("run.json")}
    record, problem = read[path / "run.json"]
    states = [status_of(each).partition(" ")[0] for each, _ in read.values()]
    models = [model for each, _ in read.values() for model in each.get("models", {}).values()]
    return RunFolder(
        path,
        record,
        problem or status_of(record),
        ended=all(each in ("done", "failed", "interrupted") for each in states),
        unread=[file for file, (_, wrong) in read.items() if wrong],
        models=frozenset(str(model.get("fingerprint")) for model in models),
    )


def find_models(outputs: Path, runs: Sequence[RunFolder]) -> list[StoredModel]:
    """Return the folders of the store's models, each with the runs that use it."""
    users: dict[str, list[str]] = {}
    for run in runs:
        for key in run.models:
            users.setdefault(key, []).append(shorter(run.path, outputs))
    found = []
    for path in sorted((outputs / MODELS).glob("*")):
        if match := FOLDER.fullmatch(path.name):
            used = [] if match["damaged"] else users.get(match["key"], [])
            found.append(StoredModel(path, match["label"], match["key"], used))
    return found


def state(path: Path) -> str:
    """Say what is unusual of a model's folder."""
    if ".damaged" in path.name:
        return " (damaged)"
    if is_locked(lock_of(path)):
        return " (in training)"
    return "" if (path / MANIFEST).exists() else " (half trained)"


def lock_of(model: Path) -> Path:
    """Return the lock file that a process holds while it trains the model of this folder."""
    match = FOLDER.fullmatch(model.name)
    return lock_file(model.parent, match["key"] if match else model.name)


def is_locked(path: Path) -> bool:
    """Whether a process holds a lock file."""
    if not path.exists():
        return False
    try:
        with FileLock(path, timeout=0):
            return False
    except Timeout:
        return True
    except OSError:  # another user's, or on a file system that is only read
        with path.open("rb") as file:
            return not try_lock(file)


def delete(path: Path, outputs: Path) -> int:
    """Delete a file, a run, or a model, whose lock is held meanwhile; the bytes freed."""
    freed = size(path)
    if path.parent != outputs / MODELS:
        shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
        return freed
    try:
        with FileLock(lock_of(path), timeout=0):
            shutil.rmtree(path)
    except Timeout:
        print(f"{path.name} is being trained: it stays")
        return 0
    return freed


def shorter(path: Path, outputs: Path) -> str:
    """Write a path as it lies below `outputs`, whole if it does not."""
    return path.relative_to(outputs).as_posix() if path.is_relative_to(outputs) else str(path)


def size(path: Path) -> int:
    """Return the bytes of a file or of all files below a folder; what goes meanwhile counts nothing."""
    total = 0
    for file in [path, *(path.rglob("*") if path.is_dir() else [])]:
        try:
            total += file.lstat().st_size if not file.is_dir() else 0
        except OSError:
            continue
    return total


def shown(number: float) -> str:
    """Write a number of bytes for a person."""
    for unit in ("B", "kB", "MB"):
        if number < 1000:
            return f"{number:.0f} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000
    return f"{number:.1f} GB"
