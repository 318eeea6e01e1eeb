"""The words of a command line: Hydra's flags, and settings `key=value`, in any order."""

import re
import shlex
import sys
from argparse import Action, ArgumentError, ArgumentParser, Namespace
from collections import deque
from difflib import get_close_matches
from functools import cache
from pathlib import Path

from hydra._internal.utils import get_args_parser
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException

from epsball.build import ConfigError, listed

AT_TOP = "@_global_."
"""what Hydra takes for @ before a place in the whole config"""
OF_PARTS = ("models", "grid", "suite", "measurements")
"""groups whose entries a run of parts does not have itself"""


def in_order(words: list[str]) -> list[str]:
    """Return the words with flags and their values first: Hydra's parser takes settings on one side of a flag alone.

    Raises ConfigError for a flag that is none of Hydra's.
    """
    parser = hydra_parser()
    flags: list[str] = []
    others: list[str] = []
    rest = deque(words)
    while rest:
        word = rest.popleft()
        (flags if word.startswith("-") else others).append(word)
        flag = parser._option_string_actions.get(word)
        if flag and flag.nargs == "?":  # --info, whose value may be left out
            own = bool(rest) and "=" not in rest[0] and rest[0][:1] not in "-~"
            flags.append(rest.popleft() if own else str(flag.const))
        elif flag and flag.nargs is None and rest:
            flags.append(rest.popleft())
    check_flags(parser, [*flags, *others])
    return [*flags, *others]


def hydra_parser() -> ArgumentParser:
    """Return Hydra's parser, which raises where Hydra lets it print its usage and exit."""
    accept_lazy_help()
    parser = get_args_parser()
    parser.exit_on_error = False
    return parser


@cache
def accept_lazy_help() -> None:
    """Let argparse take help that is no text, as Hydra's of --shell-completion is until it is printed: from Python 3.14
    argparse looks into it at once, and Hydra before 1.4 ends there (its issue 3121)."""
    check = getattr(ArgumentParser, "_check_help", None)
    if check is None:  # before 3.14
        return

    def check_text(parser: ArgumentParser, action: Action) -> None:
        if isinstance(action.help, str):
            check(parser, action)

    ArgumentParser._check_help = check_text  # type: ignore[attr-defined]


def check_flags(parser: ArgumentParser, words: list[str]) -> None:
    """ConfigError for a flag that Hydra does not have, or a value that a flag does not take."""
    try:
        _, unknown = parser.parse_known_args(words)
    except ArgumentError as error:
        raise ConfigError(str(error)) from None
    known = [name for name in parser._option_string_actions if name.startswith("--")]
    for word in unknown:
        if word.startswith("-"):
            key = word.lstrip("-").partition("=")[0]
            as_setting = f"a setting has no dashes, {key}=VALUE; " if key.replace(".", "").isidentifier() else ""
            alike = get_close_matches(word.partition("=")[0], known, 1, cutoff=0.8)
            near = f" (did you mean {alike[0]}?)" if alike else ""
            raise ConfigError(f"{word} is no flag{near}: {as_setting}the flags are {listed(known)}")


def options() -> Namespace:
    """Return this command line as Hydra's parser reads it: its flags, and the settings as `overrides`."""
    return hydra_parser().parse_known_args(sys.argv[1:])[0]


def settings() -> list[str]:
    """Return the settings of this command line, as typed."""
    return list(options().overrides)


def typed_keys() -> dict[str, str]:
    """Return the keys that this command line sets, without `+` and `~`, and their values as typed."""
    return {key_of(word): word.partition("=")[2] for word in settings()}


def key_of(word: str) -> str:
    """Return the key that a setting sets."""
    return word.lstrip("+~").partition("=")[0].replace(AT_TOP, "@")


def place_of(word: str) -> tuple[str, str, str]:
    """Return the group, the entry and the field of it that a word of the command line sets, empty where it names none:
    models, A and arch of `arch@models.A.arch=mnist_b`."""
    group, name, field = [*key_of(word).rpartition("@")[2].split(".", 2), "", ""][:3]
    return group, name, field


def value_of(word: str) -> object:
    """Return the value that a setting sets, as Hydra reads it. HydraException where it cannot."""
    return OverridesParser.create().parse_override(word).value()


def adding_word(word: str) -> str:
    """Return a word that chooses an option at a place, as `arch@models.A.arch=mnist_b`, or sets a field, as
    `suite.pgd.steps=9`, so that Hydra takes it where the config has no such place; `choosing` returns it as it was."""
    return f"+{word.replace('@', AT_TOP, 1)}" if "@" in key_of(word) else f"++{word}"


def choosing(word: str) -> str:
    """Return a word of `adding_word`, and any other that sets an entry or a field of it with ++, as the parts of a run
    take it, of which one has the place that the run's own config lacks."""
    if AT_TOP in word:
        return word.lstrip("+").replace(AT_TOP, "@", 1)
    return word.removeprefix("++") if place_of(word)[0] in OF_PARTS else word


def own_folders() -> list[Path]:
    """Return the folders of configs that the user added to ours: `--config-dir`, `hydra.searchpath=[...]`."""
    said = typed_keys().get("hydra.searchpath", "").strip("[]").split(",")
    places = [options().config_dir or "", *(place.strip(" '\"") for place in said)]
    return [Path(place.removeprefix("file://")).absolute() for place in places if place and "pkg:" not in place]


def refuse_absent_folders() -> None:
    """ConfigError for a folder of configs that is not there."""
    for folder in own_folders():
        if not folder.is_dir():
            raise ConfigError(f"{folder} is no folder: --config-dir and hydra.searchpath name folders of configs")


def search_path() -> list[str]:
    """Return the overrides that let another composition find the user's own configs."""
    folders = own_folders()
    return [f"hydra.searchpath=[{','.join(f'file://{folder}' for folder in folders)}]"] if folders else []


def unreadable(words: list[str]) -> str:
    """Say which word Hydra cannot read, and how it is written; empty if it reads all."""
    parser = OverridesParser.create()
    for word in words:
        if not reads(word, parser):
            return f"{word!r} cannot be read: {how_to_write(word, parser)}"
    return ""


def how_to_write(word: str, parser: OverridesParser) -> str:
    """Say how a word that Hydra cannot read is written."""
    key, equals, value = word.partition("=")
    if not equals:
        return "a setting is key=value, as in seed=3; a text with spaces is quoted, as in 'outputs=\"my runs\"'"
    quoted = f'{key}="{value}"'
    if not reads(f"{key}=1", parser):
        return "a key is words of letters from a to z, digits and _ with dots between, as in +attack@suite.pgd=pgd"
    if said := unquoted_letters(key, value, parser):
        return said
    if not reads(quoted, parser):
        return "a setting is key=value, as in trainer.epochs=3 or +attack@suite.pgd=pgd"
    return f"a text with brackets, commas, spaces or = in it is quoted, as in {shlex.quote(quoted)}"


def unquoted_letters(key: str, value: str, parser: OverridesParser) -> str:
    """Say that letters beyond ASCII have to be quoted, where these alone keep a word from being read."""
    found = re.search(r"[^,:{}\[\]()'\"=]*[^\x00-\x7f][^,:{}\[\]()'\"=]*", value)
    ascii_alone = re.sub(r"[^\x00-\x7f]", "a", value)
    if found is None or not reads(f"{key}={ascii_alone}", parser):
        return ""
    letter, text = re.sub(r"[\x00-\x7f]", "", value)[0], found[0].strip()
    if not value.startswith(("{", "[")):
        quoted = f'{key}="{value}"'
        return f"{letter!r} has to stand in quotes, as in {shlex.quote(quoted)}"
    if not reads(f"{key}={ascii_alone}".replace(re.sub(r"[^\x00-\x7f]", "a", text), f'"{text}"'), parser):
        return f"{letter!r} has to stand in quotes, and in a name inside braces it cannot stand: a file can have it"
    return f'{letter!r} has to stand in quotes, as in "{text}"'


def reads(word: str, parser: OverridesParser) -> bool:
    """Whether Hydra can read a word."""
    try:
        parser.parse_override(word)
    except HydraException:
        return False
    return True
