"""One's own settings of a machine, conf/local/default.yaml, which git ignores: paths, device, cores."""

from pathlib import Path

from hydra.conf import RuntimeConf
from omegaconf import OmegaConf

from epsball.build import ConfigError, listed
from epsball.cli.compose import chosen_file
from epsball.experiment.settings import COMPUTED, FILES

ABSENT = "none"  # local=none: without any
KEYS = (*FILES, *COMPUTED, "hydra")
"""config keys that a local file may set: where files lie and how is computed, no result's identity"""


def check_local(runtime: RuntimeConf) -> None:
    """ConfigError where the chosen local file is not there, or could change a result. Hydra's `runtime` says which it
    is, and where config files are looked for."""
    name = runtime.choices.get("local")
    if name in (None, "", ABSENT):  # EPSBALL_LOCAL= is how scripts unset it
        return
    if found := chosen_file("local", runtime):
        check_file(found)
    elif name != "default":
        raise ConfigError(f"local={name} does not exist: write conf/local/{name}.yaml, or say local={ABSENT}")


def check_file(file: Path) -> None:
    """ConfigError unless a local file sets top-level keys of KEYS alone."""
    content = OmegaConf.load(file)
    foreign = [str(key) for key in content if key not in KEYS]
    if foreign:
        raise ConfigError(f"{file} sets {listed(foreign)}: it may set {listed(KEYS)} alone, which change no result")
