"""Answer `--help`. Hydra's own answer lists every group of configs twice, which takes longer than all the rest."""

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
    """Return a line for each group of configs, `arch: mnist_a, mnist_b`; folders in it are groups of their own."""
    folders = sorted(folder for folder in CONF.rglob("*") if folder.is_dir())
    named = {folder.relative_to(CONF).as_posix(): options_of(folder.relative_to(CONF).as_posix()) for folder in folders}
    lines = [f"{name}: {', '.join(word for word in options if '/' not in word)}" for name, options in named.items()]
    return "".join(f"{line}\n" for line in lines if not line.endswith(": "))
