"""Answer `--help`. Hydra's own answer lists every group of configs twice, which takes longer than all the rest."""

from itertools import groupby
from string import Template

from omegaconf import OmegaConf, open_dict

from epsball.cli.compose import CONF, hydra_config
from epsball.cli.explain import options_of


def asks_for_help(words: list[str]) -> bool:
    """Whether a command line asks for nothing but the program's help, perhaps with overrides."""
    flags = [word for word in words if word.startswith("-")]
    return bool(flags) and set(flags) <= {"--help", "-h"}


def print_help(words: list[str]) -> None:
    """Print the config's own help text, with the options of every group and the config as these words compose it."""
    config = hydra_config([word for word in words if "=" in word])
    template = Template(config.hydra.help.template)
    with open_dict(config):
        del config.hydra
    print(template.substitute(APP_CONFIG_GROUPS=groups_text(), CONFIG=OmegaConf.to_yaml(config)))


def groups_text() -> str:
    """Return a line for each group of configs, `arch: mnist_a, mnist_b`, and for each folder in one, `paper:
    madry/table1, madry/table2`."""
    lines = []
    for group in sorted(folder.name for folder in CONF.iterdir() if folder.is_dir()):
        by_folder = groupby(options_of(group), key=lambda option: option.rpartition("/")[0])
        lines += [f"{group}: {', '.join(options)}\n" for _, options in by_folder]
    return "".join(lines)
