"""Recipes have the values that a paper or its code states: every one is pinned in tests/stated.py with its source."""

from collections.abc import Callable, Iterator, Mapping
from copy import deepcopy
from functools import cache
from math import isclose
from typing import Any

import pytest
import yaml
from configs import Compose, Config, options
from conftest import ROOT
from stated import (
    ALL,
    DEFENCES,
    IMAGENET_MODELS,
    IMAGENET_PARTS,
    IMAGENET_TRAINED,
    KARIYAPPA_ENSEMBLES,
    KARIYAPPA_PARTS,
    KURAKIN_PARTS,
    MADRY_PARTS,
    PARTS,
    PINNED,
    RECIPE,
)

from epsball.attacks import ATTACKS
from epsball.attacks.gradient import GradientAttack
from epsball.build import build
from epsball.models import MODELS

GROUPS = ("optimizer", "attack", "arch", "trainer", "suite", "model")
KARIYAPPA_MODELS = {f"kariyappa_{name}" for name in ("base", "div", "ens", "ens_div")}  # of the run's arch and epochs
KURAKIN_MODELS = {f"kurakin_{name}" for name in ("nat", "adv", "d", "recipe")}  # likewise
NOT_RECIPES = ("dataset", "seed", "precision", "sources", "watch")  # a run's own; sources are models of their own


@pytest.fixture(scope="session")
def found(compose: Compose) -> Callable[[str], Config]:
    """`found(overrides)`: the config that they compose; of ALL, every option of GROUPS."""

    def everything() -> Config:
        groups: Config = {}
        for group in GROUPS:  # one by one: Hydra's time grows with the square of the number of overrides
            chosen = [f"+{group}@all.{group}.{option}={option}" for option in options(group)]
            own = {"trainer": ["+all.trainer.arch=own"], "model": ["arch=inception_v3_32", "trainer=kurakin"]}.get(
                group, []
            )
            groups |= compose("dataset=mnist", "scale=paper", "models=none", "suite=none", *own, *chosen)["all"]
        return groups

    return cache(lambda overrides: everything() if overrides == ALL else compose(*overrides.split()))


def leaves(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield every value below `path` with its own path; an empty mapping is a value."""
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from leaves(inner, f"{path}.{key}")
    else:
        yield path, value


def at(config: Config, path: str) -> Any:
    for key in path.split("."):
        config = config.get(key) or {}
    return config


def same(value: Any, stated: Any) -> bool:
    """Whether a config's value is the one stated: floats up to rounding, true and 1 apart."""
    if isinstance(stated, list):
        return isinstance(value, list) and len(value) == len(stated) and all(map(same, value, stated))
    if isinstance(stated, float):
        return isinstance(value, float) and isclose(value, stated, rel_tol=1e-12)
    return type(value) is type(stated) and bool(value == stated)


@pytest.mark.parametrize(
    ("overrides", "path", "value", "source"), PINNED, ids=[f"{o}-{path}" for o, path, *_ in PINNED]
)
def test_what_a_paper_or_its_code_states(
    found: Callable[[str], Config], overrides: str, path: str, value: Any, source: str
) -> None:
    is_there = dict(leaves(at(found(overrides), path), path))
    for where, stated in leaves(value, path):
        assert same(is_there[where], stated), f"{where} is {is_there[where]!r}, not {stated!r}: {source}"


def test_every_value_of_a_recipe_is_pinned(found: Callable[[str], Config]) -> None:
    """A new file, or a new field, has to say where its value comes from."""
    pinned = {leaf for overrides, path, value, _ in PINNED if overrides == ALL for leaf, _ in leaves(value, path)}
    kept = set()
    for group in ("optimizer", "attack", "arch", "trainer", "suite"):
        for option in options(group):
            for leaf, value in leaves(found(ALL)[group].get(option, {}), f"{group}.{option}"):
                own = any(key in leaf.split(".") for key in NOT_RECIPES) or leaf == f"trainer.{option}.name"
                kept |= set() if own or value == {} else {leaf}
    assert kept - pinned == set()
    assert pinned - kept == set()


@pytest.mark.parametrize("name", RECIPE)
def test_a_model_is_its_arch_trained_by_its_trainer(found: Callable[[str], Config], name: str) -> None:
    arch, trainer, epochs = RECIPE[name]
    everything = found(ALL)
    model = everything["model"][name]
    assert model["arch"] == everything["arch"][arch]
    assert model["trainer"] == {**everything["trainer"][trainer], "epochs": epochs}
    others = {"random_forest", *KARIYAPPA_MODELS, *KURAKIN_MODELS, *IMAGENET_MODELS, *IMAGENET_TRAINED}
    assert set(RECIPE) | others == set(options("model"))


@pytest.mark.parametrize("name", IMAGENET_MODELS)
def test_a_network_of_imagenet_is_timms_with_weights_of_its_1000_classes(
    found: Callable[[str], Config], name: str
) -> None:
    timm = pytest.importorskip("timm")
    model = found(ALL)["model"][name]
    assert model["trainer"] is None
    assert model["arch"] == {**found(ALL)["arch"]["timm"], "model": IMAGENET_MODELS[name], "pretrained": True}
    known = timm.get_pretrained_cfg(IMAGENET_MODELS[name])
    assert known.has_weights and known.num_classes == 1000


@pytest.mark.parametrize("name", IMAGENET_TRAINED)
def test_ensemble_adversarial_training_on_imagenet_is_kurakins_with_frozen_sources(
    found: Callable[[str], Config], name: str
) -> None:
    """Section 5.2: half of a minibatch of 16 on each machine, RMSProp of 0.045 for all images of a step, 280 epochs."""
    model, kurakin = found(ALL)["model"][name], found(ALL)["trainer"]["kurakin"]
    assert model["arch"] == {**found(ALL)["arch"]["inception_v3"], "batch_norm_momentum": 0.0003}
    objective, optimizer = model["trainer"]["objective"], model["trainer"]["optimizer"]
    assert (model["trainer"]["epochs"], model["trainer"]["batch_size"], objective["count"]) == (280, 16, 8)
    assert isclose(optimizer["lr"] * 50, 0.045) and isclose(objective["delay"], 280 * 12.5 / 187)
    own = {"attack": {**kurakin["objective"]["attack"], "eps": 16 / 256}, "count": 8, "delay": objective["delay"]}
    assert objective == {**kurakin["objective"], **own}
    assert objective["include_self"] and objective["source_choice"] == "random"
    sources = {f"imagenet_{source}": spec for source, spec in model["trainer"]["sources"].items()}
    assert sources == {source: found(ALL)["model"][source] for source in IMAGENET_TRAINED[name]}


@pytest.mark.parametrize("part", [*PARTS, *IMAGENET_PARTS])
def test_a_part_of_a_paper_is_about_its_models(found: Callable[[str], Config], part: str) -> None:
    stated = {**PARTS, **IMAGENET_PARTS}[part][0]
    own = {name: spec for name, spec in found(f"paper=tramer/{part} scale=paper")["models"].items() if spec}
    images = ("dataset",) if part in IMAGENET_PARTS else ()  # ALL has MNIST
    assert {name: without(spec, *images) for name, spec in own.items()} == {
        name: without(found(ALL)["model"][file], *images) for name, file in stated.items()
    }
    assert list(own) == list(stated)
    files = {path.stem for path in (ROOT / "conf/paper/tramer").glob("*.yaml")}
    assert {*PARTS, *IMAGENET_PARTS, "all", "imagenet"} == files


def without(config: Config, *keys: str) -> Config:
    return {key: value for key, value in config.items() if key not in keys}


@pytest.mark.parametrize(("levels", "steps"), [(1, 1), (2, 2), (3, 3), (4, 5), (6, 7), (8, 10), (10, 12), (16, 20)])
@pytest.mark.parametrize("name", ["iter_basic", "iter_ll"])
def test_kurakins_number_of_steps_is_cut(found: Callable[[str], Config], name: str, levels: int, steps: int) -> None:
    """min(eps + 4, 1.25 eps) iterations (Kurakin 2.2), 3.75 of them being 3 and 7.5 being 7: ours, it is not said."""
    spec = {**found(ALL)["attack"][name], "eps": levels / 255}
    attack = build(ATTACKS, spec, where=name)
    assert isinstance(attack, GradientAttack) and attack.number_of_steps == steps


@pytest.mark.parametrize("part", MADRY_PARTS)
def test_a_part_of_madrys_paper_is_about_its_models(found: Callable[[str], Config], part: str) -> None:
    """A' is A from another seed, and the text's wide network ten times as wide; on MNIST B trains on what A does."""
    models = found(f"paper=madry/{part} scale=paper")["models"]
    assert list(models) == list(MADRY_PARTS[part][0])
    for name, file in MADRY_PARTS[part][0].items():
        stated = found(ALL)["model"][file]
        wide = {"width": 10} if name == "A_nat_wide" else {}
        assert models[name]["arch"] == {**stated["arch"], **wide}
        trainer = {**models[name]["trainer"], "precision": stated["trainer"]["precision"]}
        eps = {"eps": 8 / 255} if "cifar" in file else {}
        if "objective" in trainer and "attack" in trainer["objective"]:
            attacks = stated["trainer"]["objective"]["attack"] | eps, stated["trainer"]["watch"]["attack"] | eps
            objective = {**stated["trainer"]["objective"], "attack": attacks[0]}
            watch = {**stated["trainer"]["watch"], "attack": attacks[1]}
            stated = {**stated, "trainer": {**stated["trainer"], "objective": objective, "watch": watch}}
        assert trainer == stated["trainer"]
        assert models[name]["seed"] == (1000 if name == "A_copy" else 0)
    files = {path.stem for path in (ROOT / "conf/paper/madry").glob("*.yaml")}
    assert {name for name in files if f"madry/{name}" not in found("paper=madry/all")["parts"]} == {
        *("all", "text", "maxima"),
        *(f"figure{n}" for n in range(1, 5)),
    }
    assert set(MADRY_PARTS) == {name.removeprefix("madry/") for name in found("paper=madry/all")["parts"]}


@pytest.mark.parametrize("part", KARIYAPPA_PARTS)
def test_a_part_of_kariyappas_paper_is_about_its_ensembles(found: Callable[[str], Config], part: str) -> None:
    """All of one kind, trained equally long on equally augmented images; S and the static models from other seeds."""
    ensemble, trainers, _ = KARIYAPPA_PARTS[part]
    members, epochs, eps, data = KARIYAPPA_ENSEMBLES[ensemble]
    config = found(f"paper=kariyappa/{part} scale=paper")
    models = {name.removesuffix(f"_{ensemble}"): spec for name, spec in config["models"].items()}
    assert list(models) == list(trainers)
    augment = {"shift": 2 if data == "mnist" else 4, "crop": 0.9, "flip": data != "mnist"}
    for name, spec in models.items():
        own = members[:1] if name == "S_single" else members
        slope = 0.0 if name.endswith("_relu") else 0.1
        assert nets_of(spec["arch"]) == [activated(found(ALL)["arch"][member], slope) for member in own]
        assert spec["seed"] == (1000 if name.startswith("S") else 0) and spec["dataset"]["name"] == data
        trained = [spec["trainer"], *(source["trainer"] for source in spec["trainer"]["sources"].values())]
        assert [t["name"] for t in trained] == [trainers[name], *["standard_augmented"] * (len(trained) - 1)]
        assert [len(trained)] == [2 if "ens" in name else 1]
        assert all((t["epochs"], t["batch_size"], t["augment"]) == (epochs, 64, augment) for t in trained)
        for source in spec["trainer"]["sources"].values():
            assert source["arch"] == spec["arch"] and source["seed"] == 2000
        objective = spec["trainer"]["objective"]
        crafted = objective.get("data") or (objective if "attack" in objective else None)
        assert crafted is None or crafted["attack"]["eps"] == max(eps)
    assert set(KARIYAPPA_PARTS) == {name.removeprefix("kariyappa/") for name in found("paper=kariyappa/all")["parts"]}
    assert list(DEFENCES) == ["S", "T_base", "T_div", "T_ens", "T_ens_div"]


def put(config: Config, path: str, value: Any) -> None:
    """Set the value at a path."""
    *above, last = path.split(".")
    for key in above:
        config = config[key]
    config[last] = value


@pytest.mark.parametrize("part", KURAKIN_PARTS)
def test_a_part_of_kurakins_paper_is_about_its_models(found: Callable[[str], Config], part: str) -> None:
    """Every model is the run's Inception, trained on clean images or with step l.l., but for what is stated."""
    config = found(f"paper=kurakin/{part} scale=paper")
    assert config["arch"] == {**found(ALL)["arch"]["inception_v3_32"], "width": 0.5}
    own = {"epochs": 30, "augment": {"shift": 4, "crop": 1.0, "flip": True}, "precision": "tf32"}
    assert list(config["models"]) == list(KURAKIN_PARTS[part][0])
    for name, (kind, changes) in KURAKIN_PARTS[part][0].items():
        trainer = deepcopy(found(ALL)["trainer"]["kurakin" if kind == "adv" else "kurakin_nat"]) | own
        expected = {"dataset": config["dataset"], "arch": deepcopy(config["arch"]), "trainer": trainer, "seed": 0}
        trainer["schedule"]["every"] = 2 / 187 * 30
        if kind == "adv":
            trainer["objective"]["delay"] = 12.5 / 187 * 30
        for path, value in changes.items():
            put(expected, path, {**value, "eps": 16 / 255} if is_at_0_3(value) else value)
        if "trainer.epochs" in changes and kind == "adv":  # as late as in the longer trainings
            assert expected["trainer"]["objective"]["delay"] == 12.5 / 187 * 30
        is_there, stated = (dict(leaves(spec, "")) for spec in (config["models"][name], expected))
        assert is_there.keys() == stated.keys()
        for where, value in stated.items():
            assert same(is_there[where], value), (name, where)
    assert set(KURAKIN_PARTS) == {name.removeprefix("kurakin/") for name in found("paper=kurakin/all")["parts"]}


def test_kurakins_rate_and_k_belong_to_the_global_batch(compose: Compose) -> None:
    """0.045 for 50 times 32 images, of which half are adversarial."""
    trainer = compose("dataset=mnist", "arch=resnet20", "trainer=kurakin", "trainer.batch_size=1600")["trainer"]
    assert trainer["optimizer"]["lr"] == 0.045 and trainer["objective"]["count"] == 800
    longer = compose("dataset=mnist", "arch=resnet20", "trainer=kurakin", "trainer.epochs=187")["trainer"]
    assert longer["objective"]["delay"] == 12.5


@pytest.mark.parametrize("part", [part for part in KURAKIN_PARTS if not part.startswith("figure")])
def test_the_command_for_imagenet_is_the_papers_recipe(compose: Compose, part: str) -> None:
    """All of ImageNet, cropped by the data set alone; batches of 1,600, of which k of 32 are adversarial."""
    command = "dataset=imagenet arch=inception_v3 arch.batch_norm_momentum=0.0003 trainer.epochs=187"
    command += " trainer.batch_size=1600 trainer.augment=null"
    assert command in " ".join((ROOT / "docs/running.md").read_text().replace("\\", " ").split())
    config = compose(f"paper=kurakin/{part}", "scale=paper", *command.split())
    assert (config["dataset"]["train_size"], config["dataset"]["test_size"]) == (None, None)
    for name, spec in config["models"].items():
        trainer, inception = spec["trainer"], name != "D"
        slower = name in ("adv_slow", "fgsm_adv")
        assert (trainer["optimizer"]["lr"], trainer["optimizer"]["eps"]) == (0.0225 if slower else 0.045, 1.0)
        assert (trainer["batch_size"], trainer["augment"]) == (1600, None)
        assert trainer["epochs"] == pytest.approx(0.6 * 187 if "90k" in name else 187)
        assert trainer["schedule"]["every"] == pytest.approx(2)
        fields = ("aux", "width", "stem", "batch_norm_momentum")
        assert not inception or [spec["arch"][field] for field in fields] == [True, 1, 299, 0.0003]
        if trainer["objective"]["name"] == "adversarial":
            share = int(name.removeprefix("adv_k")) if name.startswith("adv_k") else 16
            assert trainer["objective"]["count"] == 50 * share


def is_at_0_3(value: Any) -> bool:
    """Whether it is an attack at the eps of MNIST, which stands for the run's own."""
    return isinstance(value, dict) and value.get("eps") == 0.3


def test_the_capacity_study_has_inceptions_of_half_to_twice_the_width(found: Callable[[str], Config]) -> None:
    for part in ("figure1", "figure4"):
        grids = found(f"paper=kurakin/{part} scale=paper")["grid"]
        for grid, trainer in (("natural", "kurakin_nat"), ("adv", "kurakin")):
            assert grids[grid]["model"]["trainer"]["name"] == trainer
            assert grids[grid]["values"] == {"width": [0.25, 0.5, 0.75, 1]}
            assert grids[grid]["keys"] == {"width": "arch.width"}
        whole = found(f"paper=kurakin/{part} scale=paper arch.width=1")
        assert [whole["grid"][grid]["values"]["width"] for grid in ("natural", "adv")] == [[0.5, 1, 1.5, 2]] * 2
        checks = [check for claim in whole["claims"].values() for check in claim["checks"]]
        assert all("width=0.5" in check and "width=2" in check for check in checks)


KURAKIN_WORDS = {  # what a run's trainer says to all models, and to those with adversarial training
    "kurakin_nat": [
        *("epochs=3", "batch_size=64", "clip_norm=2.0", "batch_norm=synchronised", "augment=null"),
        *("optimizer.lr=0.1", "optimizer.eps=0.5", "optimizer.momentum=0.5", "optimizer.weight_decay=0"),
        *("optimizer.alpha=0.99", "schedule.every=5", "schedule.gamma=0.5", "objective.label_smoothing=0"),
    ],
    "kurakin": [
        *("objective.count=4", "objective.weight=1", "objective.passes=two", "objective.eps_distribution=fixed"),
        *("objective.delay=0", "objective.crafting_mode=eval", "objective.crafting_auxiliary=false"),
        "objective.crafting_statistics=updated",
    ],
}


@pytest.mark.parametrize("part", ["table1", "table4"])
def test_what_kurakins_trainer_says_holds_for_all_models(compose: Compose, part: str) -> None:
    """Each of its fields, D's too."""
    words = [f"trainer.{word}" for group in KURAKIN_WORDS.values() for word in group]
    for name, spec in compose(f"paper=kurakin/{part}", *words)["models"].items():
        said = [*KURAKIN_WORDS["kurakin_nat"], *(KURAKIN_WORDS["kurakin"] if name.endswith("adv") else [])]
        there = dict(leaves(spec["trainer"], "trainer"))
        for word in (f"trainer.{word}" for word in said):
            key, value = word.split("=")
            assert there[key] == yaml.safe_load(value), (name, key)


@pytest.mark.parametrize("part", ["table2_conv3", "table2_conv4", "activations"])
def test_what_kariyappas_trainer_says_holds_for_all_models(compose: Compose, part: str) -> None:
    """The static sources', too."""
    words = ["epochs=3", "batch_size=256", "clip_norm=2.0", "augment=null", "optimizer.lr=0.01"]
    models = compose(f"paper=kariyappa/{part}", *(f"trainer.{word}" for word in words))["models"]
    trained = [spec["trainer"] for spec in models.values()]
    trained += [source["trainer"] for trainer in trained for source in trainer["sources"].values()]
    assert len(trained) == {"table2_conv3": 7, "table2_conv4": 7, "activations": 4}[part]
    for trainer in trained:
        assert (trainer["epochs"], trainer["batch_size"], trainer["clip_norm"]) == (3, 256, 2)
        assert (trainer["augment"], trainer["optimizer"]["lr"]) == (None, 0.01)


def nets_of(arch: Config) -> list[Config]:
    """Return the arches of an ensemble's networks; a single network's own."""
    if arch["name"] != "ensemble":
        return [arch]
    assert arch["rule"] == "mean_probability"
    return [member for member in arch["members"].values() for _ in range(arch["copies"])]


def activated(arch: Config, slope: float) -> Config:
    return {**arch, "activation": {"name": "leaky_relu", "slope": slope}}


@pytest.mark.parametrize("width", [0.0625, 0.125, 0.25, 0.5, 1])
def test_the_capacity_study_starts_at_2_and_4_filters_and_8_units_and_doubles(
    found: Callable[[str], Config], width: float
) -> None:
    grids = found("paper=madry/figure3_mnist scale=paper")["grid"]
    assert set(grids) == {"natural", "fgsm_trained", "pgd_trained"}
    for grid, trainer in (("natural", "madry_nat"), ("fgsm_trained", "madry_fgsm"), ("pgd_trained", "madry")):
        model = grids[grid]["model"]
        assert width in grids[grid]["values"]["width"] and grids[grid]["keys"] == {"width": "arch.width"}
        net = build(MODELS, {**model["arch"], "width": width}, (1, 28, 28), 10, where="arch")
        sizes = [p.shape[0] for p in net.parameters() if p.dim() > 1]
        assert sizes == [round(size * width) for size in (32, 64, 128)] + [10]
        assert model["trainer"]["name"] == trainer and model["trainer"]["epochs"] == 100_000 / 1100
        if trainer != "madry_nat":
            assert model["trainer"]["objective"]["attack"]["eps"] == 0.1
