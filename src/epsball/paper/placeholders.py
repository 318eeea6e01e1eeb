"""Placeholders in the texts of tables, claims and figures: `error({model} | B, {attack})`."""

import re
from collections.abc import Iterable, Iterator, Mapping
from itertools import product

from epsball.build import listed, require

Loops = Mapping[str, list[str | float] | dict[str, str | float]]
"""values of placeholders; a dict has them by what labels call them"""
Fields = Mapping[str, str]
PLACEHOLDER = re.compile(r"\{(\w+)\}")


def fill(text: str, fields: Fields) -> str:
    """Put values in place of all placeholders. ValueError names one that has none."""
    check_known(text, fields)
    return fill_known(text, fields)


def check_known(text: str, known: Iterable[str]) -> None:
    """ValueError unless all placeholders of a text are known ones."""
    names = list(known)
    for name in PLACEHOLDER.findall(text):
        every = listed(f"{{{field}}}" for field in names)
        require(name in names, f"{text!r} has {{{name}}}, for which nothing stands: the placeholders are {every}")


def fill_known(text: str, fields: Fields) -> str:
    """Put values in place of the placeholders that have one."""
    return PLACEHOLDER.sub(lambda found: fields.get(found[1], found[0]), text)


def repeated(label: str, texts: Fields, loops: Loops) -> Iterator[tuple[str, dict[str, str]]]:
    """Yield label and texts once for each combination of values of the loops that the label names, with these values
    beside the texts; just once where it names none. ValueError where it names something else."""
    check_known(label, loops)
    names = [name for name in loops if name in PLACEHOLDER.findall(label)]
    for chosen in product(*(options(loops[name]) for name in names)):
        said = dict(zip(names, (text for text, _ in chosen), strict=True))
        own = dict(zip(names, (value for _, value in chosen), strict=True))
        yield fill_known(label, said), {**own, **{name: fill_known(text, own) for name, text in texts.items()}}


def expanded(name: str, lines: Mapping[str, str | dict[str, str]], loops: Loops) -> dict[str, dict[str, str]]:
    """Return what stands for the placeholders of each line, by its label: a line's one text stands for {name}.
    ValueError where two have the same label."""
    found: dict[str, dict[str, str]] = {}
    for line, texts in lines.items():
        for label, fields in repeated(line, {name: texts} if isinstance(texts, str) else texts, loops):
            require(label not in found, f"two of them are called {label!r}")
            found[label] = fields
    return found


def looped(text: str, loops: Loops) -> list[str]:
    """Return a text once for each combination of values of the loops that it names."""
    return [fields["text"] for _, fields in repeated(text, {"text": text}, loops)]


def options(values: list[str | float] | dict[str, str | float]) -> list[tuple[str, str]]:
    """Return what labels call each value, and the value as expressions have it."""
    pairs = values.items() if isinstance(values, dict) else ((value, value) for value in values)
    return [(text_of(label), text_of(value)) for label, value in pairs]


def text_of(value: str | float) -> str:
    """Write a loop's value as labels and expressions have it: 2.0 is 2."""
    return value if isinstance(value, str) else f"{value:.12g}"


def check_loops(loops: Loops) -> None:
    """ValueError unless every loop has a name and values."""
    for name, values in loops.items():
        require(name.isidentifier(), f"for.{name} should be a word: it stands in texts as {{{name}}}")
        require(bool(values), f"for.{name} should be at least one value, is empty")
