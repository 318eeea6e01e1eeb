"""How many operations a training step takes: what several trainings are ordered by, and how long others will take."""

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry

from epsball.models import Ensemble
from epsball.runtime.store import fingerprint
from epsball.training.adversarial import Origin
from epsball.training.fit import repeats_images, steps_of, steps_per_epoch
from epsball.training.spec import ModelSpec, check_network

log = logging.getLogger(__name__)


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the multiplications and additions of convolutions and matrix products inside, of backward passes, too."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.number = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        found = func(*args, **(kwargs or {}))
        count: Callable[..., int] | None = flop_registry.get(func.overloadpacket)
        self.number += int(count(*args, **(kwargs or {}), out_val=found)) if count else 0
        return found


def operations_of_steps(specs: Mapping[str, ModelSpec]) -> dict[str, float]:
    """Return about how many operations a step of each training takes, by the keys of `specs`: its passes through a
    network times those of one pass; 1 at least. 1 of each where one cannot be counted, as with an attack that asks what
    values are, or where there is nothing to compare: of one training alone.
    """
    of_pass: dict[str, int] = {}
    passes: dict[str, float] = {}
    found = dict.fromkeys(specs, 1.0)
    trained = {key: spec for key, spec in specs.items() if spec.trainer is not None}
    for key, spec in trained.items() if len(trained) > 1 else ():
        arch = fingerprint({"arch": spec.identity["arch"], "shape": spec.data.shape, "classes": len(spec.data.classes)})
        trainer = {**spec.config["trainer"], "sources": len(spec.sources)}
        kind = fingerprint({"trainer": trainer, "members": spec.members, "images": len(spec.data.train)})
        try:
            of_pass[arch] = of_pass.get(arch) or operations_of_pass(spec)
            passes[kind] = passes.get(kind) or passes_of_step(spec)
        except Exception as error:  # whatever a user's own code raises where tensors have no values
            log.debug("operations of %s cannot be counted: %s", spec.label, error)
            return dict.fromkeys(specs, 1.0)
        found[key] = max(1.0, passes[kind] * of_pass[arch])
    return found


def operations_of_pass(spec: ModelSpec) -> int:
    """Count the operations of a model's network on one image."""
    network = check_network(spec.config["arch"], spec.data, "arch").eval()
    x = torch.zeros(1, *spec.data.shape, device=next(network.parameters()).device)
    return operations_of(lambda: network(x))


def passes_of_step(spec: ModelSpec) -> float:
    """Return how many passes of one image through the network a training's last step is worth, crafting included: three
    for each image of standard training. What is crafted before training does not count; sources count as the network.

    A small network on the meta device, in place of the model and of its sources, takes the step.
    """
    trainer, data = spec.trainer, spec.data
    assert trainer is not None
    with torch.device("meta"):
        model, *sources = (stand_in(spec) for _ in range(1 + len(spec.sources)))
        x = torch.empty(trainer.batch_size, *data.shape)
        y, places = (torch.empty(trainer.batch_size, dtype=torch.int64) for _ in range(2))
    batches = (lambda: iter([(x, y)])) if repeats_images(trainer, data.train) else None
    frozen = [source.eval().requires_grad_(False) for source in sources]
    per_epoch, last = steps_per_epoch(len(data.train), trainer.batch_size), steps_of(trainer, len(data.train)) - 1
    objective = trainer.objective.prepare(frozen, batches, trainer.epochs, 0, per_epoch)

    def step() -> None:
        loss: Tensor = objective(model.train(), x, y, last, Origin(places, x))
        loss.reshape(-1)[0].backward(inputs=list(model.parameters()))  # type: ignore[no-untyped-call]

    return operations_of(step) / operations_of(lambda: model(x[:1]))


def stand_in(spec: ModelSpec) -> nn.Module:
    """Return a network, or an ensemble of as many as the model has, most of whose operations are neither in its first
    layer, whose images may need no gradient, nor in its last."""
    if spec.members > 1:
        return Ensemble([stand_in(replace(spec, members=1)) for _ in range(spec.members)], "mean_probability")
    hidden = [layer for _ in range(4) for layer in (nn.Linear(64, 64), nn.ReLU())]
    first, last = nn.Linear(spec.data.shape[0], 64), nn.Linear(64, len(spec.data.classes))
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), first, *hidden, last)


def operations_of(work: Callable[[], object]) -> int:
    with Operations() as counted:
        work()
    return int(counted.number)
