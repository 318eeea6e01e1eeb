"""Files are whole or absent: written aside, then renamed."""

import os
import shutil
import tempfile
import uuid
from pathlib import Path

from epsball.build import ConfigError


def write_whole(path: Path, content: bytes | str) -> None:
    """Write `path` whole or not at all. Raises OSError (disk full, no permission) with the old file untouched."""
    aside = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        with aside.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
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
