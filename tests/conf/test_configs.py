"""Every file of every group in conf/ composes, and what it names is built."""

from pathlib import Path

import pytest
from configs import CONF, SCALES, Compose, check_model, needed, network, options, text_of

from epsball.build import build
from epsball.data.datasets import DATASETS
from epsball.experiment.components import attacks_of, distinct, measurements_of
from epsball.measurements import MEASUREMENTS
from epsball.training.trainer import OPTIMIZERS

GROUPS = {
    *("dataset", "arch", "optimizer", "trainer", "attack", "suite", "model", "models"),
    *("measurement", "diagnostic", "paper", "scale", "local"),
}
FILES = [path for path in sorted(CONF.rglob("*.yaml")) if path.parent.name != "local" or path.stem == "none"]
"""all but a developer's own"""
BASES = (
    *("tramer", "tramer_imagenet", "madry", "madry_cifar10", "madry_figure1", "madry_figure2", "madry_maxima"),
    *("kariyappa", "kariyappa_cifar10", "kurakin"),
)
"""what the parts of a paper share: files beside config.yaml"""


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.relative_to(CONF).as_posix())
def test_a_file_starts_with_what_it_is(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package")]
    assert lines[0].startswith("# ") and len(lines[0].split()) >= 4


def test_every_folder_of_conf_is_tested_here() -> None:
    assert {path.name for path in CONF.iterdir() if path.is_dir()} == GROUPS
    assert {path.stem for path in CONF.glob("*.yaml")} == {"config", *BASES}


@pytest.mark.parametrize("base", BASES)
def test_what_a_papers_parts_inherit_is_no_option(base: str) -> None:
    """Files beside config.yaml are in no group: neither --help nor the answer to a misspelt name offers them."""
    inheriting = [name for name in options("paper") if f"\n  - /{base}\n" in text_of(name)]
    assert len(inheriting) > 1 and base not in {Path(name).name for name in options("paper")}
    assert text_of(base, folder="").startswith("# @package _global_\n")


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", options("dataset"))
def test_dataset_files(compose: Compose, name: str, scale: str) -> None:
    config = compose(f"dataset={name}", f"scale={scale}")
    build(DATASETS, config["dataset"], where="dataset")
    assert isinstance(config["eps"], float) and 0 < config["eps"] < 1
    assert config["attack"]["pgd"]["eps"] == config["eps"]


@pytest.mark.parametrize("name", options("arch"))
def test_arch_files(compose: Compose, name: str, tmp_path: Path) -> None:
    if name == "timm":
        pytest.importorskip("timm")
    own = tmp_path / "net.py"  # which arch=module has to be given
    own.write_text("from torch import nn\ndef net(): return nn.Sequential(nn.Flatten(), nn.Linear(784, 10))\n")
    words = [f"arch.file={own}", "arch.call=net"] if name == "module" else []
    built = network(compose(f"arch={name}", *words)["arch"])
    assert (sum(p.numel() for p in built.parameters()) > 0) == (not hasattr(built, "fit_to"))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", options("trainer"))
def test_trainer_files(compose: Compose, name: str, scale: str) -> None:
    arch = "ensemble" if "diversity" in name else "mnist_d"
    config = compose(f"trainer={name}", f"arch={arch}", f"scale={scale}", "models=alone", *needed(name))
    assert config["trainer"]["name"] == name
    check_model(config["models"]["target"], "models.target")


@pytest.mark.parametrize("name", options("optimizer"))
def test_optimizer_files(compose: Compose, name: str) -> None:
    """Chosen for any trainer, an optimiser leaves nothing of the trainer's own behind."""
    for trainer in ("standard", "kurakin"):
        chosen = compose(f"trainer={trainer}", f"optimizer@trainer.optimizer={name}", "models=alone")
        assert chosen["trainer"]["optimizer"]["name"] == name.split("_")[0]
        check_model(chosen["models"]["target"], "models.target")
    assert {option.split("_")[0] for option in options("optimizer")} == set(OPTIMIZERS)


@pytest.mark.parametrize("name", options("attack"))
def test_attack_files(compose: Compose, name: str, tmp_path: Path) -> None:
    own = tmp_path / "attack.py"  # which attack=module has to be given
    own.write_text("def same(model, x, y, eps): return x\n")
    words, called = ([f"attack.file={own}", "attack.call=same"], "same") if name == "module" else ([], name)
    attacks = list(attacks_of(compose(f"attack={name}", "eps=0.1", *words).get("attack"), "attack"))
    assert [(named.name, named.attack.eps) for named in attacks] == ([] if name == "none" else [(called, 0.1)])


@pytest.mark.parametrize("name", options("suite"))
def test_suite_files(compose: Compose, name: str) -> None:
    config = compose(f"suite={name}", "attack=none", "eps=0.1")
    attacks = distinct(list(attacks_of(config.get("suite"), "suite")))
    assert {named.name for named in attacks} == set(config.get("suite") or {})
    assert bool(attacks) == (name != "none")
    assert len({(named.name, named.attack.eps) for named in attacks}) == len(attacks)


@pytest.mark.parametrize("name", [name for name in options("model") if not name.startswith("imagenet")])
def test_model_files(compose: Compose, name: str) -> None:
    """Those of ImageNet have weights that timm downloads: tests/conf/test_recipes.py is about them."""
    own = {"kariyappa": ["arch=ensemble"], "kurakin": ["arch=inception_v3_32", "trainer=kurakin"]}  # of the run's arch
    network = ["+arch@models.X.arch=resnet20"] if name == "kurakin_recipe" else []  # which has none of its own
    config = compose(f"+model@models.X={name}", *network, "models=none", "seed=3", *own.get(name.split("_")[0], []))
    check_model(config["models"]["X"], "models.X")
    assert config["models"]["X"]["seed"] == 3


@pytest.mark.parametrize("name", options("models"))
def test_models_files(compose: Compose, name: str) -> None:
    models = compose(f"models={name}", "trainer=madry").get("models") or {}
    assert bool(models) == (name != "none")
    for model, spec in models.items():
        check_model(spec, f"models.{model}")
    if models:
        assert models["target"]["trainer"]["name"] == "madry"


@pytest.mark.parametrize("arch", options("arch"))
def test_the_holdout_is_another_architecture(compose: Compose, arch: str) -> None:
    models = compose(f"arch={arch}")["models"]
    assert models["holdout"]["arch"]["name"] == ("mnist_a" if arch == "mnist_b" else "mnist_b")
    assert models["target"]["arch"] != models["holdout"]["arch"]


@pytest.mark.parametrize("name", options("measurement"))
def test_measurement_files(compose: Compose, name: str) -> None:
    """Every measurement has its file, and every file its measurement, alone and beside another."""
    alone = measurements_of(compose(f"measurement={name}", "eps=0.1"))
    beside = measurements_of(compose(f"+measurement@measurements.mine={name}", "eps=0.1"))
    assert [type(measurement) for measurement in alone.values()] == [MEASUREMENTS[name]]
    assert list(alone) == [name] and list(beside) == ["transfer_matrix", "mine"]
    assert beside["mine"] == alone[name]
    assert set(options("measurement")) == set(MEASUREMENTS)


@pytest.mark.parametrize("name", options("diagnostic"))
def test_diagnostic_files(compose: Compose, name: str) -> None:
    config = compose(f"diagnostic={name}")
    assert name != "none" or config == compose()
    assert name == "none" or config["claims"] != compose().get("claims")
    assert measurements_of(config)
