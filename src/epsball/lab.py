"""One seed of an experiment at work: its trained models, its device, and the memory of finished rows."""

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import nn

from epsball import evaluate
from epsball.device import derived_seed
from epsball.graphs import graphs
from epsball.plan import Experiment
from epsball.store import fingerprint
from epsball.tasks import Craft
from epsball.workshop import Workshop

Row = dict[str, Any]


class Lab:
    """What a task works with (`tasks.Lab`)."""

    def __init__(self, experiment: Experiment, shop: Workshop) -> None:
        self.experiment, self.shop, self.stop = experiment, shop, shop.stop
        self.sources, self.targets, self.crafts = experiment.sources, experiment.targets, experiment.crafts
        self.device, self.batch_size = shop.device, shop.batch_size
        self.test = shop.data(experiment.data).test
        self.models: Mapping[str, nn.Module] = shop.models(experiment)

    def clean(self, model: str) -> evaluate.Mistakes:
        return self.shop.clean_mistakes(self.experiment.plans[model], self.models[model], self.experiment.data)

    def asked(self, craft: Craft, source: str, target: str) -> bool:
        row = {"source": source, "target": target, "attack": craft.name, "eps": craft.attack.eps}
        return any(quantity.matches(row) for quantity in self.experiment.quantities)

    def generator(self, craft: Craft, source: str) -> torch.Generator:
        key = self.experiment.plans[source].key
        seed = derived_seed(self.experiment.settings.seed, key, fingerprint(craft.identity))
        return torch.Generator(self.device).manual_seed(seed)

    def graphs(self) -> AbstractContextManager[None]:
        return graphs(self.device, self.experiment.settings.cuda_graphs)

    def find(self, what: object, source: str, target: str) -> Row | None:
        return self.shop.store.row(self.key(what, source, target)) if self.experiment.settings.reuse else None

    def keep(self, what: object, source: str, target: str, row: Row) -> Row:
        self.shop.store.keep_row(self.key(what, source, target), row)
        return row

    def key(self, what: object, source: str, target: str) -> str:
        """The fingerprint of everything that a row's numbers depend on."""
        experiment = self.experiment
        return fingerprint(
            {
                "attack": what,
                "source": experiment.plans[source].key,
                "target": experiment.plans[target].key,
                "test": experiment.data.test_checksum,
                "seed": experiment.settings.seed,
                "batch_size": self.batch_size,
                "device": self.device.type,
                "tf32": experiment.settings.precision != "fp32",
            }
        )

    def named(self, row: Row, source: str, target: str, attack: str, eps: float) -> Row:
        experiment = self.experiment
        key = {"dataset": experiment.data.name, "seed": experiment.settings.seed, "source": source, "target": target}
        return {**key, "attack": attack, "eps": eps, **row}
