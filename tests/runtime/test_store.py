"""Models and rows on disk: named by what they depend on, computed once, whole or not at all, damage found and told."""

import copy
import errno
import hashlib
import io
import json
import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Iterator, Mapping
from multiprocessing.synchronize import Barrier
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from epsball.runtime.files import write_whole
from epsball.runtime.progress import Interrupted, Stop
from epsball.runtime.store import (
    CURVE,
    FORMAT,
    LAST,
    MANIFEST,
    MODEL,
    SPEC,
    CheckpointFolder,
    Store,
    fingerprint,
    free_name,
    locked,
)

CPU = torch.device("cpu")
KEY = "0123456789ab"
IDENTITY: dict[str, Any] = {
    "data": {"name": "digits", "checksum": "f00"},
    "arch": {"name": "mnist_d", "activation": {"name": "relu"}, "width": 1},
    "trainer": {"name": "standard", "epochs": 3, "lr": 0.001, "augment": None, "betas": [0.9, 0.999], "flip": True},
    "seed": 0,
}
STATE = {"model": {"w": torch.arange(5.0)}, "rng": torch.arange(9, dtype=torch.uint8), "step": 3, "curve": [{"a": 0.5}]}
FORKSERVER = multiprocessing.get_context("forkserver")  # torch is imported once, in the server

Made = tuple[Mapping[str, Tensor], dict[str, Any], str]


@pytest.fixture(scope="module", autouse=True)
def preload() -> None:
    FORKSERVER.set_forkserver_preload(["epsball.runtime.store"])


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path, lambda: None)


def never(folder: CheckpointFolder) -> Made:
    raise AssertionError("trained although a trained model is there")


def made(folder: CheckpointFolder) -> Made:
    """Return a trained model, out of nothing."""
    return {"layer.weight": torch.arange(6.0).view(2, 3).t()}, {"seed": 0, "loss": 0.25}, "epoch,loss\n1,0.25\n"


# ---- fingerprints


def test_key_order_does_not_change_a_fingerprint() -> None:
    shuffled = {key: IDENTITY[key] for key in reversed(IDENTITY)}
    shuffled["trainer"] = {key: IDENTITY["trainer"][key] for key in sorted(IDENTITY["trainer"])}
    assert list(shuffled) != list(IDENTITY)
    assert fingerprint(shuffled) == fingerprint(IDENTITY)


def test_three_and_three_point_zero_have_one_fingerprint() -> None:
    other = copy.deepcopy(IDENTITY)
    other["trainer"]["epochs"] = 3.0
    assert fingerprint(other) == fingerprint(IDENTITY)


def test_whole_numbers_that_round_to_one_float_have_their_own_fingerprints() -> None:
    """Seeds may be of any size."""
    numbers = [2**53, 2**53 + 1, 2**53 + 2, 2**63 - 1, 2**63, 2**63 + 1, 10**400, 10**400 + 1, -(2**53), -(2**53) - 1]
    assert len({fingerprint({"seed": number}) for number in numbers}) == len(numbers)
    assert fingerprint({"seed": 2**60}) == fingerprint({"seed": 2.0**60})


def leaves(node: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the paths of all values in nested dicts and lists."""
    if not isinstance(node, dict | list):
        yield path
        return
    for key in node if isinstance(node, dict) else range(len(node)):
        yield from leaves(node[key], (*path, key))


def changed(value: Any) -> list[Any]:
    """Return values that a config could hold in place of `value` and that mean something else."""
    if value is None:
        return [{"shift": 2}, 1]
    if isinstance(value, str):
        return [value + "x", None]
    return [not value, None] if isinstance(value, bool) else [value + 1e-9, value + 1, str(value), None]


@pytest.mark.parametrize("path", list(leaves(IDENTITY)), ids=lambda path: ".".join(map(str, path)))
def test_every_value_changes_the_fingerprint(path: tuple[Any, ...]) -> None:
    found = {fingerprint(IDENTITY)}
    node = IDENTITY
    for key in path:
        node = node[key]
    values = changed(node)
    for value in values:
        other = copy.deepcopy(IDENTITY)
        place: Any = other
        for key in path[:-1]:
            place = place[key]
        place[path[-1]] = value
        found.add(fingerprint(other))
    assert len(found) == 1 + len(values)


def test_a_field_more_or_less_changes_the_fingerprint() -> None:
    more = {**IDENTITY, "extra": None}
    less = {key: value for key, value in IDENTITY.items() if key != "seed"}
    assert len({fingerprint(IDENTITY), fingerprint(more), fingerprint(less)}) == 3


def test_true_is_not_one() -> None:
    assert fingerprint({"flip": True}) != fingerprint({"flip": 1})


def test_fingerprints_stay() -> None:
    """Every stored model and row lies under its own: new ones here come with a new format number, on purpose."""
    assert FORMAT == 3
    assert fingerprint({}) == "36da81f03f88"
    assert fingerprint(IDENTITY) == "ab80e902a8b5"


def test_another_format_is_another_fingerprint(monkeypatch: pytest.MonkeyPatch) -> None:
    before = fingerprint(IDENTITY)
    monkeypatch.setattr("epsball.runtime.store.FORMAT", FORMAT + 1)
    assert fingerprint(IDENTITY) != before


# ---- trained once


def test_a_model_is_trained_once_and_then_reused(store: Store) -> None:
    first = store.load_or_train("tiny", KEY, CPU, made)
    second = store.load_or_train("tiny", KEY, CPU, never)
    assert (first.reused, second.reused) == (False, True)
    assert first.path == second.path == store.path(KEY)
    assert first.spec == second.spec == {"seed": 0, "loss": 0.25}
    assert torch.equal(first.weights["layer.weight"], second.weights["layer.weight"])
    assert torch.equal(second.weights["layer.weight"], torch.tensor([[0.0, 3], [1, 4], [2, 5]]))
    assert sorted(path.name for path in first.path.iterdir()) == sorted([MODEL, SPEC, CURVE, MANIFEST])
    assert (first.path / CURVE).read_text() == "epoch,loss\n1,0.25\n"


@pytest.mark.parametrize("label", ["my/own", "../own"])
def test_a_label_is_no_path(store: Store, label: str) -> None:
    """Below another folder no other label, nor scripts/runs.py, would find the model."""
    first = store.load_or_train(label, KEY, CPU, made)
    assert first.path.parent == store.root / "models"
    assert store.load_or_train("another", KEY, CPU, never).path == first.path


def test_weights_that_share_memory_are_kept(store: Store) -> None:
    whole = torch.arange(6.0)
    weights = {"a.weight": whole, "b.weight": whole, "c.weight": whole[2:].view(2, 2)}
    store.load_or_train("tied", KEY, CPU, lambda folder: (weights, {}, ""))
    found = store.load_or_train("tied", KEY, CPU, never).weights
    assert all(torch.equal(found[name], weight) for name, weight in weights.items())


def test_the_manifest_holds_the_sha256_of_every_other_file(store: Store) -> None:
    path = store.load_or_train("tiny", KEY, CPU, made).path
    manifest = json.loads((path / MANIFEST).read_text())
    assert set(manifest) == {MODEL, SPEC, CURVE}
    assert all(hashlib.sha256((path / name).read_bytes()).hexdigest() == manifest[name] for name in manifest)


def test_a_learning_curve_is_read_without_the_weights(store: Store) -> None:
    path = store.load_or_train("tiny", KEY, CPU, made).path
    (path / MODEL).write_bytes(b"damaged")
    assert store.curve(KEY) == ("epoch,loss\n1,0.25\n", {"seed": 0, "loss": 0.25})
    (path / SPEC).write_text("{}")
    assert store.curve(KEY) is None and store.curve("another") is None


def test_other_fingerprints_are_other_models(store: Store) -> None:
    store.load_or_train("tiny", KEY, CPU, made)
    assert store.find("another", CPU) is None
    assert store.load_or_train("tiny", "another", CPU, made).reused is False


def test_a_failed_training_publishes_nothing(store: Store) -> None:
    def fail(folder: CheckpointFolder) -> Made:
        raise RuntimeError("out of luck")

    with pytest.raises(RuntimeError, match="out of luck"):
        store.load_or_train("tiny", KEY, CPU, fail)
    assert store.find(KEY, CPU) is None
    assert store.load_or_train("tiny", KEY, CPU, made).reused is False  # and the lock is free


@pytest.mark.parametrize("name", [MODEL, SPEC, CURVE, MANIFEST])
def test_a_publication_cut_short_is_no_model(store: Store, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The manifest comes last: it says that all is there."""

    def cut(path: Path, content: bytes | str) -> None:
        if path.name == name:
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        write_whole(path, content)

    with monkeypatch.context() as patch:
        patch.setattr("epsball.runtime.store.write_whole", cut)
        with pytest.raises(OSError, match="No space left"):
            store.load_or_train("tiny", KEY, CPU, made)
    assert not (store.path(KEY) / MANIFEST).exists()
    assert store.find(KEY, CPU) is None
    assert store.load_or_train("tiny", KEY, CPU, made).reused is False


def test_what_a_killed_process_left_goes_with_the_next_training(store: Store, tmp_path: Path) -> None:
    """Half of a state, and a whole one of a training that was killed after its last file."""
    folder = store.path(KEY, "mnist_a-standard")
    for aside in (folder / ".last.pt.0f.part", tmp_path / "rows" / ".a.json.0f.part"):
        aside.parent.mkdir(parents=True)
        aside.touch()
        os.utime(aside, (1e9, 1e9))
    store.load_or_train("mnist_a-standard", KEY, CPU, made)
    assert {path.name for path in folder.iterdir()} == {MODEL, SPEC, CURVE, MANIFEST}
    store.remove_abandoned()
    assert list((tmp_path / "rows").iterdir()) == []
    CheckpointFolder(folder).save_state(STATE)
    store.load_or_train("mnist_a-standard", KEY, CPU, never)
    assert {path.name for path in folder.iterdir()} == {MODEL, SPEC, CURVE, MANIFEST}


def test_a_wait_for_another_process_ends_when_poll_raises(tmp_path: Path) -> None:
    stop = Stop()
    stop.signum = 15
    store = Store(tmp_path, stop.check)
    holder = FORKSERVER.Process(target=train_and_hang, args=(tmp_path,))
    holder.start()
    try:
        wait_for(tmp_path / "models" / f"tiny-{KEY}" / LAST)
        with pytest.raises(Interrupted):
            store.load_or_train("tiny", KEY, CPU, never)
    finally:
        kill(holder.pid)
        holder.join()


def train_counted(root: Path, together: Barrier) -> None:
    """Do what each of several processes does that want one model at the same moment."""

    def train(folder: CheckpointFolder) -> Made:
        with (root / "counter").open("a") as counter:
            counter.write(f"{os.getpid()}\n")
        time.sleep(0.3)
        return made(folder)

    together.wait(300)
    trained = Store(root, lambda: None).load_or_train("tiny", KEY, CPU, train)
    assert torch.equal(trained.weights["layer.weight"], made(CheckpointFolder(root))[0]["layer.weight"])


@pytest.mark.parametrize("damaged", [False, True], ids=["absent", "damaged"])
def test_four_processes_train_one_model_once(tmp_path: Path, damaged: bool) -> None:
    if damaged:
        path = Store(tmp_path, lambda: None).load_or_train("tiny", KEY, CPU, made).path
        flip_bit(path / MODEL)
    together = FORKSERVER.Barrier(4)
    workers = [FORKSERVER.Process(target=train_counted, args=(tmp_path, together)) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(300)
    assert [worker.exitcode for worker in workers] == [0, 0, 0, 0]
    assert len((tmp_path / "counter").read_text().splitlines()) == 1
    asides = list((tmp_path / "models").glob("*.damaged*"))
    assert len(asides) == (1 if damaged else 0)


def test_what_another_process_repaired_meanwhile_is_not_put_aside(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.load_or_train("tiny", KEY, CPU, made).path
    flip_bit(path / MODEL)
    find_damage, others = store.damage, iter([Store(tmp_path, lambda: None)])

    def damage_then_wait(path: Path) -> str | None:
        found = find_damage(path)
        for other in others:  # once: the other process is quicker
            assert other.load_or_train("tiny", KEY, CPU, made).reused is False
        return found

    monkeypatch.setattr(store, "damage", damage_then_wait)
    assert store.load_or_train("tiny", KEY, CPU, never).reused is True


def train_and_hang(root: Path) -> None:
    """Save a state at step 3, then never come back."""

    def train(folder: CheckpointFolder) -> Made:
        folder.save_state(STATE)
        time.sleep(600)
        return made(folder)

    Store(root, lambda: None).load_or_train("tiny", KEY, CPU, train)


def wait_for(path: Path) -> None:
    for _ in range(30000):
        if path.exists():
            return
        time.sleep(0.01)
    raise AssertionError(f"{path} did not appear")


def kill(pid: int | None) -> None:
    assert pid is not None
    os.kill(pid, signal.SIGKILL)


def test_a_killed_trainer_frees_the_lock_and_the_next_goes_on_from_its_state(tmp_path: Path) -> None:
    holder = FORKSERVER.Process(target=train_and_hang, args=(tmp_path,))
    holder.start()
    wait_for(tmp_path / "models" / f"tiny-{KEY}" / LAST)
    found: list[dict[str, Any] | None] = []

    def go_on(folder: CheckpointFolder) -> Made:
        found.append(folder.last_state())
        return made(folder)

    waited: list[bool] = []

    def poll() -> None:  # called while the lock is held elsewhere
        waited.append(True)
        if holder.is_alive():
            kill(holder.pid)

    trained = Store(tmp_path, poll).load_or_train("tiny", KEY, CPU, go_on)
    holder.join()
    assert holder.exitcode == -signal.SIGKILL
    assert waited and not trained.reused
    assert len(found) == 1 and found[0] is not None and same(found[0], STATE)
    assert not (trained.path / LAST).exists()


def test_a_lock_is_free_after_an_error_inside_it(tmp_path: Path) -> None:
    with pytest.raises(ValueError), locked(tmp_path / "lock", "", lambda: None):
        raise ValueError
    with locked(tmp_path / "lock", "", lambda: pytest.fail("still locked")):
        pass


# ---- damage


def flip_bit(path: Path, position: int | None = None, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2 if position is None else position] ^= 1 << bit
    path.write_bytes(content)


@pytest.mark.parametrize("name", [MODEL, SPEC, CURVE, MANIFEST])
def test_a_flipped_bit_is_told_put_aside_and_trained_anew(
    store: Store, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    path = store.load_or_train("tiny", KEY, CPU, made).path
    position = (path / name).read_bytes().index(b"{") if name == MANIFEST else None
    for number in ("", "-2"):
        flip_bit(path / name, position)
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            again = store.load_or_train("tiny", KEY, CPU, made)
        assert again.reused is False and again.path == path
        (warning,) = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
        assert str(path) in warning and name in warning
        assert (path.with_name(f"{path.name}.damaged{number}") / name).exists()
    assert store.load_or_train("tiny", KEY, CPU, never).reused is True


@pytest.mark.parametrize("name", [MODEL, SPEC, CURVE])
def test_a_missing_or_truncated_file_is_damage(store: Store, name: str) -> None:
    path = store.load_or_train("tiny", KEY, CPU, made).path
    whole = (path / name).read_bytes()
    (path / name).write_bytes(whole[:-1])
    assert name in (store.damage(path) or "")
    (path / name).unlink()
    assert name in (store.damage(path) or "")
    (path / name).write_bytes(whole)
    assert store.damage(path) is None


@pytest.mark.parametrize("name", [MODEL, SPEC, CURVE, MANIFEST])
def test_no_flipped_byte_goes_unnoticed(store: Store, name: str) -> None:
    path = store.load_or_train("tiny", KEY, CPU, made).path
    for position in range((path / name).stat().st_size):
        flip_bit(path / name, position, position % 8)
        assert store.damage(path) is not None, f"byte {position}"
        flip_bit(path / name, position, position % 8)
    assert store.damage(path) is None


@pytest.mark.parametrize("name", [MODEL, MANIFEST])
@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_a_model_that_cannot_be_read_now_is_neither_damaged_nor_trained_anew(
    store: Store, name: str, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = store.load_or_train("tiny", KEY, CPU, made).path
    unreadable(path / name, number, monkeypatch)
    with pytest.raises(OSError, match=name) as error:
        store.load_or_train("tiny", KEY, CPU, never)
    assert error.value.errno == number
    assert [folder.name for folder in path.parent.iterdir() if folder.is_dir()] == [path.name]


def unreadable(path: Path, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the file system fail where `path` is opened."""
    original = io.open

    def failing(file: Any, *arguments: Any, **settings: Any) -> Any:
        if Path(file) == path:
            raise OSError(number, os.strerror(number), str(file))
        return original(file, *arguments, **settings)

    monkeypatch.setattr(io, "open", failing)


@pytest.mark.parametrize("content", ["[]", "{}", "", '{"model.safetensors": 3}', "\udcff"])
def test_a_manifest_that_is_something_else_is_damage(store: Store, content: str) -> None:
    path = store.load_or_train("tiny", KEY, CPU, made).path
    (path / MANIFEST).write_bytes(content.encode(errors="surrogateescape"))
    assert MANIFEST in (store.damage(path) or "") or MODEL in (store.damage(path) or "")


def test_free_name_counts_up(tmp_path: Path) -> None:
    names = []
    for _ in range(3):
        names.append(free_name(tmp_path / "x").name)
        (tmp_path / names[-1]).mkdir()
    assert names == ["x", "x-2", "x-3"]


# ---- the state of an interrupted training


def same(a: Any, b: Any) -> bool:
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, Tensor):
        return isinstance(b, Tensor) and a.dtype == b.dtype and torch.equal(a, b)
    return bool(a == b)


def test_a_state_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    folder = CheckpointFolder(tmp_path)
    assert folder.last_state() is None
    folder.save_state(STATE)
    assert same(folder.last_state(), STATE)
    folder.save_state({**STATE, "step": 4})
    assert same(folder.last_state(), {**STATE, "step": 4})
    assert [path.name for path in tmp_path.iterdir()] == [LAST]


@pytest.mark.parametrize("kept", [0.0, 0.3, 0.999])
def test_a_truncated_state_is_told_and_not_used(tmp_path: Path, kept: float, caplog: pytest.LogCaptureFixture) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save_state(STATE)
    whole = (tmp_path / LAST).read_bytes()
    (tmp_path / LAST).write_bytes(whole[: int(kept * len(whole))])
    with caplog.at_level(logging.WARNING):
        assert folder.last_state() is None
    assert str(tmp_path / LAST) in caplog.text and "starts again" in caplog.text


@pytest.mark.parametrize("number", [errno.EIO, errno.ESTALE, errno.EACCES])
def test_a_state_that_cannot_be_read_now_is_not_trained_over(
    tmp_path: Path, number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save_state(STATE)
    unreadable(tmp_path / LAST, number, monkeypatch)
    with pytest.raises(OSError, match=LAST):
        folder.last_state()


@pytest.mark.parametrize("error", [MemoryError("too little"), torch.OutOfMemoryError("too little")])
def test_a_state_that_there_is_no_memory_for_is_not_trained_over(
    tmp_path: Path, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = CheckpointFolder(tmp_path)
    folder.save_state(STATE)

    def failing(*arguments: Any, **settings: Any) -> Any:
        raise error

    monkeypatch.setattr(torch, "load", failing)
    with pytest.raises(type(error), match="too little"):
        folder.last_state()


OTHER = b"of another program"


@pytest.mark.parametrize(
    "content", [b"", b"not a zip", b"PK\x05\x06" + bytes(18), hashlib.sha256(OTHER).digest() + OTHER]
)
def test_a_state_that_is_something_else_is_not_used(tmp_path: Path, content: bytes) -> None:
    (tmp_path / LAST).write_bytes(content)
    assert CheckpointFolder(tmp_path).last_state() is None


def test_a_flipped_bit_never_changes_nor_breaks_a_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the zip's directory every byte, elsewhere every 61st: no state or the very same, and no exception."""
    monkeypatch.setattr("epsball.runtime.store.log", logging.Logger("silent", level=logging.CRITICAL))
    folder = CheckpointFolder(tmp_path)
    folder.save_state(STATE)
    whole = (tmp_path / LAST).read_bytes()
    directory = whole.index(b"PK\x01\x02")
    places = [(i, i % 8) for i in range(0, directory, 61)]
    places += [(i, bit) for i in range(directory, len(whole)) for bit in (4, 7)]
    wrong = []
    for position, bit in places:
        content = bytearray(whole)
        content[position] ^= 1 << bit
        (tmp_path / LAST).write_bytes(content)
        try:
            state = folder.last_state()
        except Exception as error:
            wrong.append((position, bit, repr(error)))
        else:
            if state is not None and not same(state, STATE):
                wrong.append((position, bit, "another state"))
    assert not wrong, f"{len(wrong)} of {len(places)} flips, such as {wrong[0]} and {wrong[-1]}"


# ---- rows


def test_rows_are_kept_and_read(store: Store) -> None:
    assert store.rows(KEY) is None
    rows = [{"n": 40, "error_top1": 0.1 + 0.2, "error_top5": float("nan"), "transfer_n": 0}, {"n": 2}]
    store.keep_rows(KEY, rows)
    found = store.rows(KEY)
    assert found is not None and repr(found) == repr(rows)
    assert store.rows("another") is None
    store.keep_rows(KEY, [{"n": 1}])
    assert store.rows(KEY) == [{"n": 1}]


@pytest.mark.parametrize("content", [b"", b'[{"n": 4', b"[1, 2]", b'{"n": 4}', b"3", b"\xff\xfe\x00"])
def test_rows_that_cannot_be_read_are_not_finished(store: Store, tmp_path: Path, content: bytes) -> None:
    store.keep_rows(KEY, [{"n": 40}])
    (tmp_path / "rows" / f"{KEY}.json").write_bytes(content)
    assert store.rows(KEY) is None
