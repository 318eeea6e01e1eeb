"""The store of a job of several processes: the first one reads and writes it, and tells the others what it found."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from epsball.runtime.distributed import broadcast, by_first, is_first, processes
from epsball.runtime.store import CheckpointFolder, Store, Train, Trained

CPU = torch.device("cpu")
Message = Trained | Literal["wait", "train"]
"""from the first process: the model, or what to do until it is there"""


def open_store(root: Path, poll: Callable[[], None]) -> Store:
    """Return the store below `root`: of this process alone, or of all processes of its job."""
    return Store(root, poll) if processes() == 1 else SharedStore(root, poll)


class SharedFolder(CheckpointFolder):
    """Folder of a model that all processes train together."""

    def last_state(self) -> dict[str, Any] | None:
        return by_first(super().last_state)

    def save_state(self, state: Mapping[str, Any]) -> None:
        if is_first():
            super().save_state(state)


class SharedStore(Store):
    """A store in which all processes find what the first one does. They ask it the same things in the same order, but
    for `record`, `is_trained` and `is_begun`, which every process reads for itself."""

    def load_or_train(
        self,
        label: str,
        key: str,
        device: torch.device,
        train: Train,
    ) -> Trained:
        """Return the first process's trained model; where it has none, all train it together."""
        found = self.lead(label, key, train) if is_first() else self.follow(train)
        weights = {name: weight.to(device) for name, weight in found.weights.items()}
        return Trained(weights, found.spec, found.path, found.reused)

    def lead(
        self,
        label: str,
        key: str,
        train: Train,
    ) -> Trained:
        """Look for the model, wait for it or train it, and tell the others each time."""

        def poll() -> None:
            broadcast("wait")
            self.poll()

        def train_together(folder: CheckpointFolder) -> tuple[Mapping[str, Tensor], dict[str, Any], str]:
            broadcast("train")
            return train(SharedFolder(folder.path))

        found = Store(self.root, poll).load_or_train(label, key, CPU, train_together)
        broadcast(found)
        return found

    def follow(self, train: Callable[[CheckpointFolder], object]) -> Trained:
        """Do what the first process says, until it has the model."""
        while True:
            message: Message = broadcast("wait")
            if isinstance(message, Trained):
                return message
            if message == "train":
                train(SharedFolder(self.root))
            else:
                self.poll()

    def pass_checkpoint(self, label: str, key: str, state: Mapping[str, Any]) -> None:
        if is_first():
            super().pass_checkpoint(label, key, state)

    def rows(self, identity: str) -> list[dict[str, Any]] | None:
        read = super().rows
        return by_first(lambda: read(identity))

    def keep_rows(self, identity: str, rows: Sequence[Mapping[str, Any]]) -> None:
        if is_first():
            super().keep_rows(identity, rows)

    def has_examples(self, label: str, identity: str) -> bool:
        look = super().has_examples
        return by_first(lambda: look(label, identity))

    def keep_examples(self, label: str, identity: str, content: bytes) -> Path:
        return super().keep_examples(label, identity, content) if is_first() else self.examples(label, identity)

    def curve(self, key: str) -> tuple[str, dict[str, Any]] | None:
        read = super().curve
        return by_first(lambda: read(key))
