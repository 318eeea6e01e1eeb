"""Files that a config names: Python code of the user's own, and what their contents mean for an identity."""

import hashlib
import inspect
import sys
import traceback
from collections.abc import Callable, Mapping
from functools import cache
from importlib.machinery import ModuleSpec, SourceFileLoader
from importlib.util import module_from_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from epsball.build import did_you_mean, listed, one_line, require, written

FILES = ("checkpoint", "file")
"""fields of a component that name a file, whose content is part of what the component is"""
ARGUMENTS = "arguments"
"""field of a component with the keyword arguments of a user's own call: its keys are not field names of ours, though
they may look like them"""


def with_contents(spec: Any) -> Any:
    """Return a component's spec with the sha256 of each of its files in place of their names."""
    if isinstance(spec, list):
        return [with_contents(part) for part in spec]
    if not isinstance(spec, Mapping):
        return spec
    found = {key: with_contents(value) for key, value in spec.items()}
    for key in FILES:
        file = spec.get(key)
        if isinstance(file, str) and Path(file).is_file():
            found[key] = sha256_of(file)
    return found


def sha256_of(file: str) -> str:
    """Return the sha256 of a file, read once for as long as size and time of modification stay the same."""
    status = Path(file).stat()
    return sha256_at(file, status.st_size, status.st_mtime_ns)


@cache
def sha256_at(file: str, _size: int, _modified: int) -> str:
    with Path(file).open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def found_in(file: str | None, call: str | None, example: str, makes: str) -> Callable[..., Any]:
    """Return the class or function `call` of a Python file. ValueError, which begins with the field, where there is no
    such thing; its message has an `example` of how the file is named and says what the call `makes`.
    """
    require(bool(file), f"file should be a Python file, as in {example}, is null")
    require(Path(str(file)).is_file(), f"file should be a Python file, but there is no {file}")
    content = imported(str(file), sha256_of(str(file)))
    known = {name: each for name, each in vars(content).items() if is_own_call(each)}
    if call not in known:
        own = [name for name, each in known.items() if getattr(each, "__module__", "") == content.__name__]
        near = did_you_mean(call, own) if call else ""
        raise ValueError(f"call should name what {makes} in {file}, is {written(call)}{near}: it has {listed(own)}")
    result: Callable[..., Any] = known[call]
    return result


def is_own_call(value: object) -> bool:
    """Whether it is a class or function, not a network: one made at import would be shared by all models of a run."""
    return callable(value) and not isinstance(value, torch.nn.Module)


@cache
def imported(file: str, digest: str) -> ModuleType:
    """Import a Python file of this sha256, once. Its folder is not searched for other modules: the file's sha256, which
    alone is part of identities, would not cover them."""
    text = Path(file).read_bytes()
    unchanged = hashlib.sha256(text).hexdigest() == digest
    require(unchanged, f"file should stay as it is while a run uses it, but {file} was changed")
    name = f"epsball_own_{digest[:12]}"
    content = module_from_spec(ModuleSpec(name, SourceFileLoader(name, file), origin=file))
    content.__file__ = file
    sys.modules[content.__name__] = content  # a dataclass in it looks itself up there
    try:
        with torch.device("cpu"), torch.random.fork_rng(devices=[]):  # what it draws changes no initial weights
            torch.manual_seed(0)
            exec(compile(text, file, "exec"), vars(content))
    except (Exception, SystemExit) as error:
        del sys.modules[content.__name__]
        raise ValueError(f"file: {file} cannot be imported{cause(error, file)}") from error
    return content


def check_arguments(called: Callable[..., Any], name: str, given: Mapping[str, Any], *before: str) -> None:
    """ValueError, which begins with the field, unless a call takes the arguments `given` after those named `before`."""
    try:
        inspect.signature(called).bind(*before, **given)
    except TypeError as error:
        taken = f"{name}{inspect.signature(called)}"
        rest = f" beside {', '.join(before)}" if before else ""
        raise ValueError(f"arguments should be those of {taken}{rest}: {error}") from None


def cause(error: BaseException, file: str) -> str:
    """Return ` in line 3: TypeError: ...`, the last line of the user's file that an error came through."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    where = f" in line {lines[-1]}" if lines else ""
    return f"{where}: {type(error).__name__}: {one_line(error)}"
