"""Files are whole or absent, whatever interrupts the writing."""

import errno
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from epsball.runtime.files import is_abandoned, remove_abandoned, write_whole
from epsball.runtime.progress import Interrupted


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    write_whole(tmp_path / "a.csv", "old\n")
    write_whole(tmp_path / "a.csv", b"new\n")
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("a.csv", "new\n")]


FULL = """
import resource, sys
from pathlib import Path
from epsball.runtime.files import is_abandoned, remove_abandoned, write_whole
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write_whole(Path(sys.argv[1]), "x" * 5000)
"""


def test_a_full_disk_leaves_the_old_file_and_names_it(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    path.write_text("old\n")
    done = subprocess.run([sys.executable, "-c", FULL, str(path)], capture_output=True, text=True, timeout=300)
    assert done.returncode == 1
    last = done.stderr.splitlines()[-1]
    assert last.startswith(f"OSError: [Errno {errno.EFBIG}]") and str(path) in last and "MiB free" in last
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("results.csv", "old\n")]


def raising(error: BaseException) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


@pytest.mark.parametrize("step", ["os.fsync", "pathlib.Path.replace"])
def test_a_failure_at_any_step_leaves_the_old_file_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "run.json"
    write_whole(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr(step, raising(OSError(errno.ENOSPC, "No space left on device")))
        with pytest.raises(OSError, match=r"No space left on device .* MiB free") as error:
            write_whole(path, "new")
    assert error.value.errno == errno.ENOSPC and error.value.filename == str(path)
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("run.json", "old")]


def test_an_interrupted_write_leaves_nothing_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "run.json"
    write_whole(path, "old")
    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", raising(Interrupted(2)))  # the second Ctrl-C
        with pytest.raises(Interrupted):
            write_whole(path, "new")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("run.json", "old")]


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    path = tmp_path / "absent" / "run.json"
    with pytest.raises(OSError) as error:
        write_whole(path, "new")
    assert error.value.filename == str(path)


def test_a_file_that_is_to_be_renamed_is_not_taken_for_abandoned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its lock has ended; on a slow disk its last byte was written long ago."""
    rename, seen = Path.replace, []

    def slow_disk(number: int) -> None:
        os.utime(number, (1e9, 1e9))

    def renamed(aside: Path, path: Path) -> Path:
        seen.append(is_abandoned(aside))
        remove_abandoned([tmp_path])
        return rename(aside, path)

    monkeypatch.setattr("os.fsync", slow_disk)
    monkeypatch.setattr(Path, "replace", renamed)
    write_whole(tmp_path / "a.json", "whole")
    assert seen == [False] and (tmp_path / "a.json").read_text() == "whole"


WRITES = """
import os, sys
from pathlib import Path
from epsball.runtime.files import is_abandoned, remove_abandoned, write_whole
def wait(number):
    print("writing", flush=True)
    input()
os.fsync = wait
write_whole(Path(sys.argv[1]), "x")
"""


@pytest.mark.skipif(sys.platform == "win32", reason="needs flock")
def test_what_a_killed_process_left_aside_is_told_from_what_is_being_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("epsball.runtime.files.YOUNG", -1.0)
    command = [sys.executable, "-c", WRITES, str(tmp_path / "run.json")]
    with subprocess.Popen(command, stdin=-1, stdout=-1, text=True) as process:
        assert process.stdout and process.stdout.readline() == "writing\n"
        (aside,) = tmp_path.iterdir()
        assert not is_abandoned(aside)
        remove_abandoned([tmp_path])
        assert list(tmp_path.iterdir()) == [aside]
        process.kill()
    assert is_abandoned(aside)
    monkeypatch.setattr("epsball.runtime.files.YOUNG", 60.0)
    assert not is_abandoned(aside)  # it may not have come to its lock yet
    monkeypatch.setattr("epsball.runtime.files.YOUNG", -1.0)
    (tmp_path / "results.csv").touch()
    remove_abandoned([tmp_path, tmp_path / "absent"])
    assert [path.name for path in tmp_path.iterdir()] == ["results.csv"]
