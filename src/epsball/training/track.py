"""Learning curves in TensorBoard or Weights & Biases, while models train."""

import logging
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from epsball.build import one_line
from epsball.runtime.device import Tracker

Show = Callable[[Mapping[str, float]], None]
"""shows a row of a learning curve"""
Given = TypeVar("Given")

log = logging.getLogger(__name__)


@contextmanager
def tracked(tracker: Tracker | None, folder: Path, key: str, identity: Mapping[str, Any]) -> Iterator[Show]:
    """Give what shows each row of one training's learning curve, in `tracker`, if there is one.

    TensorBoard's events lie in `folder`, the model's own. In Weights & Biases the training is a run of the project
    epsball (or WANDB_PROJECT), in a group named by the model's fingerprint `key`, its spec the run's config; one that
    goes on later is a run of its own. A training whose tracker fails goes on without, with a warning.
    """
    begin = {"tensorboard": begin_tensorboard, "wandb": begin_wandb}
    begun = attempt(folder, lambda: begin[tracker](folder, key, identity)) if tracker else None
    if begun is None:
        yield lambda row: None
        return
    show, end = begun
    try:
        yield lambda row: attempt(folder, lambda: show(row))
    finally:
        attempt(folder, end)


def attempt(folder: Path, act: Callable[[], Given]) -> Given | None:
    """Return what `act` gives, or None, with a warning, where it fails."""
    try:
        return act()
    except Exception as error:  # no account, no network, a full disk: each tracker has its own ways to fail
        log.warning("%s is not tracked: %s", folder.name, one_line(error))
        return None


def begin_tensorboard(folder: Path, key: str, identity: Mapping[str, Any]) -> tuple[Show, Callable[[], None]]:
    """Return what writes a row to TensorBoard's events in `folder`, and what closes them."""
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(folder), purge_step=0)  # a training that goes on shows its earlier epochs again

    def show(row: Mapping[str, float]) -> None:
        for name in row.keys() - {"step"}:
            writer.add_scalar(name, row[name], int(row["step"]))
        writer.flush()

    return show, writer.close


def begin_wandb(folder: Path, key: str, identity: Mapping[str, Any]) -> tuple[Show, Callable[[], None]]:
    """Return what sends a row to Weights & Biases, and what ends the run there."""
    import wandb

    if wandb.setup().settings.mode == "online" and not wandb.login(prompt=False, verify=False):
        raise RuntimeError("no account: run `wandb login`, or set WANDB_MODE=offline")
    project, silent = os.environ.get("WANDB_PROJECT", "epsball"), wandb.Settings(silent=True)
    run = wandb.init(project=project, name=folder.name, group=key, config=dict(identity), dir=folder, settings=silent)
    return lambda row: run.log(dict(row), step=int(row["step"])), run.finish
