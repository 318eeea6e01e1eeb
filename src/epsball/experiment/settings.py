"""A config's own values, beside the components it names."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from epsball.build import require
from epsball.runtime.distributed import threads_of_process

if TYPE_CHECKING:
    from epsball.runtime.device import Execution

COMPONENTS = (
    *("dataset", "attack", "suite", "models", "grid", "measurement", "measurements"),
    *("tables", "claims", "figures", "objective", "conclusion"),
)
"""config keys of what Settings lacks"""
REFERRED = ("scale", "arch", "trainer", "eps", "data")
"""config keys that other keys refer to; they act through those"""
ABOVE = ("seeds", "parts")
"""config keys that say how many configs a run has; each config is composed with one of each"""


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
    cuda_graphs: bool
    """whether CUDA captures attack loops and training steps"""
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
    reuse: bool
    """whether finished rows are taken from the store"""
    rows: list[str]
    """CSV files of finished rows: what stands there is not measured"""
    missing: Literal["measure", "skip"]
    """what happens to rows that are neither given nor in the store: skip leaves them out, and trains nothing"""

    def __post_init__(self) -> None:
        require(self.batch_size is None or self.batch_size >= 1, f"batch_size should be positive, is {self.batch_size}")
        require(self.threads is None or self.threads >= 1, f"threads should be positive, is {self.threads}")
        require(self.workers >= 1, f"workers should be positive, is {self.workers}")
        require(self.seed >= 0, f"seed should be at least 0, is {self.seed}")

    @property
    def execution(self) -> "Execution":
        """How these settings are computed on this machine. Raises ConfigError where it lacks the device."""
        from epsball.runtime.device import Execution, choose_device

        device = choose_device(self.device)
        return Execution(
            device=device,
            threads=self.threads or threads_of_process(),
            batch_size=self.batch_size or (128 if device.type == "cpu" else 1000),
            precision="fp32" if self.precision == "fp32" else "tf32",
            cuda_graphs=self.cuda_graphs,
            deterministic=self.deterministic,
            channels_last=self.channels_last,
            checkpoint_seconds=self.checkpoint_seconds,
        )
