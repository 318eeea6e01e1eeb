"""Build objects from names, here and nowhere else: `{name, **fields}` and a written-out table give one object.

A table maps names to frozen dataclasses or functions. Their annotations are the schema: `float`, `int`, `bool`,
`str`, `Literal[...]`, `X | None`, `list[X]`, `tuple[X, ...]`, `dict[str, X]`, and, for a nested component,
`Annotated[Base, TABLE]` (TABLE a dict: the spec carries a name) or `Annotated[Base, Class]` (no name needed).
"""

import dataclasses
import difflib
import inspect
import math
import re
import types
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from keyword import iskeyword
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

BOUND = "bound"  # marks fields that `bound` made
LONGEST_NAME = 100
"""bytes of a name that a config gives; a file's has 255, and may hold two"""
Table = Mapping[str, Callable[..., Any]]


class ConfigError(ValueError):
    """The user's config is wrong; the message is one line: what, where, and what would be right."""


class UnfitError(ConfigError):
    """A component whose settings are valid, but which does not fit the data or the network of the same config."""


class ShapeError(ValueError):
    """A network does not take images of this shape."""


@contextmanager
def naming_part(part: str | None) -> Iterator[None]:
    """Put the part of a run, called by its paper, before what a ConfigError inside the block says; nothing for None, of
    a run that lists no parts."""
    try:
        yield
    except ConfigError as error:
        if part is None:
            raise
        raise ConfigError(f"part {part}: {error}") from None


def build(table: Table, spec: object, *context: object, where: str) -> Any:
    """Return the object that `spec` = {name, **fields} describes, out of `table`.

    `context` fills the positional parameters that no config provides (an input shape, a class count);
    `where` is the dotted config key of `spec`. Raises ConfigError for anything that does not fit.
    """
    fields = dict(mapping(spec, where))
    if "name" not in fields:
        raise ConfigError(f"{under(where, 'name')} is missing: choose one of {listed(table)}")
    name = fields.pop("name")
    if not isinstance(name, str) or name not in table:
        raise ConfigError(
            f"{under(where, 'name')} is {name!r}{did_you_mean(str(name), table)}: choose one of {listed(table)}"
        )
    return construct(table[name], fields, *context, where=where)


def construct(target: Callable[..., Any], fields: object, *context: object, where: str) -> Any:
    """Call `target` with checked and converted `fields`; a ValueError it raises is the user's mistake."""
    given = {str(key): value for key, value in mapping(fields, where).items()}
    hints = get_type_hints(target.__init__ if inspect.isclass(target) else target, include_extras=True)
    known = dataclasses.fields(target) if dataclasses.is_dataclass(target) else ()
    filled = {f.name for f in known if BOUND in f.metadata}
    every = [p for p in inspect.signature(target).parameters.values() if p.name not in filled][len(context) :]
    parameters = {p.name.removesuffix("_"): p for p in every}  # `for_` in Python, whose word `for` is, is for: in YAML
    for key in given:
        if key not in parameters:
            meant = did_you_mean(key, parameters) or f" (~{under(where, key)} leaves it out)"
            raise ConfigError(f"{under(where, key)} is not a field{meant}: the fields are {listed(parameters)}")
    for p in every:
        if p.name not in hints:
            raise ConfigError(f"{where}: {target.__name__}.{p.name} needs a type annotation")
    for key, p in parameters.items():
        if p.default is p.empty and key not in given:
            raise ConfigError(f"{under(where, key)} is missing: it should be {describe(hints[p.name])}")
    named = {parameters[key].name: (key, value) for key, value in given.items()}
    values = {name: convert(value, hints[name], under(where, key)) for name, (key, value) in named.items()}
    try:
        return target(*context, **values)
    except ConfigError:
        raise
    except ShapeError as error:
        raise UnfitError(f"{where}: {error}") from error
    except ValueError as error:
        raise ConfigError(under(where, str(error))) from error


def convert(value: object, hint: Any, where: str) -> Any:
    """Return `value` as the type `hint` asks for, or raise a ConfigError that names `where`."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        schema = hint.__metadata__[0]
        nested = build if isinstance(schema, Mapping) else construct
        return nested(schema, value, where=where)
    if origin in (Union, types.UnionType):
        return None if value is None and type(None) in args else convert_union(value, hint, where)
    if origin is Literal:
        named = str(value).lower() if isinstance(value, bool) else value  # YAML reads the word true as a boolean
        if named in args:
            return named
    if origin in (list, tuple) and isinstance(value, list | tuple):
        items = [convert(item, args[0], f"{where}[{i}]") for i, item in enumerate(value)]
        return origin(items)
    if origin is dict and isinstance(value, Mapping):
        return {str(k): convert(v, args[1], under(where, str(k))) for k, v in value.items()}
    if hint is Any:
        return value
    if hint is float and isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    if hint in (int, str, bool) and type(value) is hint:
        return value
    raise ConfigError(f"{where} should be {describe(hint)}, is {written(value)}{fraction_hint(value)}")


def convert_union(value: object, hint: Any, where: str) -> Any:
    """Convert `value` to the first member of the union that accepts it."""
    members = [a for a in get_args(hint) if a is not type(None)]
    for member in members[:-1]:
        try:
            return convert(value, member, where)
        except ConfigError:
            continue
    try:
        return convert(value, members[-1], where)
    except ConfigError as error:
        inside = not str(error).startswith(f"{where} ")
        if inside or get_origin(members[-1]) is Annotated:  # of a part, or of a component: its own message says more
            raise
        raise ConfigError(f"{where} should be {describe(hint)}, is {written(value)}{fraction_hint(value)}") from None


def bound(empty: Any) -> Any:
    """Return a dataclass field that no config sets: what the component is joined with later, such as trained models."""
    return dataclasses.field(default=empty, metadata={BOUND: True})


def require(condition: bool, message: str) -> None:
    """Check the range of a component's field; `message` starts with the field, the caller's key is put before it."""
    if not condition:
        raise ValueError(message)


@contextmanager
def naming_field(field: str) -> Iterator[None]:
    """Put the field before what a ValueError says of its content."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from None


@contextmanager
def naming_key(where: str) -> Iterator[None]:
    """Make a ConfigError, which begins with a key below `where`, of a ValueError that begins with the field."""
    try:
        yield
    except ValueError as error:
        raise ConfigError(under(where, str(error))) from None


def under(where: str, key: str) -> str:
    """Return the dotted config key of a field; the top level has no name."""
    return f"{where}.{key}" if where else key


def mapping(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise ConfigError(f"{where} should be a group of fields, is {written(value)}")
    return value


def check_name(name: object, where: str) -> None:
    """ConfigError unless a name that a config gives may stand in the names of files and columns. YAML reads one of
    digits alone as a number."""
    if not isinstance(name, str):
        raise ConfigError(f"{where} should have a text for a name, is {name!r}: quoted, '{name}' is one")
    if not re.fullmatch(r"[\w-]+", name) or len(name.encode()) > LONGEST_NAME:
        letters = f"letters, digits, _ and -, of at most {LONGEST_NAME} bytes"
        raise ConfigError(f"{where} should have a name of {letters}: it names files and columns")


def is_word(name: str) -> bool:
    """Whether expressions, `error(A | A, fgsm, width=1)`, can name something so: as Python names a variable."""
    return name.isidentifier() and not iskeyword(name)


def describe(hint: Any) -> str:
    """Return a type as a user would say it."""
    origin, args = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return "a group of fields"
    if origin is Literal:
        return "one of " + listed(map(str, args))
    if origin in (Union, types.UnionType):
        return " or ".join("null" if a is type(None) else describe(a) for a in args)
    if origin in (list, tuple):
        return f"a list, each {describe(args[0])}"
    if origin is dict:
        return f"{{NAME: {describe(args[1])}}}"
    return {int: "an int", float: "a float", bool: "true or false", str: "a text", Any: "..."}.get(hint, str(hint))


def written(value: object) -> str:
    """Return a value as YAML writes null, true and false, and as Python writes any other."""
    return "null" if value is None else repr(value).lower() if isinstance(value, bool) else repr(value)


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return ` (did you mean 'x'?)` for the nearest known word, or nothing."""
    near = difflib.get_close_matches(word, [str(k) for k in known], n=1, cutoff=0.5)
    return f" (did you mean {near[0]!r}?)" if near else ""


def listed(names: Iterable[str]) -> str:
    return ", ".join(names) or "(none)"


def one_line(message: object) -> str:
    """Return an error, or what it says, with a blank for every white space in it."""
    return " ".join(str(message).split())


def fraction_hint(value: object) -> str:
    """Show how a fraction is written: people type 8/255, which YAML reads as a text."""
    if isinstance(value, str) and "/" in value:
        numerator, _, denominator = value.partition("/")
        if numerator.strip().isdigit() and denominator.strip().isdigit():
            return f" (write ${{frac:{numerator.strip()},{denominator.strip()}}})"
    return ""
