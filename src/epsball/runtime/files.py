"""Files are whole or absent: each is written under a temporary name, then renamed. Temporary files of processes that
were killed are recognised by their lock, and removed."""

import os
import shutil
import sys
import tempfile
import time
import uuid
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import IO

from epsball.build import ConfigError

if sys.platform != "win32":
    import fcntl

YOUNG = 1.0
"""seconds: a temporary file changed more recently is not taken for abandoned, though nobody has locked it: its process
may not have locked it yet, or may be about to rename it"""


def write_whole(path: Path, content: bytes | str) -> None:
    """Write `path` whole or not at all. Raises OSError (disk full, no permission) with the old file untouched."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with aside.open("wb") as file:
            try_lock(file)
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
            os.utime(aside)  # to be YOUNG, however slow the disk was: its lock ends before it is renamed
        aside.replace(path)
    except OSError as error:
        free = f" ({shutil.disk_usage(path.parent).free >> 20} MiB free)" if path.parent.exists() else ""
        raise OSError(error.errno, f"{error.strerror}{free}", str(path)) from error
    finally:
        aside.unlink(missing_ok=True)


def make_folder(path: Path, said: str) -> None:
    """Make a folder that the user named as `said`, if it is not there. ConfigError where it cannot be written."""
    try:
        path.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=path).close()
    except OSError as error:
        raise ConfigError(f"{said}: {path} cannot be written ({error.strerror}): name a folder of your own") from None


def try_lock(file: IO[bytes]) -> bool:
    """Lock an open file until it is closed, whichever way its process ends; False where another has locked it, or the
    file system knows no locks."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def is_abandoned(aside: Path) -> bool:
    """Whether the process that wrote a temporary file is gone, so that the file can be locked."""
    with suppress(OSError), aside.open("rb") as file:
        return time.time() - aside.stat().st_mtime > YOUNG and try_lock(file)
    return False


def remove_abandoned(folders: Iterable[Path]) -> None:
    """Remove from some folders what killed processes left half written."""
    for folder in folders:
        for aside in folder.glob(".*.part"):
            if is_abandoned(aside):
                aside.unlink(missing_ok=True)
