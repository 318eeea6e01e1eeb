"""Every file in conf/ composes and is built; precedence; the command lines that the documentation shows."""

import copy
import csv
from collections.abc import Callable
from math import isnan
from pathlib import Path
from typing import Any

import hydra
import pytest
import torch
from conftest import ROOT
from torch import nn

from epsball import claims, evaluate, plan
from epsball.build import ConfigError, build, construct
from epsball.datasets import DATASETS
from epsball.expressions import Table
from epsball.lab import Lab
from epsball.models import MODELS
from epsball.progress import Stop
from epsball.tasks import TASKS
from epsball.train import Trainer

CONF = ROOT / "conf"
SCALES = ("smoke", "quick", "paper")
SHAPES = {(1, 28, 28): 10, (3, 32, 32): 10, (3, 299, 299): 1000}
Config = dict[str, Any]
Compose = Callable[..., Config]


def options(group: str) -> list[str]:
    """The options of a group: what its files are called on the command line."""
    return sorted(p.relative_to(CONF / group).with_suffix("").as_posix() for p in (CONF / group).rglob("*.yaml"))


def network(arch: Config) -> nn.Module:
    """The arch on the first image shape that it allows; no memory is touched."""
    refusals = []
    for shape, classes in SHAPES.items():
        try:
            with torch.device("meta"):
                built: nn.Module = build(MODELS, arch, shape, classes, where="arch")
            return built
        except ConfigError as error:
            refusals.append(f"{shape}: {error}")
    raise AssertionError("; ".join(refusals))


def check_model(spec: Config, where: str) -> None:
    """A model spec is whole, and so are those it is trained on: everything but its data is built."""
    assert set(spec) == {"dataset", "arch", "trainer", "seed"}, where
    build(DATASETS, spec["dataset"], where=f"{where}.dataset")
    assert type(spec["seed"]) is int
    given = spec["trainer"]
    trainer: Trainer | None = None if given is None else construct(Trainer, given, where=f"{where}.trainer")
    sources = trainer.sources if trainer else {}
    plan.check_trainer(trainer, network(spec["arch"]), len(sources), where, f"{where}.trainer")
    for name, source in sources.items():
        check_model(source, f"{where}.trainer.sources.{name}")


# ---- every file


@pytest.mark.parametrize("path", sorted(CONF.rglob("*.yaml")), ids=lambda path: path.relative_to(CONF).as_posix())
def test_a_file_starts_with_what_it_is(path: Path) -> None:
    lines = [line for line in path.read_text().splitlines() if not line.startswith("# @package")]
    assert lines[0].startswith("# ") and len(lines[0].split()) >= 4


def test_every_folder_of_conf_is_tested_here() -> None:
    folders = {path.name for path in CONF.iterdir() if path.is_dir()}
    groups = {"dataset", "arch", "trainer", "attack", "suite", "model", "models", "task", "report", "paper", "scale"}
    assert folders == groups


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", options("dataset"))
def test_dataset_files(compose: Compose, name: str, scale: str) -> None:
    config = compose(f"dataset={name}", f"scale={scale}")
    build(DATASETS, config["dataset"], where="dataset")
    assert isinstance(config["eps"], float) and 0 < config["eps"] < 1
    assert config["attack"]["pgd"]["eps"] == config["eps"]


@pytest.mark.parametrize("name", options("arch"))
def test_arch_files(compose: Compose, name: str) -> None:
    if name == "timm":
        pytest.importorskip("timm")
    built = network(compose(f"arch={name}")["arch"])
    assert (sum(p.numel() for p in built.parameters()) > 0) == (not hasattr(built, "fit_to"))


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", options("trainer"))
def test_trainer_files(compose: Compose, name: str, scale: str) -> None:
    arch = "ensemble" if "diversity" in name else "mnist_d"
    config = compose(f"trainer={name}", f"arch={arch}", f"scale={scale}", "models=alone")
    assert config["trainer"]["name"] == name
    check_model(config["models"]["target"], "models.target")


@pytest.mark.parametrize("name", options("attack"))
def test_attack_files(compose: Compose, name: str) -> None:
    crafts = list(plan.attacks_of(compose(f"attack={name}", "eps=0.1").get("attack"), "attack"))
    assert [(craft.name, craft.attack.eps) for craft in crafts] == ([] if name == "none" else [(name, 0.1)])


@pytest.mark.parametrize("name", options("suite"))
def test_suite_files(compose: Compose, name: str) -> None:
    config = compose(f"suite={name}", "attack=none", "eps=0.1")
    crafts = plan.distinct(list(plan.attacks_of(config.get("suite"), "suite")))
    assert {craft.name for craft in crafts} == set(config.get("suite") or {})
    assert bool(crafts) == (name != "none")
    assert len({(craft.name, craft.attack.eps) for craft in crafts}) == len(crafts)


@pytest.mark.parametrize("name", options("model"))
def test_model_files(compose: Compose, name: str) -> None:
    config = compose(f"+model@models.X={name}", "models=none", "seed=3")
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


@pytest.mark.parametrize("name", options("task"))
def test_task_files(compose: Compose, name: str) -> None:
    """Every task has its file, and every file its task: what the config names is what is built."""
    config = compose(f"task={name}", "eps=0.1")
    assert config["task"]["name"] == name
    assert type(build(TASKS, config["task"], where="task")) is TASKS[name]
    assert set(options("task")) == set(TASKS)


@pytest.mark.parametrize("name", options("report"))
def test_report_files(compose: Compose, name: str) -> None:
    config = compose(f"report={name}")
    assert name != "none" or config == compose()


# ---- papers


def resized(node: Any) -> Any:
    """The config with few images, of whatever data: sizes are checked by the dataset's own tests."""
    if isinstance(node, dict):
        small = {"train_size": 20, "test_size": 10} if "train_size" in node else {}
        return {key: resized(value) for key, value in node.items()} | small
    return [resized(item) for item in node] if isinstance(node, list) else node


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", options("paper"))
def test_paper_files(compose: Compose, monkeypatch: pytest.MonkeyPatch, name: str, scale: str) -> None:
    monkeypatch.chdir(ROOT)  # datasets' roots are relative
    config = compose(f"paper={name}", f"scale={scale}", "device=cpu")
    assert config["scale"]["name"] == scale and config["experiment"] == name
    try:
        experiment = plan.prepare(resized(config))
    except ConfigError as error:
        if "dataset.root" not in str(error):
            raise
        pytest.skip(str(error))
    assert experiment.sources and experiment.targets
    assert experiment.crafts or all(quantity.attack == "clean" for quantity in experiment.quantities)
    for table in experiment.tables.values():
        numbers = [n for values in (table.paper or {}).values() for n in values if n is not None]
        assert all(0 <= number <= 100 for number in numbers)


class Finished(Lab):
    """A lab in which every row is finished already: a task's rows come without training or crafting anything."""

    def __init__(self, experiment: plan.Experiment) -> None:
        self.experiment, self.stop, self.device = experiment, Stop(), torch.device("cpu")
        self.sources, self.targets, self.crafts = experiment.sources, experiment.targets, experiment.crafts
        self.test, self.batch_size = experiment.data.test, 10
        self.models = {name: planned.network for name, planned in experiment.plans.items()}

    def find(self, what: object, source: str, target: str) -> Config | None:
        some = evaluate.Mistakes(torch.tensor([True, True, False]), torch.tensor([True, False, False]), 1.0)
        none = evaluate.Mistakes(torch.zeros(3, dtype=torch.bool), torch.zeros(3, dtype=torch.bool), 1.0)
        if what == "clean":
            return evaluate.clean_row(some)
        if what == "gradients":
            return evaluate.gradient_row(torch.tensor([0.0, 1.0, 2.0]))
        return evaluate.transfer_row(none, some, none, some) | {"max_perturbation": 0.1}


@pytest.fixture
def rows_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[plan.Experiment], list[Config]]:
    """The rows that an experiment's own task measures on its models and attacks, without their numbers' worth."""
    surfaces = lambda model, along, x, y, steps, *_: torch.rand(len(x), len(steps), len(steps))  # noqa: E731
    monkeypatch.setattr(evaluate, "transferring", lambda *_: torch.arange(3))
    monkeypatch.setattr(evaluate, "surface", surfaces)
    monkeypatch.setattr(evaluate, "pictures", lambda model, attack, x, y, generator: [{} for _ in x])
    return lambda experiment: experiment.task.measure(Finished(experiment))["results"]


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", options("paper"))
def test_a_paper_file_measures_what_its_tables_and_claims_ask_about(
    compose: Compose, rows_of: Callable[[plan.Experiment], list[Config]], name: str, scale: str
) -> None:
    """A misspelt attack, eps or model in a table would be a row of dashes, hours later."""
    experiment = plan.prepare(resized(compose(f"paper={name}", f"scale={scale}", "dataset=digits", "device=cpu")))
    rows = rows_of(experiment)
    for quantity in experiment.quantities:
        assert not isnan(claims.measured(quantity, rows).value), quantity
    keys = [tuple(row.get(key) for key in ("source", "target", "attack", "eps", "e1", "e2")) for row in rows]
    assert len(set(keys)) == len(keys)


def test_a_misspelt_cell_is_noticed(compose: Compose, rows_of: Callable[[plan.Experiment], list[Config]]) -> None:
    """The test above can fail: for an attack, an eps and a metric that the paper's own run does not have."""
    config = resized(compose("paper=tramer/text", "dataset=digits", "device=cpu"))
    for wrong in ("error(A | A, fgms)", "error(A | A, fgsm, eps=0.2)", "gradient_l2_mean(A)", "transfer_rate(A)"):
        table = {**config["tables"]["eps_1"], "columns": {"wrong": wrong}, "paper": None}
        experiment = plan.prepare({**config, "tables": {"wrong": table}, "claims": {}})
        assert isnan(claims.measured(experiment.quantities[0], rows_of(experiment)).value), wrong
    with pytest.raises(ConfigError, match=r"^tables\.wrong asks about 'A_avd' \(did you mean 'A_adv'\?\)"):
        table = {**table, "columns": {"wrong": "error(A_avd)"}}
        plan.prepare({**config, "tables": {"wrong": table}, "claims": {}})
    with pytest.raises(ConfigError, match=r"fgsm without saying which eps: one of eps=0\.25, eps=0\.3, eps=1$"):
        plan.prepare({**config, "tables": {"wrong": {**table, "columns": {"wrong": "error(A | A, fgsm)"}}}})


def test_all_of_a_paper_is_each_of_its_files(compose: Compose) -> None:
    lists = {scale: compose("paper=tramer/all", f"scale={scale}")["parts"] for scale in SCALES}
    assert lists["smoke"] == lists["quick"] == lists["paper"]
    parts = lists["paper"]
    assert sorted(parts) == [name for name in options("paper") if name.startswith("tramer/") and name != "tramer/all"]
    assert not any("\nparts:" in (CONF / "paper" / f"{part}.yaml").read_text() for part in parts)


@pytest.mark.parametrize("name", options("paper"))
def test_a_paper_file_says_which_models_and_attacks_it_is_about(name: str) -> None:
    """What a paper file leaves to the defaults, a change of the defaults would change."""
    text = (CONF / "paper" / f"{name}.yaml").read_text()
    wanted = ("dataset",) if "\nparts:" in text else ("dataset", "models", "suite", "attack")
    for group in wanted:
        assert f"\n  - override /{group}: " in text, group


# ---- the papers' numbers

Key = tuple[str, str, str, str, float | None]  # metric, target, source, attack, eps
METRIC = {"error": "error_top1", "grad_l2_mean": "gradient_l2_mean", "grad_l2_std": "gradient_l2_sd"}
MODEL = {"random_forest_100": "forest", "cnn": "A"}
FILES = {**{n: (f"tramer/table{n}", f"table_{n}") for n in "12478"}, "app-C": ("tramer/appendix_c", "appendix_c")}
FILES["text-3.3"] = ("tramer/text", "eps_1")


def reference_key(line: dict[str, str]) -> Key:
    """What a line of reference.csv is about, in the words of conf/."""
    after = "_12" if line["setting"] == "epochs=12" else ""
    target = MODEL.get(line["target"], line["target"]) + after
    source = target if line["source"] in ("", line["target"]) else MODEL.get(line["source"], line["source"])
    metric = METRIC[line["metric"]]
    if line["table"] == "app-C" and line["attack"] == "fgsm":
        metric = "transfer_rate_top1"  # "transfer at a rate of 99%"
    if line["attack"] in ("clean", "none"):
        return metric, target, target, "clean", None
    return metric, target, source, line["attack"], float(line["eps"])


def published(config: Config, table: Table) -> dict[Key, float]:
    """The numbers that a table in conf/ says the paper has."""
    found = {}
    for row in table.rows:
        for column in table.columns:
            cell, number = table.cell(row, column), table.published(row, column)
            eps = None
            if cell.attack != "clean":
                eps = dict(cell.conditions).get("eps") or config["suite"][cell.attack]["eps"]
            if number is not None:
                found[cell.metric, cell.target, cell.source, cell.attack, eps] = number
    return found


def test_the_papers_numbers_are_those_of_the_paper(compose: Compose) -> None:
    path = ROOT.parent / "shared" / "papers" / "reference.csv"
    if not path.is_file():
        pytest.skip(f"the numbers as read from the papers are not here: {path}")
    with path.open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if (line["paper"], line["dataset"]) == ("tramer", "mnist")]
    assert {line["table"] for line in lines} == set(FILES) and len(lines) == 51
    expected: dict[str, dict[Key, float]] = {name: {} for name in FILES}
    for line in lines:
        expected[line["table"]][reference_key(line)] = float(line["value"])
    assert sum(map(len, expected.values())) == len(lines)
    for name, (paper, table) in FILES.items():
        config = compose(f"paper={paper}", "scale=paper")
        assert published(config, construct(Table, config["tables"][table], where=table)) == expected[name], name
    anywhere = {(key, value) for values in expected.values() for key, value in values.items()}
    for paper in compose("paper=tramer/all")["parts"]:  # a number that stands in two files is the same in both
        config = compose(f"paper={paper}", "scale=paper")
        for name, spec in config["tables"].items():
            assert set(published(config, construct(Table, spec, where=name)).items()) <= anywhere, (paper, name)


@pytest.mark.parametrize("name", options("paper"))
def test_a_paper_file_says_what_when_and_how_long(name: str) -> None:
    text = (CONF / "paper" / f"{name}.yaml").read_text()
    head = [line for line in text.splitlines() if line.startswith("# ") and not line.startswith("# @")]
    for word in ("Reproduces:", "Command:", "Time:", "Paper:"):
        assert any(word in line for line in head), word
    assert f"paper={name}" in "".join(head)
    assert "hydra.mode" not in text and text.startswith("# @package _global_\n")


# ---- precedence: group file < paper file < scale < command line


@pytest.fixture
def with_paper(tmp_path: Path) -> str:
    """A folder with a paper file that sets what a group file sets too; the override that adds it."""
    (tmp_path / "paper").mkdir()
    (tmp_path / "paper" / "probe.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n"
        "  - override /trainer: madry\n"
        "  - override /arch: mnist_d\n"
        "experiment: probe\n"
        "trainer: {batch_size: 7, epochs: '${by_scale:30,20,10}'}\n"
    )
    return f"hydra.searchpath=[file://{tmp_path}]"


def test_a_group_file_gives_way_to_a_paper_file_that_to_the_scale_and_all_to_the_command_line(
    compose: Compose, with_paper: str
) -> None:
    def values(*overrides: str) -> tuple[Any, ...]:
        trainer = compose(with_paper, *overrides)["trainer"]
        return trainer["name"], trainer["batch_size"], trainer["epochs"]

    assert values("trainer=madry") == ("madry", 50, 2)  # the group's own, at the default scale quick
    assert values("paper=probe") == ("madry", 7, 20)
    assert values("paper=probe", "scale=smoke") == ("madry", 7, 10)
    assert values("paper=probe", "scale=smoke", "trainer.epochs=4", "trainer.batch_size=5") == ("madry", 5, 4)
    assert values("paper=probe", "trainer=standard") == ("standard", 7, 20)


def test_the_command_line_beats_what_a_paper_file_overrides(compose: Compose) -> None:
    assert compose("paper=demo")["scale"]["name"] == "smoke"
    assert compose("paper=demo", "scale=quick")["scale"]["name"] == "quick"
    assert compose("paper=tramer/table1")["dataset"]["name"] == "mnist"
    assert compose("paper=tramer/table1", "dataset=digits")["dataset"]["name"] == "digits"
    assert list(compose("paper=tramer/table1", "suite=tramer")["suite"]) == ["fgsm", "i_fgsm", "rand_fgsm"]
    assert compose("paper=tramer/table1")["experiment"] == "tramer/table1"
    assert compose("paper=tramer/table1", "experiment=mine")["experiment"] == "mine"


def test_one_field_of_one_model_can_be_set(compose: Compose) -> None:
    models = compose("paper=tramer/table1", "models.A_adv.trainer.epochs=12")["models"]
    assert models["A_adv"]["trainer"]["epochs"] == 12
    assert models["A"]["trainer"]["epochs"] == compose("paper=tramer/table1")["models"]["A"]["trainer"]["epochs"] != 12


@pytest.mark.parametrize(
    ("override", "keys", "value"),
    [
        ("eps=0.2", ("models", "target", "trainer", "objective", "attack", "eps"), 0.2),
        ("eps=${frac:8,255}", ("suite", "fgsm", "eps"), 8 / 255),
        ("trainer.epochs=9", ("models", "copy", "trainer", "epochs"), 9),
        ("arch=mnist_b", ("models", "natural", "arch", "name"), "mnist_b"),
        ("seed=4", ("models", "copy", "seed"), 1004),
        ("dataset.train_size=50", ("models", "holdout", "dataset", "train_size"), 50),
        ("attack.eps=0.05", ("attack", "pgd", "eps"), 0.05),
        ("attack.eps=0.05", ("suite", "fgsm", "eps"), 0.3),
    ],
)
def test_one_value_reaches_every_place_it_should(
    compose: Compose, override: str, keys: tuple[str, ...], value: object
) -> None:
    node: Any = compose(override)
    for key in keys:
        node = node[key]
    assert node == value


@pytest.mark.parametrize(("scale", "index"), [("paper", 0), ("quick", 1), ("smoke", 2)])
def test_by_scale_takes_paper_quick_smoke(compose: Compose, scale: str, index: int) -> None:
    config = compose("dataset=mnist", "trainer=madry", f"scale={scale}")
    assert config["dataset"]["train_size"] == (60000, 20000, 2000)[index]
    assert config["trainer"]["epochs"] == pytest.approx((100000 / 1100, 2, 1)[index])
    assert config["models"]["copy"]["trainer"]["epochs"] == config["trainer"]["epochs"]


def test_a_config_does_not_depend_on_the_order_of_its_overrides(compose: Compose) -> None:
    line = ["arch=mnist_d", "trainer=madry", "trainer.epochs=1", "suite=tramer", "eps=0.2", "seed=2", "models=alone"]
    line += ["dataset.train_size=20", "dataset.test_size=10"]
    first, second = plan.prepare(compose(*line)), plan.prepare(compose(*reversed(line)))
    assert first.config_hash == second.config_hash
    assert first.plans["target"].key == second.plans["target"].key
    shuffled = copy.deepcopy(first.config)
    shuffled = {key: shuffled[key] for key in reversed(shuffled)}
    assert plan.prepare(shuffled).config_hash == first.config_hash
    assert plan.prepare(compose(*line, "seed=3")).config_hash != first.config_hash


# ---- the documentation's command lines


@pytest.mark.parametrize(
    "line",
    [
        "",
        "dataset=mnist arch=mnist_a trainer=ensemble_adv suite=tramer",
        "trainer=madry trainer.epochs=3 attack.eps=0.2 seed=1",
        "arch=mnist_a trainer=standard seed=0",
        "arch=mnist_b trainer=fgsm_adv seed=1",
        "arch=mnist_b trainer=madry seed=2",
        "paper=tramer/table1 scale=quick",
        "paper=tramer/table4 scale=quick",
        "paper=tramer/table4 scale=paper seeds=3",
        "paper=tramer/all scale=quick seeds=2",
        "task=worst_case suite=madry",
        "task=loss_surface task.other=natural suite=fgsm attack=none",
        "trainer=diversity arch=ensemble eps=0.09 trainer.augment.flip=true",
        "arch=ensemble arch@arch.members.member=conv4 trainer=diversity",
        "dataset=mnist dataset.train_skip=5000 dataset.train_size=55000 trainer=madry",
    ],
)
def test_command_lines_of_the_documentation_compose(compose: Compose, line: str) -> None:
    config = compose(*line.split())
    for name, spec in (config.get("models") or {}).items():
        check_model(spec, f"models.{name}")


def test_composing_leaves_hydra_as_it_was(compose: Compose) -> None:
    compose()
    assert not hydra.core.global_hydra.GlobalHydra.instance().is_initialized()
