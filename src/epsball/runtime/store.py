"""Trained models and finished rows on disk, by fingerprint: each computed once, whole or not at all, verified on load.

    <root>/models/<label>-<fingerprint>/   model.safetensors spec.json training.csv manifest.json
                                           (last.pt while training: its sha256, then what torch.save wrote)
    <root>/rows/<identity>.json            finished rows of a measurement
    <root>/examples/<label>-<identity>.npy adversarial images that a run exported

The manifest is written last and holds the sha256 of the other files: a folder with a manifest is a trained model.
"""

import hashlib
import json
import logging
import pickle
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout
from torch import Tensor

from epsball.build import one_line
from epsball.runtime.files import remove_abandoned, write_whole
from epsball.runtime.named_files import ARGUMENTS

FORMAT = 3  # raise it when a change of the code changes what a spec trains to (3: no labels, truncated noise)
YOUNGER: tuple[tuple[str, Any], ...] = (
    *(("step_share", None), ("crafting_statistics", "kept"), ("eps_rise", None), ("export", False)),
    *(("crafted_on", "augmented"), ("crafted_once", False), ("images", {})),
    *(("crafting_auxiliary", True), ("batch_norm_momentum", 0.1), ("batch_norm", "local")),
    *(("gradients_of", "cross_entropy"), ("padding", "same"), ("mean", None), ("std", None)),
)
"""fields added since FORMAT 3, each with the value at which a component is what it was before the field was there: such
a field is left out of the fingerprint, so that fingerprints of earlier versions stay the same"""
MODELS, ROWS, EXAMPLES = "models", "rows", "examples"
FOLDER = re.compile(r"(?P<label>.+)-(?P<key>[0-9a-f]{12})(?P<damaged>\.damaged(-\d+)?)?")
"""name of a model's folder below MODELS"""
MODEL, SPEC, CURVE, MANIFEST, LAST = "model.safetensors", "spec.json", "training.csv", "manifest.json", "last.pt"
DIGEST = hashlib.sha256().digest_size  # bytes of last.pt before the state: its sha256
ABSENT = FileNotFoundError, NotADirectoryError, IsADirectoryError
log = logging.getLogger(__name__)


def fingerprint(identity: Mapping[str, Any]) -> str:
    """Return 12 hexadecimal digits that name `identity`: a plain nested dict of everything that can change the result.

    The order of keys does not matter, nor whether a number is written 3 or 3.0.
    """
    text = json.dumps(canonical({"format": FORMAT, **identity}), sort_keys=True, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def younger(key: object, value: object) -> bool:
    """Whether a field of a component is one of YOUNGER, at the value that is left out."""
    return any(key == name and value == before and type(value) is type(before) for name, before in YOUNGER)


def canonical(value: Any, own: bool = False) -> Any:
    """Return `value` with one spelling for equal numbers, and without the fields of YOUNGER that are left out; of a
    user's `own` arguments all are kept. A whole number that no float equals, such as 2**53 + 1, stays an int: rounded,
    it would have the fingerprint of another number."""
    if isinstance(value, Mapping):
        return {str(k): canonical(v, own or k == ARGUMENTS) for k, v in value.items() if own or not younger(k, v)}
    if isinstance(value, list | tuple):
        return [canonical(v, own) for v in value]
    whole = isinstance(value, int) and not isinstance(value, bool)
    return float(value) if whole and value.bit_length() < 1024 and float(value) == value else value


@dataclass(frozen=True)
class Trained:
    """A trained model as it lies in the store."""

    weights: dict[str, Tensor]
    """parameters and buffers by name, on the device"""
    spec: dict[str, Any]
    """content of its spec.json"""
    path: Path
    """its folder"""
    reused: bool
    """whether it was there, and not trained now"""


@dataclass(frozen=True)
class CheckpointFolder:
    """Folder in which one model is being trained, by one process at a time."""

    path: Path

    def last_state(self) -> dict[str, Any] | None:
        """Return the state an interrupted training saved, on the CPU, if there is one and it is whole. Raises OSError
        where it cannot be read now."""
        file = self.path / LAST
        try:
            content = file.read_bytes()
        except FileNotFoundError:
            return None
        digest, saved = content[:DIGEST], content[DIGEST:]
        try:
            if hashlib.sha256(saved).digest() != digest:
                raise ValueError("sha256 does not match")
            return dict(torch.load(BytesIO(saved), map_location="cpu", weights_only=True))
        except (ValueError, pickle.UnpicklingError) as error:
            log.warning("%s is damaged (%s): training starts again", file, one_line(error)[:100])
            return None

    def drop_state(self) -> None:
        """Let a training begin anew."""
        (self.path / LAST).unlink(missing_ok=True)

    def save_state(self, state: Mapping[str, Any]) -> None:
        buffer = BytesIO()
        torch.save(dict(state), buffer)
        saved = buffer.getvalue()
        write_whole(self.path / LAST, hashlib.sha256(saved).digest() + saved)


Train = Callable[[CheckpointFolder], tuple[Mapping[str, Tensor], dict[str, Any], str]]
"""trains one model in its folder; returns its weights, spec.json and learning curve as CSV"""


class Store:
    """Models and rows under one root folder, safe to share between processes.

    `poll` is called while waiting for another process; what it raises ends the wait.
    """

    def __init__(self, root: Path, poll: Callable[[], None]) -> None:
        self.root, self.poll = root, poll

    def remove_abandoned(self) -> None:
        """Remove what killed processes left half written beside rows and examples."""
        remove_abandoned([self.root / ROWS, self.root / EXAMPLES])

    def path(self, key: str, label: str = "") -> Path:
        """Return the folder of a model: the one that there is, under whatever label it was first trained, or a new one
        with this label."""
        folder = self.root / MODELS
        return next(iter(sorted(folder.glob(f"*-{key}"))), folder / f"{plain(label)}-{key}")

    def lock(self, key: str) -> Path:
        """Return the lock file that a process holds while it trains a model."""
        return lock_file(self.root / MODELS, key)

    def has(self, key: str) -> bool:
        """Whether the trained model of that fingerprint is there, and whole."""
        return self.damage(self.path(key)) is None

    def is_trained(self, key: str) -> bool:
        """Whether the trained model of that fingerprint is there, its files unread."""
        return (self.path(key) / MANIFEST).exists()

    def is_begun(self, key: str) -> bool:
        """Whether a state is there from which its training goes on."""
        return (self.path(key) / LAST).exists() and not self.is_trained(key)

    def find(self, key: str, device: torch.device) -> Trained | None:
        """Return the trained model of that fingerprint; None when there is none, or none that is whole."""
        found = self.record(key)
        if found is None:
            return None
        from safetensors.torch import load_file

        spec, path = found
        return Trained(load_file(path / MODEL, device=str(device)), spec, path, reused=True)

    def record(self, key: str) -> tuple[dict[str, Any], Path] | None:
        """Return the content of spec.json and the folder of a trained model, weights unread; None as `find` does."""
        path = self.path(key)
        return (json.loads((path / SPEC).read_text()), path) if self.has(key) else None

    def put_aside(self, path: Path) -> None:
        """Move a damaged model out of the way; nothing happens to a whole one or to one in training."""
        if not (path / MANIFEST).exists() or (damage := self.damage(path)) is None:
            return
        aside = free_name(path.with_name(path.name + ".damaged"))
        log.warning("%s: %s; moved to %s, the model is trained again", path, damage, aside.name)
        path.rename(aside)

    def damage(self, path: Path, names: Collection[str] | None = None) -> str | None:
        """Say what is wrong with a stored model, or with its files `names` alone; None when each has the sha256 of
        its manifest. Raises OSError where a file that is there cannot be read now."""
        try:
            manifest = json.loads((path / MANIFEST).read_text())
            for name, digest in manifest.items():
                if names is not None and name not in names:
                    continue
                if hashlib.sha256((path / name).read_bytes()).hexdigest() != digest:
                    return f"{name} does not match its sha256"
        except (*ABSENT, ValueError, AttributeError) as error:
            return f"{MANIFEST} or a file it lists cannot be read ({error})"
        return None if {MODEL, SPEC} <= set(manifest) else f"{MANIFEST} does not list {MODEL} and {SPEC}"

    def load_or_train(
        self,
        label: str,
        key: str,
        device: torch.device,
        train: Train,
    ) -> Trained:
        """Return the trained model of fingerprint `key`; `train` makes one if need be: weights, spec, learning curve.

        Processes that want the same model wait for the one that trains it; when that one dies, the next goes on from
        the state it saved.
        """
        found = self.find(key, device)
        if found is not None:
            (found.path / LAST).unlink(missing_ok=True)  # of a process that was killed after its manifest
            return found
        with locked(self.lock(key), f"{label}-{key} is being trained elsewhere", self.poll):
            found = self.find(key, device)
            if found is not None:
                return found
            path = self.path(key, label)
            self.put_aside(path)
            path.mkdir(parents=True, exist_ok=True)
            remove_abandoned([path])
            weights, spec, curve = train(CheckpointFolder(path))
            self.publish(path, weights, spec, curve)
        return Trained({k: v.to(device) for k, v in weights.items()}, spec, path, reused=False)

    def pass_checkpoint(self, label: str, key: str, state: Mapping[str, Any]) -> None:
        """Save a state from which the training of another model can go on, unless that has begun."""
        try:
            with FileLock(self.lock(key), timeout=0):
                path = self.path(key, label)
                if not any((path / name).exists() for name in (LAST, MANIFEST)):
                    path.mkdir(parents=True, exist_ok=True)
                    CheckpointFolder(path).save_state(state)
        except Timeout:
            log.info("%s-%s is being trained elsewhere already", label, key)

    def publish(self, path: Path, weights: Mapping[str, Tensor], spec: dict[str, Any], curve: str) -> None:
        from safetensors.torch import save

        # each by itself: a network may have one tensor under two names, and safetensors saves none that share memory
        own = {name: t.detach().to("cpu", copy=True).contiguous() for name, t in weights.items()}
        files = {
            MODEL: save(own),
            SPEC: (json.dumps(spec, indent=2) + "\n").encode(),
            CURVE: curve.encode(),
        }
        for name, content in files.items():
            write_whole(path / name, content)
        manifest = {name: hashlib.sha256(content).hexdigest() for name, content in files.items()}
        write_whole(path / MANIFEST, json.dumps(manifest, indent=2) + "\n")
        (path / LAST).unlink(missing_ok=True)

    def rows(self, identity: str) -> list[dict[str, Any]] | None:
        """Return the finished rows of one identity, None when there are none or they cannot be read."""
        try:
            rows = json.loads((self.root / ROWS / f"{identity}.json").read_text())
        except (OSError, ValueError):
            return None
        return rows if isinstance(rows, list) and all(isinstance(row, dict) for row in rows) else None

    def keep_rows(self, identity: str, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keep rows that were measured together."""
        (self.root / ROWS).mkdir(parents=True, exist_ok=True)
        write_whole(self.root / ROWS / f"{identity}.json", json.dumps(rows))

    def examples(self, label: str, identity: str) -> Path:
        """Return the file of exported images: the one that there is, under whatever label it was first written."""
        folder = self.root / EXAMPLES
        return next(iter(sorted(folder.glob(f"*-{identity}.npy"))), folder / f"{plain(label)}-{identity}.npy")

    def has_examples(self, label: str, identity: str) -> bool:
        """Whether these images were exported."""
        return self.examples(label, identity).exists()

    def keep_examples(self, label: str, identity: str, content: bytes) -> Path:
        """Write exported images; their file."""
        path = self.examples(label, identity)
        path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(path, content)
        return path

    def curve(self, key: str) -> tuple[str, dict[str, Any]] | None:
        """Return the learning curve, as CSV, and the content of spec.json of the trained model of that fingerprint, its
        weights unread; None where there is no model, or one of the two is damaged."""
        path = self.path(key)
        if self.damage(path, (CURVE, SPEC)) is not None:
            return None
        return (path / CURVE).read_text(), json.loads((path / SPEC).read_text())


def lock_file(models: Path, key: str) -> Path:
    """Return the lock file of a model's training, in the folder of all models."""
    return models / f".{key}.lock"


def plain(label: str) -> str:
    """Return a label as part of a name in its folder: `_` for what may stand in none, such as `/`."""
    return re.sub(r"[^\w.-]", "_", label)


def free_name(path: Path) -> Path:
    """Return `path`, or `path-2`, `path-3`, ... whichever does not exist."""
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


@contextmanager
def locked(path: Path, waiting: str, poll: Callable[[], None]) -> Iterator[None]:
    """Hold a lock file. The system frees it when its holder dies; where a file system has no locks (flock), filelock
    leaves a mark instead, which a holder that was killed on another machine leaves for good."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lock, waited = FileLock(path), False
    while not lock.is_locked:
        try:
            lock.acquire(timeout=0.5)
        except Timeout:
            if not waited:
                log.info("%s: waiting for it (if nobody trains it: delete %s)", waiting, path)
            waited = True
            poll()
    try:
        yield
    finally:
        lock.release()
