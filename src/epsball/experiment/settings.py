"""The values at the top of a config; the components that it names are built elsewhere."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, Literal

from epsball.build import LONGEST_NAME, ConfigError, construct, did_you_mean, require
from epsball.runtime.distributed import threads_of_process

if TYPE_CHECKING:
    from epsball.runtime.device import Execution

STATED = ("tables", "claims", "figures")
"""config keys of statements that have names"""
STATED_ONCE = ("objective", "conclusion")
"""config keys of statements of which a run has one each"""
COMPUTED = ("device", "threads", "workers", "batch_size", "cuda_graphs", "deterministic", "channels_last")
"""config keys that say how a run is computed: in no identity, for they change last bits at most"""
FILES = ("outputs", "data", "checkpoint_seconds", "track")
"""config keys that say where files lie, how often the largest is written, and what shows learning curves"""
OF_ROWS = ("reuse", "rows", "missing")
"""config keys that say which finished rows are taken, and what happens to the others"""
COMPONENTS = (
    *("dataset", "attack", "suite", "models", "grid", "measurement", "measurements"),
    *(*STATED, *STATED_ONCE),
)
"""config keys of components, which Settings does not hold"""
REFERRED = ("scale", "arch", "trainer", "eps", "data")
"""config keys that other keys refer to; they act through those"""
ABOVE = ("seeds", "parts")
"""config keys that say how many configs a run has; each config is composed with one of each"""
OF_WHOLE = ("experiment", "seed", *ABOVE, *STATED, *STATED_ONCE)
"""config keys that say which run it is: where a file lists parts, they are the whole run's"""

MOST_PROCESSES = 1024
"""threads or workers that a machine might have cores for: with more a process ends for want of memory"""


@dataclass(frozen=True)
class Settings:
    """Values that stand at the top of a config."""

    experiment: str
    seed: int
    device: Literal["auto", "cpu", "cuda", "mps"]
    threads: int | None
    """CPU threads of each process; null for torch's own number, which workers share out"""
    workers: int
    """processes that train independent models side by side"""
    precision: Literal["fp32", "tf32", "bf16"]
    """of training; evaluation is in fp32 for fp32, else in tf32"""
    cuda_graphs: bool | None
    """whether CUDA captures attack loops and training steps; null where there is CUDA"""
    deterministic: bool
    """whether CUDA uses only kernels that give the same bits every time"""
    channels_last: bool
    """how convolutions' weights are laid out"""
    batch_size: int | None
    """images per step of an evaluation; null for a size that suits the device"""
    sources: list[str] | None
    """names of models; null for all that have gradients"""
    targets: list[str] | None
    """names of models; null for all"""
    outputs: str
    """root folder of models, rows and run directories"""
    checkpoint_seconds: float
    """how often a training saves its state"""
    track: Literal["tensorboard", "wandb"] | None
    """what shows learning curves while models train"""
    reuse: bool
    """whether finished rows are taken from the store"""
    rows: list[str]
    """CSV files of finished rows: what stands there is not measured"""
    missing: Literal["measure", "skip"]
    """what happens to rows that are neither given nor in the store: skip leaves them out, and trains nothing"""

    def __post_init__(self) -> None:
        below = all(re.fullmatch(r"[\w.+=,-]+", part) and part.strip(".") for part in self.experiment.split("/"))
        folder = "a name of letters, digits, _, - and ., perhaps of several parts, as in tramer/table4"
        require(below, f"experiment should be {folder}, is {self.experiment!r}")
        size = len(self.experiment.encode())
        require(size <= LONGEST_NAME, f"experiment should have at most {LONGEST_NAME} bytes, has {size}")
        require(bool(self.outputs), "outputs should be a folder, is ''")
        for field, models in (("sources", self.sources), ("targets", self.targets)):
            require(models != [], f"{field} is empty: name at least one model, or null for all")
        require(self.batch_size is None or self.batch_size >= 1, f"batch_size should be positive, is {self.batch_size}")
        fits = self.threads is None or 1 <= self.threads <= MOST_PROCESSES
        require(fits, f"threads should be null or in [1, {MOST_PROCESSES}], is {self.threads}")
        require(1 <= self.workers <= MOST_PROCESSES, f"workers should be in [1, {MOST_PROCESSES}], is {self.workers}")
        seconds = self.checkpoint_seconds
        require(seconds >= 0, f"checkpoint_seconds should be at least 0, is {seconds:g}: 0 saves after every step")
        there = self.track is None or find_spec(self.track) is not None
        require(there, f"track is {self.track!r}, which is not installed: pip install epsball[track]")
        require(self.seed >= 0, f"seed should be at least 0, is {self.seed}")
        require(self.seed < 2**53, f"seed should be below 2^53, is {self.seed}: rows do not hold larger ones exactly")

    @property
    def execution(self) -> "Execution":
        """How these settings are computed on this machine. Raises ConfigError where it lacks the device."""
        from epsball.runtime.device import Execution, choose_device

        device = choose_device(self.device)
        if self.cuda_graphs and device.type != "cuda":
            raise ConfigError(f"cuda_graphs should be null or false on {device.type}: only CUDA has graphs")
        return Execution(
            device=device,
            threads=self.threads or threads_of_process(),
            batch_size=self.batch_size or (128 if device.type == "cpu" else 1000),
            precision="fp32" if self.precision == "fp32" else "tf32",
            cuda_graphs=self.cuda_graphs is not False,
            deterministic=self.deterministic,
            channels_last=self.channels_last,
            checkpoint_seconds=self.checkpoint_seconds,
            track=self.track,
        )


def folder_of_part(part: str, run: str) -> str:
    """Return the folder of a part below its run's, by their experiments: tramer/table1 of tramer/all has table1."""
    return part.removeprefix(f"{run.rpartition('/')[0]}/")


def settings_of(config: Mapping[str, Any]) -> Settings:
    """Return a config's own values. ConfigError where one is wrong, or where a key is none of a config's."""
    known = [*Settings.__dataclass_fields__, *COMPONENTS, *REFERRED, *ABOVE]
    for key in config:
        if key not in known:
            raise ConfigError(f"{key} is not a config key{did_you_mean(key, known)}")
    own = {key: value for key, value in config.items() if key in Settings.__dataclass_fields__}
    settings: Settings = construct(Settings, own, where="")
    return settings
