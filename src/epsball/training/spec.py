"""A model's spec, checked: what {dataset, arch, trainer, seed} names, its identity and its random numbers."""

import json
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import torch
from torch import nn

from epsball.attacks.module import try_attack
from epsball.build import (
    ConfigError,
    UnfitError,
    build,
    construct,
    did_you_mean,
    listed,
    mapping,
    naming_field,
    naming_key,
    under,
)
from epsball.data.datasets import DATASETS
from epsball.data.images import Data
from epsball.data.streamed import StreamedSplit
from epsball.models import MODELS, FitsItself, is_differentiable
from epsball.results.given import GivenRows
from epsball.runtime.device import borrowed_seed, derived_seed
from epsball.runtime.distributed import processes
from epsball.runtime.named_files import ARGUMENTS, with_contents
from epsball.runtime.store import canonical, fingerprint
from epsball.training.adversarial import check_gradient
from epsball.training.diversity import members
from epsball.training.objectives import try_objective
from epsball.training.synchronised import check_synchronised, has_batch_norm
from epsball.training.trainer import Trainer, crafting

FIELDS = ("dataset", "arch", "trainer", "seed")
"""of a model's spec"""
NO_PART = ("name", "watch")
"""fields of a trainer that change no weight"""

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelSpec:
    """One model, checked but not trained. Its network has no memory of its own before it is made."""

    config: dict[str, Any]
    """the spec as it stands in the config: {dataset, arch, trainer, seed}"""
    identity: dict[str, Any]
    """everything that the trained weights depend on, without labels"""
    label: str
    """what its folder in the store is called, before the fingerprint"""
    trainer: Trainer | None
    """None for a network whose weights are taken as they are, and for one that fits itself to the data"""
    data: Data
    sources: dict[str, "ModelSpec"]
    """the trained models that its trainer crafts on, in the order of their fingerprints"""
    seed: int
    differentiable: bool
    """whether gradients lead through it, so that examples can be crafted on it"""
    members: int
    """networks of an ensemble; of a single model 1"""

    @cached_property
    def key(self) -> str:
        """Its fingerprint."""
        return fingerprint(self.identity)

    @cached_property
    def trajectory(self) -> str | None:
        """A name that trainings share which differ in their epochs alone: the longer ones continue the shorter.

        None where more epochs do not begin with the very steps of fewer.
        """
        return fingerprint_without(self.identity, "epochs") if self.trainer and self.trainer.prolongs else None

    @cached_property
    def model_seed(self) -> int:
        """The seed of its random numbers: initial weights, order of images, dropout.

        Models that differ in more than epochs and precision share none of them, even with one seed: a source that began
        where its target did, or saw the images in the same order, would not be a black box.
        """
        alone = fingerprint_without(without_replicas(self.identity), "epochs", "precision")
        return derived_seed(self.seed, alone)  # the same for any number of processes

    @property
    def as_it_is(self) -> bool:
        """Whether the weights are those that the network came with."""
        return self.trainer is None and not fits_itself(self.config["arch"])

    @property
    def epochs(self) -> float:
        return self.trainer.epochs if self.trainer else 0.0

    @property
    def curve(self) -> dict[str, Any]:
        """What its training.csv depends on and its weights do not: the watch as the config has it, None for nothing,
        and the test images."""
        watch = self.config["trainer"]["watch"] if self.trainer else None
        return {"watch": with_contents(watch), "test_checksum": self.data.test_checksum}

    def make_network(self) -> nn.Module:
        """Return a new network with its initial weights, on the CPU. ConfigError where a file of it is another now."""
        if canonical(identity_of_arch(self.config["arch"])) != canonical(self.identity["arch"]):
            raise ConfigError(f"arch: a file of {self.label} has changed since the run began: start it again")
        with borrowed_seed(derived_seed(self.model_seed, "init"), torch.device("cpu")):
            network: nn.Module = build(
                MODELS, self.config["arch"], self.data.shape, len(self.data.classes), where="arch"
            )
        return network


@dataclass
class BuildCache:
    """What the configs of one run share, read, built and checked once."""

    data: dict[str, Data] = field(default_factory=dict)
    """data sets by their spec"""
    specs: dict[str, ModelSpec] = field(default_factory=dict)
    """model specs by fingerprint, of equal ones the first"""
    given: GivenRows | None = None
    """finished rows that the user gave"""


def build_spec(config: object, where: str, cache: BuildCache, places: Mapping[str, str] | None = None) -> ModelSpec:
    """Check one model's config, its data and its sources first.

    `where` is its config key; `places` the config keys of those of its parts that stand elsewhere. Raises ConfigError.
    """
    fields = dict(mapping(config, where))
    for key in fields:
        if key not in FIELDS:
            raise ConfigError(
                f"{under(where, key)} is not a field{did_you_mean(key, FIELDS)}: the fields are {listed(FIELDS)}"
            )
    at = {key: under(where, key) for key in fields} | dict(places or {})
    for key in ("dataset", "arch", "seed"):
        if fields.get(key) is None:
            raise ConfigError(f"{where}.{key} is missing: a model is {{dataset, arch, trainer, seed}}")
    seed = fields["seed"]
    if type(seed) is not int or seed < 0:
        raise ConfigError(f"{where}.seed should be an int of at least 0, is {seed!r}")
    given = without_null_sources(fields.get("trainer"))
    fields |= {"trainer": given} if "trainer" in fields else {}
    trainer: Trainer | None = None if given is None else construct(Trainer, given, where=at["trainer"])
    if trainer is not None and at["trainer"] == "trainer" and fits_itself(mapping(fields["arch"], at["arch"])):
        trainer = fields["trainer"] = None  # what it describes is the run's training of networks
    data = load_data(fields["dataset"], at["dataset"], cache)
    sources = build_sources(trainer, data, at, cache)
    if trainer is not None:
        try_objective(trainer.objective, data.shape, len(data.classes), f"{at['trainer']}.objective")
    for key, (attack, shrinks) in trainer.attacks.items() if trainer else ():
        try_attack(attack, data.shape, len(data.classes), f"{at['trainer']}.{key}", shrinks)
    identity = identity_of(fields, data, sources)
    local = processes() > 1 and trainer is not None and trainer.batch_norm == "local"
    if local and has_batch_norm(check_network(fields["arch"], data, at["arch"])):
        identity["replicas"] = processes()  # statistics of parts of a batch make another model
    key = fingerprint(identity)
    if key not in cache.specs:
        network = check_network(fields["arch"], data, at["arch"])
        for remark in (part.remark for part in network.modules() if hasattr(part, "remark")):
            log.info("%s: %s", where, remark)
        check_trainer(trainer, network, len(sources), where, at.get("trainer", under(where, "trainer")))
        check_data(trainer, network, data, at)
        untrained = "fitted" if isinstance(network, FitsItself) else "published"
        label = f"{fields['arch']['name']}-{trainer.name if trainer else untrained}"
        gradient, number = is_differentiable(network), len(members(network))
        cache.specs[key] = ModelSpec(fields, identity, label, trainer, data, sources, seed, gradient, number)
    checked = cache.specs[key]  # perhaps with another watch, or other test images
    return replace(checked, config=fields, trainer=trainer, data=data, sources=sources)


def without_null_sources(trainer: object) -> object:
    """Return a trainer's config without the sources that are null: null leaves one out, as it does a model."""
    sources = trainer.get("sources") if isinstance(trainer, Mapping) else None
    if not isinstance(trainer, Mapping) or not isinstance(sources, Mapping):
        return trainer
    return {**trainer, "sources": {name: source for name, source in sources.items() if source is not None}}


def build_sources(
    trainer: Trainer | None, data: Data, at: Mapping[str, str], cache: BuildCache
) -> dict[str, ModelSpec]:
    """Check the models that a trainer crafts on, of `data`'s images; their order does not rest on their labels."""
    sources: dict[str, ModelSpec] = {}
    for name, config in trainer.sources.items() if trainer else ():
        where = f"{at['trainer']}.sources.{name}"
        source = sources[name] = build_spec(config, where, cache)
        if not source.differentiable:
            raise ConfigError(f"{where} has no gradient to craft examples on")
        if (source.data.shape, source.data.classes) != (data.shape, data.classes):
            raise ConfigError(f"{where}.dataset has other image shapes or classes than {at['dataset']}")
    return dict(sorted(sources.items(), key=lambda item: item[1].key))


def load_data(config: object, where: str, cache: BuildCache) -> Data:
    """Return the data set that a config names, read once however many models name it."""
    key = json.dumps(config, sort_keys=True)
    if key not in cache.data:
        settings = build(DATASETS, config, where=where)
        try:
            cache.data[key] = settings.load()
        except ConfigError as error:
            raise ConfigError(str(error) if str(error).startswith(where) else f"{where}: {error}") from None
        except OSError as error:  # no permission, a network file system that is gone
            what = f"{error.filename or settings.root} cannot be read: {error.strerror or error}"
            raise ConfigError(f"{where}.root: {what}") from error
    return cache.data[key]


def check_network(arch: object, data: Data, where: str) -> nn.Module:
    """Return the network of an arch without memory for its weights: on the meta device. Raises ConfigError, and its
    UnfitError where the network does not take the images."""
    try:
        with torch.device("meta"):
            network: nn.Module = build(MODELS, arch, data.shape, len(data.classes), where=where)
    except UnfitError as error:
        word = f"arch@{where}" if where.startswith("models.") else "arch"
        raise UnfitError(
            f"{error}: choose another, {word}=OPTION, or dataset.image_size where the data set has it"
        ) from None
    return network


def fits_itself(arch: Mapping[str, Any]) -> bool:
    """Whether an arch is fitted without a trainer."""
    return isinstance(MODELS.get(str(arch.get("name"))), FitsItself)


def check_trainer(trainer: Trainer | None, network: nn.Module, sources: int, where: str, at: str) -> None:
    """ConfigError unless the trainer can train the network; one that fits itself has none."""
    fitted = isinstance(network, FitsItself)
    if trainer is None and not (fitted or getattr(network, "has_weights", False)):
        why = getattr(network, "lacks", "only a network with published weights, or those of a file, may have none")
        raise ConfigError(f"{where}.trainer is missing: a model is {{dataset, arch, trainer, seed}}; {why}")
    if trainer is not None and fitted:
        raise UnfitError(f"{at} should be null: {type(network).__name__} fits itself to the data, without gradients")
    if trainer is not None:
        if not any(p.requires_grad for p in network.parameters()):
            raise ConfigError(f"{at} should be null: every weight of the network is frozen (requires_grad is False)")
        with naming_key(f"{at}.objective"):
            trainer.objective.check(network, sources)
        with naming_key(at):
            if trainer.watch:
                check_gradient(trainer.watch.attack, network, "watch.attack")
            trainer.check_processes(processes())
            if processes() > 1 and trainer.batch_norm == "synchronised":
                check_synchronised(network)
        with naming_key(at), naming_field("optimizer"):
            trainer.optimizer.make(network)


def check_data(trainer: Trainer | None, network: nn.Module, data: Data, at: Mapping[str, str]) -> None:
    """ConfigError where a job's processes have no image each to train on, or where a training needs all images in
    memory, or the same ones in every epoch, and they are streamed, or would train on ImageNet's test images."""
    number = len(data.train)
    if trainer is not None and number < processes():
        raise ConfigError(f"{at['dataset']} has {number} training images, fewer than the job's {processes()} processes")
    if not isinstance(data.train, StreamedSplit):
        return
    if trainer is None:
        if not isinstance(network, FitsItself):
            return
        name = type(network).__name__
        raise ConfigError(f"{at['dataset']} is streamed, but {name} fits itself to all images at once, in memory")
    tested = data.test.files if isinstance(data.test, StreamedSplit) else []
    if data.name == "imagenet" and not set(tested).isdisjoint(data.train.files):
        raise ConfigError(f"{at['dataset']} has the test images to train on, too: dataset=imagenet has others")
    if trainer.objective.takes_originals:
        place = next(iter(crafting(trainer.objective)), "objective")
        crops = f"{at['dataset']} is streamed, every epoch has random crops of its own"
        raise ConfigError(f"{at['trainer']}.{place}.crafted_on should be augmented: {crops}")


def identity_of(config: Mapping[str, Any], data: Data, sources: Mapping[str, ModelSpec]) -> dict[str, Any]:
    """Return everything that a model's trained weights depend on: no label of a trainer, a source or a member."""
    trainer = config.get("trainer")
    return {
        "data": {"checksum": data.checksum, "classes": len(data.classes)},
        "arch": identity_of_arch(config["arch"]),
        "trainer": trainer
        and {
            **{key: with_contents(without_labels(value)) for key, value in trainer.items() if key not in NO_PART},
            "sources": [source.identity for source in sources.values()],
        },
        "seed": config["seed"],
    }


def without_labels(spec: Any) -> Any:
    """Return `spec` with every group of named components as a list: what a user calls an ensemble's member changes
    nothing of it."""
    if not isinstance(spec, Mapping):
        return spec
    parts = {key: value if key == ARGUMENTS else without_labels(value) for key, value in spec.items()}
    named = [part for part in spec.values() if part is not None]
    if named and all(isinstance(part, Mapping) and "name" in part for part in named):
        return [part for part in parts.values() if part is not None]
    return parts


def identity_of_arch(spec: Any) -> Any:
    """Return an arch's spec with the contents of its files in place of their names, and without labels."""
    return with_contents(without_labels(spec))


def fingerprint_without(identity: Mapping[str, Any], *fields: str) -> str:
    """Return what models share that differ in these fields of their trainer alone."""
    trainer = identity["trainer"] and {**identity["trainer"], **dict.fromkeys(fields)}
    return fingerprint({**identity, "trainer": trainer})


def without_replicas(identity: Mapping[str, Any]) -> dict[str, Any]:
    """Return the identity that a model has where one process trains it, and its sources."""
    alone = {key: value for key, value in identity.items() if key != "replicas"}
    if trainer := identity["trainer"]:
        alone["trainer"] = {**trainer, "sources": [without_replicas(source) for source in trainer["sources"]]}
    return alone


def with_sources(specs: Mapping[str, ModelSpec]) -> Iterator[tuple[str, ModelSpec]]:
    """Yield all models by name, each after the sources that it needs: `A_adv's source B`."""
    for name, spec in specs.items():
        for source, needed in with_sources(spec.sources):
            yield f"{name}'s source {source}", needed
        yield name, spec
