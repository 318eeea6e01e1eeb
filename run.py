"""The only entrypoint: composes the config with Hydra and hands a plain dict to epsball. See `python run.py --help`."""

import logging
import operator
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import hydra
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from epsball.build import ConfigError, convert, did_you_mean, fraction_hint, listed
from epsball.progress import Interrupted, Stop, Told

CONF = Path(__file__).parent.resolve() / "conf"
SCALES = ("paper", "quick", "smoke")
VERSION = {} if tuple(map(int, hydra.__version__.split(".")[:2])) >= (1, 4) else {"version_base": "1.3"}

log = logging.getLogger("epsball")
stop = Stop()
main_process = os.getpid()
failures: list[Exception] = []  # of this process's jobs; a sweep goes on after one


def by_scale(paper: Any, quick: Any, smoke: Any, *, _root_: DictConfig) -> Any:
    """`${by_scale:60000,20000,2000}`: the value for scale=paper, quick, smoke."""
    return dict(zip(SCALES, (paper, quick, smoke), strict=True))[_root_.scale.name]


def arithmetic(operation: Callable[[float, float], float]) -> Callable[[Any, Any], float]:
    """A resolver of two numbers that says what it was given instead."""

    def resolve(a: Any, b: Any) -> float:
        for value in (a, b):
            if isinstance(value, bool) or not isinstance(value, int | float):
                raise ConfigError(f"a number is needed, is {value!r}{fraction_hint(value)}")
        return operation(a, b)

    return resolve


RESOLVERS: dict[str, Callable[..., Any]] = {
    "by_scale": by_scale,
    "frac": arithmetic(operator.truediv),
    "times": arithmetic(operator.mul),
    "plus": arithmetic(operator.add),
}


def register_resolvers() -> None:
    register = OmegaConf.register_new_resolver if VERSION else OmegaConf.register_resolver  # renamed with Hydra 1.4
    for name, resolver in RESOLVERS.items():
        register(name, resolver, replace=True)  # type: ignore[call-arg]


@hydra.main(config_path=str(CONF), config_name="config", **VERSION)
def job(config: DictConfig) -> None:
    """One job of a run or a sweep. A failure is told at once, in one line, and neither stops nor hides the others."""
    from epsball import experiments

    register_resolvers()  # a launcher's worker has not been through main()
    runtime = HydraConfig.get()
    overrides, folder = list(runtime.overrides.task), None
    if runtime.mode is RunMode.MULTIRUN:  # Hydra makes the subdir before the job starts: our folder lies in it
        folder = Path(runtime.sweep.dir) / runtime.sweep.subdir / str(runtime.job.num)
    try:
        run_job(config, overrides, folder)
    except Exception as error:
        of_job = f"job {' '.join(overrides)}: " if folder else ""
        kind = "" if isinstance(error, ConfigError) else f"{type(error).__name__}: "
        print(f"error: {of_job}{kind}{one_line(error)}", file=sys.stderr)
        if folder and isinstance(error, ConfigError):
            experiments.record_refusal(folder, overrides, one_line(error))
        if os.getpid() != main_process:  # a launcher's worker: only an exception tells the launcher
            raise Told(one_line(error)) from None
        failures.append(error)


def run_job(config: DictConfig, overrides: list[str], folder: Path | None) -> None:
    """Check the config, claim a run directory (`folder`, in a sweep), run, say what was written."""
    from epsball import experiments, plan  # after --help and --cfg, which need not wait for torch

    configure_logging()
    runtime = HydraConfig.get()
    plain, shared = as_plain(config, dict(runtime.runtime.choices)), plan.Shared()
    parts = [[plan.prepare(one, shared) for one in seeds] for seeds in parts_of(plain, overrides)]
    given = None if folder or runtime.run.dir == "." else str(runtime.run.dir)
    directory = experiments.claim_directory(plain["experiment"], parts, given, folder)
    with log_file(directory / "run.log"):
        log.info("run directory: %s", directory)
        write_hydra(directory, config, overrides)
        files = experiments.run(plain["experiment"], parts, directory, overrides, stop)
    print("\n".join(f"wrote {path}" for path in files))


def parts_of(plain: dict[str, Any], overrides: list[str]) -> list[list[dict[str, Any]]]:
    """The configs of a run: one part, or each that the config lists, and of each part one config per seed."""
    seeds, parts = convert(plain["seeds"], int, "seeds"), convert(plain["parts"], list[str], "parts")
    if seeds < 1:
        raise ConfigError(f"seeds should be at least 1, is {seeds}")
    if seeds == 1 and not parts:
        return [[plain]]
    named = {"seed", "seeds", *(["paper", "experiment"] if parts else [])}
    kept = [override for override in overrides if override.split("=")[0] not in named]
    kept += [override for override in HydraConfig.get().overrides.hydra if override.startswith("hydra.searchpath=")]
    kept += [f"workers={convert(plain['workers'], int, 'workers')}"]  # the run's, not a part's
    numbers = [f"seed={plain['seed'] + i}" for i in range(seeds)]
    papers = [[f"paper={part}"] for part in parts] or [[]]
    try:
        return [[composed(*kept, *paper, number) for number in numbers] for paper in papers]
    except HydraException as error:
        raise ConfigError(explain(error)) from None


def as_plain(config: DictConfig, choices: dict[str, Any]) -> dict[str, Any]:
    """The composed config as a plain dict; the attack that `attack=` chose is named, as a suite's attacks are."""
    try:
        for key, kind in (("eps", float), ("seed", int)):  # others refer to these: a wrong one is named itself
            convert(config[key], kind, key)
        plain = OmegaConf.to_container(config, resolve=True)
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0].partition("resolving interpolation: ")
        raise ConfigError(f"{error.full_key}: {reason[2] or reason[0]}") from error
    assert isinstance(plain, dict)
    attack = plain.pop("attack", None)
    if attack:
        plain["attack"] = {choices["attack"]: attack}
    return {str(key): value for key, value in plain.items() if key != "hydra"}


def composed(*overrides: str) -> dict[str, Any]:
    """The config that these overrides of the command line compose, as a plain dict: for scripts and tests."""
    register_resolvers()
    within = GlobalHydra.instance().is_initialized()  # a job that composes its parts and seeds
    with nullcontext() if within else hydra.initialize_config_dir(str(CONF), **VERSION):
        config = hydra.compose("config", list(overrides), return_hydra_config=True)
    choices = dict(config.hydra.runtime.choices)
    with open_dict(config):
        del config.hydra
    return as_plain(config, choices)


def write_hydra(directory: Path, config: DictConfig, overrides: list[str]) -> None:
    """What Hydra would keep: the composed config, Hydra's own, and the command line's overrides."""
    (directory / ".hydra").mkdir(exist_ok=True)
    hydra_config = OmegaConf.create({"hydra": HydraConfig.get()})
    OmegaConf.save(config, directory / ".hydra" / "config.yaml")
    OmegaConf.save(hydra_config, directory / ".hydra" / "hydra.yaml")
    OmegaConf.save(OmegaConf.create(overrides), directory / ".hydra" / "overrides.yaml")


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def configure_logging() -> None:
    """Log lines to the terminal, around progress bars."""
    from tqdm import tqdm

    class Terminal(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            tqdm.write(self.format(record), file=sys.stderr)

    terminal = Terminal()
    terminal.setFormatter(logging.Formatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[terminal], force=True)


@contextmanager
def log_file(path: Path) -> Iterator[None]:
    """A copy of all log lines, with times, in `path`."""
    handler = logging.FileHandler(path)
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(message)s"))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()


def explain(error: Exception) -> str:
    """Hydra's and OmegaConf's complaints in one line, with the nearest name there is."""
    text = one_line(error)
    if match := re.search(r"Could not (?:override|delete)(?: from config)?\.? ?'([^']+)'", text):
        return unknown_key(match[1])
    if (match := re.search(r"Could not find '([^'/]+)/([^']*)'", text)) and (options := options_of(match[1])):
        return no_such_option(match[1], match[2], options)
    if "Config group override must be a string" in text:  # attack=null, attack=1
        words = [word.partition("=") for word in sys.argv[1:]]
        chosen = [(name, value, options_of(name)) for name, _, value in words]
        wrong = [word for word in chosen if word[2] and word[1] not in word[2]]
        return "; ".join(no_such_option(*word) for word in wrong) or text
    if match := re.search(r"Could not override '([^']+)'. No match in the defaults list", text):
        return unknown_key(match[1])
    return text


def options_of(group: str) -> list[str]:
    """The files of a config group; empty where there is no such group."""
    folder = CONF / group.split("@")[0]
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def no_such_option(group: str, option: str, options: list[str]) -> str:
    return f"{group}={option} does not exist{did_you_mean(option, options)}: choose one of {listed(options)}"


def unknown_key(key: str) -> str:
    """What a config key that does not exist was perhaps meant to be: a name beside it, or one further down."""
    parts = key.split("@")[0].split(".")
    with hydra.initialize_config_dir(str(CONF), **VERSION):
        groups = [g for g in hydra.compose("config", return_hydra_config=True).hydra.runtime.choices if "/" not in g]
        config = hydra.compose("config", [o for o in sys.argv[1:] if o.split("=")[0] in groups])
    node: Any = config
    for i, part in enumerate(parts):
        known = [str(k) for k in node] if isinstance(node, DictConfig) else []
        if part not in known:
            meant = did_you_mean(part, known) or did_you_mean_below(parts[:i], node, part)
            where = f" in {'.'.join(parts[:i])}" if i else ""
            return f"{key} is not a config key{meant}: the keys{where} are {listed(known)}"
        node = node[part]
    return f"{key} cannot be set here"


def did_you_mean_below(path: list[str], node: Any, word: str) -> str:
    """The nearest name among all keys below `node`, with its whole path."""
    if not isinstance(node, DictConfig):
        return ""
    below: dict[str, str] = {}
    for key, value in OmegaConf.to_container(node).items():  # type: ignore[union-attr]
        for deeper, inner in (value if isinstance(value, dict) else {}).items():
            if not isinstance(inner, dict):
                below.setdefault(deeper, ".".join([*path, str(key), deeper]))
    near = did_you_mean(word, below)
    return near.replace(repr(near.split("'")[1]), repr(below[near.split("'")[1]])) if near else ""


def main() -> int:
    """Exit codes: 0 done, 1 a job failed, 2 the config is wrong, 130 SIGINT, 143 SIGTERM."""
    os.environ["HYDRA_FULL_ERROR"] = "1"  # exceptions reach us; we tell them in one line
    register_resolvers()
    stop.listen()
    try:
        job()
    except Interrupted as error:
        return 128 + error.signum
    except KeyboardInterrupt:
        return 130
    except Told:
        return 1
    except (HydraException, OmegaConfBaseException, ValueError) as error:  # raised before any job: the command is wrong
        print(f"error: {explain(error)}", file=sys.stderr)
        return 2
    except Exception as error:
        print(f"error: {type(error).__name__}: {one_line(error)}", file=sys.stderr)
        return 1
    if len(failures) > 1:
        print(f"{len(failures)} jobs failed", file=sys.stderr)
    return 0 if not failures else 2 if all(isinstance(f, ConfigError) for f in failures) else 1


if __name__ == "__main__":
    sys.exit(main())
