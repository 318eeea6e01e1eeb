"""Files are whole or absent: written aside, then renamed."""

import os
import shutil
import uuid
from pathlib import Path


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
