"""Files of papers: they measure what their tables and claims ask, and their numbers are the paper's."""

import csv
import re
from collections.abc import Callable
from dataclasses import replace
from math import isnan
from pathlib import Path
from typing import Any

import pytest
import torch
from configs import CONF, SCALES, Compose, Config, options, text_of
from conftest import ROOT
from linear import linear
from torch import nn
from torch.nn import functional as F

from epsball.build import ConfigError, construct
from epsball.data.images import Split
from epsball.experiment.prepare import Experiment, prepare_experiment
from epsball.experiment.run import measure
from epsball.experiment.setup import set_up
from epsball.models.wrappers import Ensemble
from epsball.paper.expressions import ANY, Quantity, Sum
from epsball.paper.tables import Table
from epsball.paper.values import SeedRows, estimate_in_seed
from epsball.results.given import DROPPED
from epsball.results.intervals import wilson
from epsball.results.metrics import METRICS
from epsball.results.rows import MEASURED
from epsball.runtime.progress import Stop
from epsball.runtime.store import Store
from epsball.training.spec import BuildCache
from epsball.training.trained import TrainedModels

BASES = (
    *("tramer", "tramer_imagenet", "madry", "madry_cifar10", "madry_figure1", "madry_figure2", "madry_maxima"),
    *("kariyappa", "kariyappa_cifar10", "kurakin"),
)
"""what the parts of a paper share: files beside config.yaml"""

# ---- what a paper's files measure: on the digits, with linear models in place of all networks


def curve(epochs: float) -> str:
    """A training.csv of so many epochs, the last one perhaps cut short: there is no training."""
    ends = [*range(1, int(epochs) + 1), *([epochs] if epochs % 1 else [])]
    return "epoch,step,lr,loss,clean_error,gal\n" + "".join(f"{e},{2 * e:.0f},0.1,{2 / e},0.5,{1 / e}\n" for e in ends)


def resized(node: Any) -> Any:
    """Return the config with few images: sizes are checked by the dataset's own tests."""
    if isinstance(node, dict):
        small = {"train_size": 100, "test_size": 40} if "train_size" in node else {}
        return {key: resized(value) for key, value in node.items()} | small
    return [resized(item) for item in node] if isinstance(node, list) else node


def fitted(train: Split, members: int) -> nn.Module:
    """Return a linear model that gets most images right and that FGSM fools: least squares on the classes. With more
    members an ensemble of such, each of fewer images."""
    x, y = train.take(torch.arange(len(train)))
    nets = []
    for number in range(members):
        own, label = x[number:], F.one_hot(y[number:], 10) - 0.1
        weight = torch.linalg.lstsq(own.flatten(1), label, driver="gelsd").solution.T
        nets.append(linear(10 * weight))
    return (Ensemble(nets, "mean_logit") if members > 1 else nets[0]).requires_grad_(False)


@pytest.fixture(scope="module")
def cache() -> BuildCache:
    """What the experiments here have in common, built once."""
    return BuildCache()


def is_measured(quantity: Quantity, rows: list[Config]) -> bool:
    """Whether the rows of a seed have its number, of a figure's quantity, which may be of many rows, any number."""
    if METRICS[quantity.metric].binned or ANY in dict(quantity.conditions).values():
        return bool(SeedRows(rows).find(quantity))
    return not isnan(estimate_in_seed(Sum(0.0, ((1.0, quantity),)), SeedRows(rows), wilson).value)


@pytest.fixture
def rows_of(tmp_path: Path) -> Callable[[Experiment], list[Config]]:
    """`rows_of(experiment)`: the rows of results that its measurements give, of linear models."""

    def rows(experiment: Experiment) -> list[Config]:
        specs = experiment.specs
        models = TrainedModels(Store(tmp_path, lambda: None), Stop(), [specs])
        fits = {members: fitted(experiment.data.train, members) for members in {s.members for s in specs.values()}}
        networks = {name: fits[spec.members] for name, spec in specs.items()}
        for spec in specs.values():
            folder = models.store.path(spec.key)
            folder.mkdir(parents=True, exist_ok=True)
            models.store.publish(folder, {}, {}, curve(spec.epochs))
        return measure(experiment, replace(set_up(experiment, models), models=networks))["results"]

    return rows


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("name", options("paper"))
def test_a_paper_file_measures_what_its_tables_and_claims_ask_about(
    compose: Compose, rows_of: Callable[[Experiment], list[Config]], cache: BuildCache, name: str, scale: str
) -> None:
    """A misspelt attack, eps or model in a table would be a row of dashes, hours later."""
    config = compose(f"paper={name}", f"scale={scale}", "dataset=digits", "device=cpu")
    assert config["scale"]["name"] == scale and config["experiment"] == name
    if config["parts"]:  # what its claims ask about, its parts measure
        pytest.skip("a list of parts: each is tested by itself")
    trained = compose("arch=mnist_d", "trainer=standard", "models=alone")["models"]["target"]
    for number, (model, spec) in enumerate((config["models"] or {}).items()):
        if spec is None or spec["arch"].get("pretrained"):  # a model that the file leaves to the user; timm's weights
            config["models"][model] = {**trained, "seed": number}
    experiment = prepare_experiment(resized(config), cache)
    assert experiment.sources and experiment.targets
    assert not list(experiment.expected.holes(experiment.statements))
    rows = rows_of(experiment)
    for quantity in experiment.asked:
        assert is_measured(quantity, rows), quantity
    for row in rows:  # another column would be taken for a grid's where the rows are given to a run
        assert set(row) <= {*MEASURED, *DROPPED, *experiment.grid_values.get(row["target"], {})}
    key = ("measurement", "source", "target", "attack", "eps", "e1", "e2", "epoch", "bin_low")
    key += ("steps", "restarts", "worst_for", "image", "restart", "step", "directions")
    assert len({tuple(row.get(column) for column in key) for row in rows}) == len(rows)


@pytest.mark.parametrize("name", [name for name in options("diagnostic") if name != "none"])
def test_a_diagnostic_measures_what_its_tables_and_claims_ask_about(
    compose: Compose, rows_of: Callable[[Experiment], list[Config]], cache: BuildCache, name: str
) -> None:
    experiment = prepare_experiment(resized(compose(f"diagnostic={name}", "device=cpu")), cache)
    rows = rows_of(experiment)
    assert experiment.asked
    for quantity in experiment.asked:
        assert is_measured(quantity, rows), quantity


def test_a_misspelt_cell_is_noticed(compose: Compose, rows_of: Callable[[Experiment], list[Config]]) -> None:
    """The test above can fail: for a metric that clean images do not have. What else the run lacks is refused."""
    config = resized(compose("paper=tramer/text", "dataset=digits", "device=cpu"))
    table = {**config["tables"]["eps_1"], "paper": None, "unit": "value", "best": "none"}

    def asking(cell: str) -> Experiment:
        return prepare_experiment({**config, "tables": {"wrong": {**table, "columns": {"wrong": cell}}}, "claims": {}})

    experiment = asking("transfer_rate(A)")
    assert not is_measured(experiment.asked[0], rows_of(experiment))
    with pytest.raises(ConfigError, match=r"^tables\.wrong asks about gradient_l2_mean, which no measurement .* has: "):
        asking("gradient_l2_mean(A)")
    with pytest.raises(ConfigError, match=r"^tables\.wrong asks about attack fgms \(did you mean 'fgsm'\?\)"):
        asking("error(A | A, fgms)")
    with pytest.raises(
        ConfigError, match=r"^tables\.wrong asks about fgsm at eps=0\.2: this run has fgsm at eps=0\.25, "
    ):
        asking("error(A | A, fgsm, eps=0.2)")
    with pytest.raises(ConfigError, match=r"^tables\.wrong asks about 'A_avd' \(did you mean 'A_adv'\?\)"):
        asking("error(A_avd)")
    with pytest.raises(ConfigError, match=r"fgsm without saying which eps: one of eps=0\.25, eps=0\.3, eps=1$"):
        asking("error(A | A, fgsm)")


@pytest.mark.parametrize("name", options("paper"))
def test_published_numbers_say_of_which_data_they_are(compose: Compose, name: str) -> None:
    """So that a run on other data shows them, and compares nothing."""
    config = compose(f"paper={name}")
    stated = {**config["tables"], **config["figures"]}
    assert [key for key, each in stated.items() if each and each.get("paper") and not each.get("published_on")] == []


@pytest.mark.parametrize("paper", ["tramer", "madry", "kariyappa", "kurakin"])
def test_all_of_a_paper_is_each_of_its_files(compose: Compose, paper: str) -> None:
    """Each that has no parts of its own; what these are, all has."""
    lists = {scale: compose(f"paper={paper}/all", f"scale={scale}")["parts"] for scale in SCALES}
    assert lists["smoke"] == lists["quick"] == lists["paper"]
    elsewhere = {"tramer": ["tramer/imagenet", *compose("paper=tramer/imagenet")["parts"]]}.get(paper, [])
    files = [name for name in options("paper") if name.startswith(f"{paper}/") and name != f"{paper}/all"]
    assert set(elsewhere) <= set(files)
    files = [name for name in files if name not in elsewhere]
    whole = [name for name in files if "\nparts:" in (CONF / "paper" / f"{name}.yaml").read_text()]
    assert sorted(lists["paper"]) == [name for name in files if name not in whole]
    for name in whole:
        parts = compose(f"paper={name}")["parts"]
        assert [part.rpartition("_")[0] for part in parts] == [name] * len(parts) and set(parts) <= set(lists["paper"])


@pytest.mark.parametrize("name", options("paper"))
def test_a_paper_file_says_which_models_and_attacks_it_is_about(name: str) -> None:
    """What a paper file leaves to the defaults, a change of the defaults would change."""
    text = text_of(name)
    for base in reversed(BASES):  # one may inherit one before it
        text += text_of(base, folder="") if f"\n  - /{base}\n" in text else ""
    wanted = ("dataset",) if "\nparts:" in text else ("dataset", "models", "suite", "attack")
    for group in wanted:
        assert f"\n  - override /{group}: " in text, group


def references() -> list[tuple[str, str]]:
    """Return the models that values of a paper file refer to, where it has others to go on with."""
    texts = {name: text_of(name) for name in options("paper")}
    found = {(n, m) for n, text in texts.items() for m in re.findall(r"\$\{[^}]*\bmodels\.(\w+)\.", text)}
    return sorted((name, model) for name, model in found if texts[name].count("@models.") > 1)


@pytest.mark.parametrize(("name", "model"), references())
def test_a_model_that_others_refer_to_can_be_left_out(
    compose: Compose, cache: BuildCache, name: str, model: str
) -> None:
    config = compose(f"paper={name}", f"models.{model}=null", "dataset=digits", "device=cpu")
    assert config["models"][model] is None
    specs = prepare_experiment(resized(config), cache).specs
    assert specs and model not in specs


# ---- the papers' numbers, as files beside the project have them

Key = tuple[str, str, str, str, float | None]  # metric, target, source, attack, eps
METRIC = {"error": "error_top1", "grad_l2_mean": "gradient_l2_mean", "grad_l2_std": "gradient_l2_sd"}
MODEL = {"random_forest_100": "forest", "cnn": "A"}
FILES = {**{n: (f"tramer/table{n}", f"table_{n}") for n in "12478"}, "app-C": ("tramer/appendix_c", "appendix_c")}
FILES["text-3.3"] = ("tramer/text", "eps_1")


def reference_key(line: dict[str, str]) -> Key:
    """Return what a line of reference.csv is about, in the words of conf/."""
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
    """Return the numbers that a table in conf/ says the paper has."""
    found = {}
    for (row, column), whole in table.cells.items():
        cell, number = whole.alone, table.published(row, column)
        if cell is not None and number is not None:
            eps = None
            if cell.attack != "clean":
                eps = dict(cell.conditions).get("eps") or config["suite"][cell.attack]["eps"]
            found[cell.metric, cell.target, cell.source, cell.attack, eps] = number
    return found


def reference_lines(paper: str, *datasets: str) -> list[dict[str, str]]:
    """Return the lines of reference.csv of a paper's data sets: MNIST and CIFAR-10, where none is named."""
    path = ROOT.parent / "shared" / "papers" / "reference.csv"
    if not path.is_file():
        pytest.skip(f"the numbers as read from the papers are not here: {path}")
    with path.open(newline="") as file:
        lines = list(csv.DictReader(file))
    return [line for line in lines if line["paper"] == paper and line["dataset"] in (datasets or ("mnist", "cifar10"))]


def test_tramers_numbers_are_those_of_the_paper(compose: Compose) -> None:
    lines = reference_lines("tramer")
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


IMAGENET_FILES = {
    **{table: (f"tramer/table{table}_imagenet", f"table_{table}_imagenet") for table in "1278"},
    "5": ("tramer/table5", "table_5"),
}
IMAGENET_ATTACK = {"fgsm_ll": "step_ll", "rand_fgsm_ll": "rand_step_ll", "clean": "clean", "none": "clean"}


@pytest.mark.parametrize("printed", IMAGENET_FILES)
def test_tramers_numbers_on_imagenet_are_those_of_the_paper(compose: Compose, printed: str) -> None:
    lines = [line for line in reference_lines("tramer", "imagenet") if line["table"] == printed]
    expected = {}
    for line in lines:
        metric = METRIC[line["metric"]].replace("top1", f"top{line['topk']}")
        source = line["source"] or line["target"]
        expected[metric, line["target"], source, IMAGENET_ATTACK[line["attack"]]] = float(line["value"])
    assert len(expected) == len(lines) > 0
    paper, name = IMAGENET_FILES[printed]
    table = construct(Table, compose(f"paper={paper}", "scale=paper")["tables"][name], where=name)
    found = {}
    for (row, column), whole in table.cells.items():
        cell = whole.alone
        assert cell is not None
        found[cell.metric, cell.target, cell.source, cell.attack] = table.published(row, column)
    assert found == expected


MADRY_FILES = {
    **{"1": ("madry/table1", "table_1"), "2": ("madry/table2", "table_2")},
    **{"text-5": ("madry/text_mnist", "text"), "text-4": ("madry/text_cifar10", "text")},
}
Attacked = tuple[str, str, str, int | None, int]  # target, source, attack, steps, restarts


def madry_key(line: dict[str, str]) -> Attacked:
    """Return what a line of reference.csv is about. Table 1 leaves out the steps of CW from B: those of the others."""
    setting = dict(part.split("=") for part in line["setting"].split(";") if part)
    target, source = (line[name].replace("'", "_copy") for name in ("target", "source"))
    iterated = line["attack"] not in ("clean", "fgsm")
    steps = int(setting.get("steps") or 40) if iterated else None
    return target, source or target, line["attack"], steps, int(setting.get("restarts") or 1)


def madry_published(config: Config, table: Table) -> dict[Attacked, float]:
    """Return the accuracies that a table in conf/ says the paper has; the paper does not say for whom of two models the
    worst of several restarts is meant."""
    found: dict[Attacked, float] = {}
    for (row, column), whole in table.cells.items():
        cell, number = whole.alone, table.published(row, column)
        assert cell is not None and cell.metric == "accuracy_top1" and number is not None
        said, iterated = dict(cell.conditions), cell.attack not in ("clean", "fgsm")
        steps = int(said.get("steps") or config["suite"][cell.attack]["steps"]) if iterated else None
        name = "pgd" if cell.attack in ("pgd_7", "pgd_20", "pgd_100") else cell.attack
        key = cell.target, cell.source, name, steps, int(said.get("restarts", 1))
        assert found.setdefault(key, number) == number
    return found


def test_madrys_numbers_are_those_of_the_paper(compose: Compose) -> None:
    lines = reference_lines("madry")
    assert {line["table"] for line in lines} == set(MADRY_FILES) and len(lines) == 17 + 10 + 3
    for printed, (paper, table) in MADRY_FILES.items():
        config = compose(f"paper={paper}", "scale=paper")
        expected = {madry_key(line): float(line["value"]) for line in lines if line["table"] == printed}
        assert madry_published(config, construct(Table, config["tables"][table], where=table)) == expected, printed


@pytest.mark.parametrize("ensemble", ["conv3", "conv4", "resnet20", "mix"])
def test_kariyappas_numbers_are_those_of_the_paper(compose: Compose, ensemble: str) -> None:
    lines = [line for line in reference_lines("kariyappa") if line["setting"] == f"arch={ensemble}"]
    assert len(lines) == 4 * 11
    suffix = "" if ensemble == "conv3" else f"_{ensemble}"
    config = compose(f"paper=kariyappa/table2_{ensemble}", "scale=paper")
    table = construct(Table, config["tables"][f"table_2{suffix}"], where="table_2")
    found = {}
    for (row, column), whole in table.cells.items():
        cell = whole.alone
        assert cell is not None and cell.metric == "accuracy_top1" and cell.target == f"{row}{suffix}"
        source = "" if cell.attack == "clean" else cell.source.removesuffix(suffix)
        found[row, source, cell.attack, dict(cell.conditions).get("eps")] = table.published(row, column)
    stated = {
        (line["target"], line["source"], line["attack"], float(line["eps"]) if line["eps"] else None): line["value"]
        for line in lines
    }
    assert found == {key: float(value) for key, value in stated.items()}


KURAKIN_NAMES = {  # of the models in reference.csv, by table: those of conf/
    **{table: {"baseline": "base", "deeper_baseline": "deeper"} for table in "12"},
    "3": {"adv_step_ll": "adv_slow", "adv_fgsm": "fgsm_adv"},
    "5": {
        **{"trained_with_no_adv": "nat_90k", "trained_with_random_sign": "sign_noise_90k"},
        "trained_with_random_normal": "normal_noise_90k",
    },
    "7": {
        "adv_relu": "adv",
        **{f"adv_relu_decay_{b}": f"adv_decay_{b.replace('.', '_')}" for b in ("0.1", "0.01", "0.001")},
    },
    "8": {"no_adv": "base", "adv_k16": "adv"},
}


KURAKIN_PARTS = [name for name in options("paper") if name.startswith("kurakin/") and name != "kurakin/all"]


@pytest.mark.parametrize("part", KURAKIN_PARTS)
def test_kurakins_tables_can_be_asked_of_another_network(compose: Compose, cache: BuildCache, part: str) -> None:
    lacking = {"table1": ["deeper", "deeper_adv"], "text": ["adv_no_dropout"]}  # what a ResNet has no field for
    without = lacking.get(part.removeprefix("kurakin/"), [])
    words = [f"paper={part}", "scale=quick", "dataset=digits", "device=cpu", "arch=resnet20"]
    config = resized(compose(*words, *(f"models.{name}=null" for name in without)))
    archs = {name: spec.config["arch"] for name, spec in prepare_experiment(config, cache).specs.items()}
    assert {arch["name"] for arch in archs.values()} == {"resnet"}
    assert {arch["depth"] for name, arch in archs.items() if name != "D"} == {20}
    for name in without:
        config = resized(compose(*words, *(f"models.{other}=null" for other in without if other != name)))
        with pytest.raises(ConfigError, match=f"^models.{name}.arch.(extra_blocks|dropout) is not a field"):
            prepare_experiment(config, cache)


@pytest.mark.parametrize(("table", "numbers"), [*zip("12345678", (40, 40, 20, 96, 50, 96, 90, 30), strict=True)])
def test_kurakins_numbers_are_those_of_the_paper(compose: Compose, table: str, numbers: int) -> None:
    """All 462 of them: metric, model, source, attack, eps."""
    lines = [line for line in reference_lines("kurakin", "imagenet") if line["table"] == table]
    assert len(lines) == numbers
    config = compose(f"paper=kurakin/table{table}", "scale=paper")

    def called(model: str) -> str:
        other = model.replace("trained_with_", "") + "_90k" if table == "5" else model
        return KURAKIN_NAMES.get(table, {}).get(model, other)

    stated = {}
    for line in lines:
        eps = float(line["eps"].split("/")[0]) if line["eps"] else None
        target = called(line["target"])
        source = called(line["source"]) if line["source"] else target
        key = f"{line['metric']}_top{line['topk']}", target, source, line["attack"], eps
        assert stated.setdefault(key, float(line["value"])) == float(line["value"])  # clean ones stand by each method
    found = {}
    printed = construct(Table, config["tables"][f"table_{table}"], where=table)
    assert printed.published_on == "imagenet"
    if table == "4":  # reference.csv has 15 there, the paper's text 13
        assert stated["transfer_rate_top5", "D", "C", "iter_basic", 16.0] == 15
        stated["transfer_rate_top5", "D", "C", "iter_basic", 16.0] = 13.0
    for (row, column), whole in printed.cells.items():
        cell, eps = whole.alone, None
        assert cell is not None
        if cell.attack != "clean":
            eps = round(255 * float(dict(cell.conditions)["eps"]), 6)
        key, number = (cell.metric, cell.target, cell.source, cell.attack, eps), printed.published(row, column)
        assert number is not None and found.setdefault(key, number) == number
    assert found == stated


@pytest.mark.parametrize("name", options("paper"))
def test_a_paper_file_says_what_when_and_how_long(name: str) -> None:
    text = (CONF / "paper" / f"{name}.yaml").read_text()
    head = [line for line in text.splitlines() if line.startswith("# ") and not line.startswith("# @")]
    for word in ("Reproduces:", "Command:", "Time:", "Paper:"):
        assert any(word in line for line in head), word
    assert f"paper={name}" in "".join(head)
    assert "hydra.mode" not in text and text.startswith("# @package _global_\n")
