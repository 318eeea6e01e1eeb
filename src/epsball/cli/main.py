"""Run the jobs of a command: logging, failures, exit codes."""

import logging
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from logging.handlers import MemoryHandler
from pathlib import Path
from typing import Any

import hydra
import yaml
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from epsball.build import ConfigError, naming_part, one_line
from epsball.cli.again import EarlierRun, directory_again, naming_its_word, with_earlier_words
from epsball.cli.compose import (
    CONF,
    VERSION,
    as_plain,
    as_typed_words,
    hydra_composition,
    register_with_hydra,
    write_hydra,
)
from epsball.cli.explain import as_typed, explain, refuse_several_options, refuse_shadowed_files
from epsball.cli.help import asks_for_help, print_help
from epsball.cli.idle import Composed, compose, idle_words, labelling_words
from epsball.cli.local import check_local
from epsball.cli.parts import adding, parts_of
from epsball.cli.words import accept_lazy_help, choosing, in_order, options, refuse_absent_folders, typed_keys
from epsball.experiment.settings import settings_of
from epsball.runtime.distributed import PeerLost, agreed, gather, is_first, joined, processes, rank
from epsball.runtime.files import make_folder
from epsball.runtime.progress import Interrupted, JobFailed, Stop, unfailing_output
from epsball.runtime.run_log import log_file

log = logging.getLogger("epsball")


@dataclass
class Session:
    """Jobs of one command. A job's failure is printed at once, in one line, and does not stop the other jobs."""

    stop: Stop = field(default_factory=Stop)
    failures: list[Exception] = field(default_factory=list)
    """of the jobs of this process"""
    again: EarlierRun | None = None
    """the run that the command repeats or goes on with"""
    new_folders: list[Path] = field(default_factory=list)
    """that the command's words name and that were not there, each before the one that it lies in"""

    def run_job(self, config: DictConfig) -> float | None:
        """Run one job and return the value of its objective, if it has one. Raises JobFailed in a launcher's worker and
        where a sweeper searches: only an exception tells either that the job failed. A worker that is stopped does so,
        too: where one raises Interrupted, joblib kills the others before they have saved."""
        register_with_hydra()  # a launcher's worker has not been through main()
        hydra_composition.cache_clear()  # files may have changed since the job before
        self.stop.waits = False
        self.stop.listen()
        runtime = HydraConfig.get()
        overrides, folder = as_typed_words(runtime.overrides.task), None
        sweeping = runtime.mode is RunMode.MULTIRUN and processes() == 1
        if sweeping:  # Hydra makes the subdir before the job starts: our folder lies in it
            folder = Path(runtime.sweep.dir) / runtime.sweep.subdir / str(runtime.job.num)
        with joined():  # a failure is printed before this process leaves the others, which may take time
            try:
                return run(config, overrides, folder, self.stop, self.again)
            except Interrupted as error:
                if self.stop.is_copy:
                    raise JobFailed(str(error)) from None
                raise
            except Exception as error:
                if not isinstance(error, ConfigError) or self.prints_failure():
                    tell_failure(error, overrides, folder)
                self.failures.append(error)
                if self.stop.is_copy or (sweeping and config.get("objective") is not None):
                    raise JobFailed(one_line(error)) from None
                return None

    def exit_code(self, jobs: Callable[[], object]) -> int:
        """Run the command's jobs. Return 0 for done, 1 for a failed job, 2 for a wrong config, 130 for SIGINT, 143 for
        SIGTERM."""
        try:
            jobs()
        except Interrupted as error:
            return 128 + error.signum
        except KeyboardInterrupt:
            return 130
        except JobFailed:
            return self.code_of_failures()
        except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError, RecursionError) as error:
            # before any job
            if self.prints_failure():
                of = "" if is_first() else f"process {rank()}: "
                print(f"error: {of}{naming_its_word(explain(error), self.again)}", file=sys.stderr)
            return 2
        except Exception as error:
            unmade = isinstance(error, OSError) and error.filename is not None  # a sweep's folder, which Hydra makes
            hint = ": outputs and hydra.sweep.dir say where" if unmade else ""
            print(f"error: {type(error).__name__}: {one_line(error)}{hint}", file=sys.stderr)
            return 2 if unmade else 1
        return self.code_of_failures() if self.failures else 0

    def code_of_failures(self) -> int:
        """Return 2 where wrong configs are all that failed, else 1; a launcher's workers keep theirs to themselves."""
        if len(self.failures) > 1:
            print(f"{len(self.failures)} jobs failed", file=sys.stderr)
        return 2 if self.failures and all(isinstance(failure, ConfigError) for failure in self.failures) else 1

    def prints_failure(self) -> bool:
        """Whether this process is the one to print what is wrong: the first one, or another of whose files alone it is.
        Such a one waits up to half a minute: where the first has the same to say and ends, torchrun stops this one."""
        if is_first():
            return True
        for _ in range(300):
            if self.stop.signum is not None:
                return False
            time.sleep(0.1)
        return True


class TellOfCollecting(Callback):
    """What Hydra calls at the end of a sweep, whatever launcher it has: say how its jobs become one table."""

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        folder = str(config.hydra.sweep.dir)
        if len(list(Path(folder).glob("*/run.json"))) > 1:
            print(f"python scripts/collect.py {shlex.quote(folder)} puts them into one table")


@unfailing_output()
def main() -> int:
    """Run what the command line says and return the exit code."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra lets exceptions through; they are printed here, in one line
    register_with_hydra()
    accept_lazy_help()  # of Hydra's own parser
    session = Session()
    session.stop.listen()

    @hydra.main(config_path=str(CONF), config_name="config", **VERSION)
    def job(config: DictConfig) -> float | None:
        return session.run_job(config)

    def jobs() -> None:
        words, session.again = with_earlier_words(sys.argv[1:])
        sys.argv[1:] = words = in_order(words)
        if options().multirun:  # before Hydra begins its jobs, each of which would connect the processes anew
            check_mode(sweeping=True)
        refuse_several_options()
        refuse_absent_folders()
        refuse_shadowed_files()
        for key in ("hydra.run.dir", "hydra.sweep.dir"):  # Hydra makes them before any job
            if (folder := typed_keys().get(key, "").strip("'\"")) and "${" not in folder:
                path = Path(folder)
                session.new_folders += [place for place in (path, *path.parents) if not place.exists()]
                make_folder(path, f"{key}={folder}")
        if asks_for_help(words):
            print_help(adding(words))
            return
        sys.argv[1:] = adding(words)
        session.stop.waits = True
        try:
            job()
        except Exception:
            session.stop.check()  # of a launcher whose workers were stopped
            raise

    code = session.exit_code(jobs)
    if code == 2:
        for folder in session.new_folders:
            with suppress(OSError):  # of one that holds something
                folder.rmdir()
    return code


def run(
    config: DictConfig, overrides: list[str], folder: Path | None, stop: Stop, again: EarlierRun | None
) -> float | None:
    """Check the config, claim a run directory (`folder`, in a sweep; that of an earlier run where it goes on with it),
    run, say what was written; return the objective's value. RuntimeError where it should have one and has none: in a
    sweep always, for a sweeper searches by it, else unless its rows were left out."""
    configure_logging()
    runtime = HydraConfig.get()
    with stop.at_once():
        with agreed(), naming_typed_keys(config, again), held_back():
            check_mode(runtime.mode is RunMode.MULTIRUN)  # hydra.mode in a file says so, too
            check_local(runtime.runtime)
            plain = as_plain(config, dict(runtime.runtime.choices))
            if plain.get("parts"):
                overrides = [choosing(word) for word in overrides]  # as typed, and as each part takes them
            composed = parts_of(plain, overrides)
            settings_of(plain)  # what was typed for the run is no part's mistake
            for part, seeds in zip(plain["parts"] or [None], composed.configs, strict=True):
                with naming_part(part):
                    for each in seeds:
                        settings_of(each)

            with stop.after_imports():  # torch, too: what needs none is answered by now
                from epsball.experiment.joint import prepare_parts
                from epsball.experiment.remarks import remarks

            parts, joint = prepare_parts(composed.configs, composed.whole)
            one = [Composed(config, runtime.runtime.choices)]
            own = map(compose, composed.words) if plain["parts"] else one
            of_words = (*labelling_words(overrides), *idle_words(own, overrides))
            for told in (*remarks(parts, joint, plain["experiment"]), *of_words):
                log.info("%s", told)
        experiments = [experiment for part in parts for experiment in part]
        agree_on([one.config_hash for one in experiments], [one.execution.device.type for one in experiments])

        with stop.after_imports():  # after a wrong value, whose answer need not wait
            from epsball.experiment.record import claim_directory
            from epsball.experiment.run import run_experiments
            from epsball.experiment.setup import check_given

        check_given(parts, stop)
    given = None if folder or runtime.run.dir == "." else str(runtime.run.dir)
    directory = Path()
    with agreed():
        if is_first():
            given = directory_again(again, config, parts, given) if again else given
            directory = claim_directory(plain["experiment"], parts, given, folder)
            write_hydra(directory, config, overrides)
    with log_file(directory / "run.log") if is_first() else nullcontext():
        if folder:
            log.info("job: %s", " ".join(overrides))
        log.info("run directory: %s", directory)
        done = run_experiments(plain["experiment"], parts, directory, overrides, stop, joint)
    print("\n".join(f"wrote {path}" for path in done.files), end="\n" if done.files else "")
    if done.unanswered and folder is None and plain["missing"] == "skip":
        print("objective: no value, its rows are not there")
    elif done.unanswered:  # after all is written and recorded
        raise RuntimeError(done.unanswered)
    return done.objective


@contextmanager
def naming_typed_keys(config: DictConfig, again: EarlierRun | None) -> Iterator[None]:
    """Name, in what is wrong with the config inside the block, the keys that the user typed, and a word that is of the
    run which the command repeats."""
    try:
        yield
    except ConfigError as error:
        raise ConfigError(naming_its_word(as_typed(str(error), config), again)) from None


def check_mode(sweeping: bool) -> None:
    """ConfigError for a sweep of several processes, each of which would make folders of its own, and for the folder of
    a single run in a sweep, or the other way round, which would stay empty."""
    if sweeping and processes() > 1:
        raise ConfigError("--multirun is for a single process: give torchrun one command after the other")
    run, sweep = ("hydra.run.dir", "a single run"), ("hydra.sweep.dir", "a sweep (-m)")
    (key, what), (other, this) = (run, sweep) if sweeping else (sweep, run)
    if folder := typed_keys().get(key):
        raise ConfigError(f"{key}={folder} names the folder of {what}: {other}={folder} names that of {this}")


def agree_on(hashes: list[str], devices: list[str]) -> None:
    """ConfigError unless all processes have the same configs and data, and compute on the same kinds of device."""
    first, *others = gather((hashes, devices))
    for number, (own_hashes, own_devices) in enumerate(others, 1):
        if own_hashes != first[0]:
            other = f"process {number} has another config or other data than process 0"
            raise ConfigError(f"{other}: all machines need the same command and files")
        if own_devices != first[1]:
            other = f"process {number} would compute on another kind of device than process 0"
            raise ConfigError(f"{other}: start no more processes on a machine than it has GPUs, or all with device=cpu")


def tell_failure(error: Exception, overrides: list[str], folder: Path | None) -> None:
    """Print a job's failure in one line. A sweep's wrong config leaves a record, too."""
    of_job = f"job {' '.join(overrides)}: " if folder else "" if is_first() else f"process {rank()}: "
    kind = "" if isinstance(error, ConfigError | PeerLost) else f"{type(error).__name__}: "
    print(f"error: {of_job}{kind}{one_line(error)}", file=sys.stderr)
    if folder and isinstance(error, ConfigError):
        from epsball.experiment.record import record_refusal

        record_refusal(folder, overrides, one_line(error))


def configure_logging() -> None:
    """Send log lines to the terminal, around progress bars; those of the first process alone."""
    from tqdm import tqdm

    class Terminal(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            tqdm.write(self.format(record), file=sys.stderr)

    terminal = Terminal()
    terminal.setFormatter(logging.Formatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[terminal if is_first() else logging.NullHandler()], force=True)
    logging.getLogger("hydra").setLevel(logging.WARNING)  # a sweep's launcher names its jobs, but for the first: we do


@contextmanager
def held_back() -> Iterator[None]:
    """Keep log lines until the end of the block, and drop them where an error says all."""
    root = logging.getLogger()
    (own,) = root.handlers
    held = MemoryHandler(capacity=10**6, flushLevel=logging.CRITICAL, target=own)
    root.handlers[:] = [held]
    try:
        yield
        held.flush()
    finally:
        root.handlers[:] = [own]
