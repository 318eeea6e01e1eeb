"""Grids: names and specs, what is laid over them, what is refused, what expressions, rows and settings make of them."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from epsball.build import ConfigError
from epsball.experiment.grid import GridModel, columns_of, expand_grids, resolve, with_members
from epsball.experiment.prepare import prepare_experiment
from epsball.experiment.run import run_experiments
from epsball.paper.expressions import Quantity
from epsball.runtime.progress import Stop

Config = dict[str, Any]
Compose = Callable[..., Config]

SPEC = {
    "dataset": {"name": "digits"},
    "arch": {"name": "net", "width": 8, "activation": {"name": "leaky", "slope": 0.1}},
    "trainer": {"name": "standard", "epochs": 6, "optimizer": {"name": "adam", "lr": 0.1}},
    "seed": 0,
}
KEYS = {"width": "arch.width", "lr": "trainer.optimizer.lr", "activation": "arch.activation.name", "start": "seed"}


def grid(model: object = SPEC, keys: Config = KEYS, **values: object) -> Config:
    return {"model": model, "values": values, "keys": {column: keys[column] for column in values}}


def models_of(**config: Any) -> Config:
    """The models of a config with its grids expanded."""
    models: Config = expand_grids(config)[0]["models"]
    return models


# ---- names and specs


def test_a_grid_makes_a_model_of_each_value() -> None:
    made = models_of(grid={"a": grid(width=[1, 2, 4])})
    assert {name: spec["arch"]["width"] for name, spec in made.items()} == {
        "a_width_1": 1,
        "a_width_2": 2,
        "a_width_4": 4,
    }
    for spec in made.values():
        assert {**spec, "arch": {**spec["arch"], "width": 8}} == SPEC


def test_several_columns_make_their_product() -> None:
    made = models_of(grid={"a": grid(width=[1, 2], lr=[0.1, 0.5])})
    points = {name: (spec["arch"]["width"], spec["trainer"]["optimizer"]["lr"]) for name, spec in made.items()}
    assert list(points.items()) == [
        ("a_width_1_lr_0_1", (1, 0.1)),
        ("a_width_1_lr_0_5", (1, 0.5)),
        ("a_width_2_lr_0_1", (2, 0.1)),
        ("a_width_2_lr_0_5", (2, 0.5)),
    ]


def test_a_column_may_set_several_keys() -> None:
    made = models_of(grid={"a": grid(keys={"size": ["arch.width", "trainer.epochs"]}, size=[3])})
    assert (made["a_size_3"]["arch"]["width"], made["a_size_3"]["trainer"]["epochs"]) == (3, 3)


@pytest.mark.parametrize(
    ("values", "labels"),
    [
        ([0.25, 1.0, -1, 1e-05], ["0_25", "1", "_1", "1e_05"]),
        (["relu6", "elu"], ["relu6", "elu"]),
        ({4: 4 / 255, 8.0: 8 / 255, "no": 0.0}, ["4", "8", "no"]),
    ],
)
def test_labels_are_parts_of_names(values: Any, labels: list[str]) -> None:
    config, places = expand_grids({"grid": {"a": grid(start=values)}})
    assert list(config["models"]) == [f"a_start_{label}" for label in labels] == list(places)
    expected = list(values.values()) if isinstance(values, dict) else values
    assert [spec["seed"] for spec in config["models"].values()] == expected
    assert [place.values for place in places.values()] == [{"start": value} for value in expected]
    assert {place.grid for place in places.values()} == {"a"}


def test_grids_come_after_the_listed_models_and_may_vary_one_of_them() -> None:
    made = models_of(models={"A": SPEC, "B": None}, grid={"b": grid("A", start=[2]), "a": grid("A", width=[1])})
    assert list(made) == ["A", "B", "b_start_2", "a_width_1"]
    assert made["b_start_2"] == {**SPEC, "seed": 2} and made["A"] == SPEC and made["B"] is None


@pytest.mark.parametrize("config", [{"models": {"A": SPEC}, "grid": {}}, {"models": {"A": SPEC}, "grid": {"a": None}}])
def test_without_a_grid_nothing_changes(config: Config) -> None:
    assert expand_grids(config) == (config, {})


# ---- what `models` says of a grid's models


def test_fields_of_a_grids_model_are_laid_over_it() -> None:
    fields = {"arch": {"width": 5}, "trainer": {"optimizer": {"lr": 0.3}}, "seed": 7}
    one, two = models_of(models={"a_width_2": fields}, grid={"a": grid(width=[1, 2])}).values()
    assert one == {**SPEC, "arch": {**SPEC["arch"], "width": 1}}
    assert two["arch"] == {**SPEC["arch"], "width": 5} and two["seed"] == 7 and two["dataset"] == SPEC["dataset"]
    assert two["trainer"] == {**SPEC["trainer"], "optimizer": {"name": "adam", "lr": 0.3}}


def test_another_component_takes_the_place_of_the_grids() -> None:
    fields = {"arch": {"activation": {"name": "relu"}}}
    (made,) = models_of(models={"a_width_1": fields}, grid={"a": grid(width=[1])}).values()
    assert made["arch"] == {"name": "net", "width": 1, "activation": {"name": "relu"}}


def test_null_leaves_a_grids_model_out() -> None:
    config, places = expand_grids({"models": {"a_width_1": None}, "grid": {"a": grid(width=[1, 2])}})
    assert config["models"]["a_width_1"] is None and config["models"]["a_width_2"]["arch"]["width"] == 2
    assert list(places) == ["a_width_1", "a_width_2"]  # statements about it stay open


# ---- what is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"keys": {"width": "archs.width"}}, "grid.a.keys.width is 'archs.width', but archs is no group"),
        ({"keys": {"width": ["seed", "arch.size.x"]}}, "grid.a.keys.width is 'arch.size.x', but size is no group"),
        ({"keys": {"width": "seed.x"}}, "grid.a.keys.width is 'seed.x', but seed is no group"),
        ({"keys": {"width": []}}, "grid.a.keys.width should be at least one key, is empty"),
        ({"keys": {"width": 3}}, "grid.a.keys.width should be a text or a list, each a text, is 3"),
        ({"keys": {"depth": "seed"}}, "grid.a: values and keys should name the same columns, at least one"),
        ({"values": {}, "keys": {}}, "grid.a: values and keys should name the same columns, at least one"),
        ({"values": {"width": []}}, "grid.a.values.width should be at least one number or text, is empty"),
        ({"values": {"width": 3}}, "grid.a.values.width should be a list of numbers or texts, or {label: value}, is 3"),
        (
            {"values": {"width": None}},
            "grid.a.values.width should be a list of numbers or texts, or {label: value}, is",
        ),
        ({"values": {"width": [1, True]}}, "grid.a.values.width should be numbers or texts, has True"),
        ({"values": {"width": [None]}}, "grid.a.values.width should be numbers or texts, has None"),
        ({"values": {"width": {"x": [1]}}}, "grid.a.values.width should be numbers or texts, has [1]"),
        ({"values": {"width": ["8/255"]}}, "grid.a.values.width has '8/255', which cannot be part of a name (write"),
        ({"values": {"width": ["a b"]}}, "grid.a.values.width has 'a b', which cannot be part of a name: give"),
        ({"values": {"width": [0.1, "0_1"]}}, "grid.a.values.width has 0.1 and '0_1', both called 0_1: give"),
        ({"values": {"width": [1, 1.0]}}, "grid.a.values.width has 1 and 1.0, both called 1: give them labels"),
        (
            {"values": {"width": {1: 0.0625, 2: 1}}},
            "grid.a.values.width: 1 is the label of 0.0625 and the value of 2: an expression could mean either",
        ),
        ({"vals": {}}, "grid.a.vals is not a field (did you mean 'values'?): the fields are model, values, keys"),
        ({"model": "A_ad"}, "grid.a.model names 'A_ad' (did you mean 'A_adv'?): models has A_adv"),
        ({"model": 3}, "grid.a.model should be a text or {NAME: ...}, is 3"),
    ],
)
def test_a_wrong_grid_is_told_in_one_line(changes: Config, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        expand_grids({"models": {"A_adv": SPEC}, "grid": {"a": {**grid(width=[1, 2]), **changes}}})
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


@pytest.mark.parametrize("missing", ["model", "values", "keys"])
def test_a_field_that_a_grid_lacks_is_named(missing: str) -> None:
    fields = {key: value for key, value in grid(width=[1]).items() if key != missing}
    with pytest.raises(ConfigError, match=rf"^grid\.a\.{missing} is missing: it should be "):
        expand_grids({"grid": {"a": fields}})


@pytest.mark.parametrize(
    "column", ["eps", "seed", "error_top1", "gradient_l2_mean", "job", "steps", "image", "seconds"]
)
def test_a_column_of_results_is_no_column_of_a_grid(column: str) -> None:
    with pytest.raises(ConfigError, match=rf"^grid\.a\.values\.{column} is called like a column of results"):
        expand_grids({"grid": {"a": grid(keys={column: "seed"}, **{column: [1]})}})


@pytest.mark.parametrize("column", ["arch.width", "1st", "lambda"])
def test_a_column_is_a_word_that_expressions_can_have(column: str) -> None:
    with pytest.raises(ConfigError, match=rf"^grid\.a\.values\.{column} should have a name of letters, digits and _"):
        expand_grids({"grid": {"a": grid(keys={column: "seed"}, **{column: [1]})}})


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"models": {"a": SPEC}}, "grid.a should have a name of letters, digits and _ that no model has, is 'a'"),
        ({"grid": {"a-b": grid(width=[1])}}, "grid.a-b should have a name of letters, digits and _ that no model has"),
        ({"models": {"a_width_1": SPEC}}, "grid.a makes a_width_1, a name that is taken: call the grid something else"),
        (
            {"grid": {"a": grid(width=[1]), "a_width_1": grid(lr=[1])}},
            "grid.a makes a_width_1, a name that is taken: call the grid something else",
        ),
        (
            {"grid": {"a": grid(width=["1_lr_2"]), "a_width_1": grid(lr=[2])}},
            "grid.a_width_1 makes a_width_1_lr_2, a name that is taken: call the grid something else",
        ),
        (
            {"models": {"a_widht_1": {"arch": {"width": 3}}}},
            "models.a_widht_1 is no model (did you mean 'a_width_1'?): the models are a_width_1",
        ),
    ],
)
def test_a_name_is_taken_once(config: Config, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        expand_grids({"grid": {"a": grid(width=[1])}, **config})
    assert str(error.value).startswith(message) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "message"),
    [
        ("arch.widht", "models.a_w_1.arch.widht is not a field (did you mean 'width'?)"),
        ("sed", "models.a_w_1.sed is not a field (did you mean 'seed'?): the fields are dataset, arch, trainer, seed"),
    ],
)
def test_a_key_that_no_spec_has_is_refused_when_its_model_is_built(tiny: Compose, key: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        prepare_experiment({**tiny(), "grid": {"a": grid("target", {"w": key}, w=[1])}})
    assert str(error.value).startswith(message)


# ---- expressions

PLACES = {
    **{f"a_width_{width}": GridModel("a", {"width": str(width)}, {"width": width}) for width in (1, 2)},
    **{
        f"b_act_{act}_eps8_{label}": GridModel("b", {"act": act, "eps8": label}, {"act": act, "eps8": value})
        for act in ("elu", "relu6")
        for label, value in (("4", 4 / 255), ("8", 8 / 255))
    },
}


def asked(target: str, source: str, **conditions: float | str) -> Quantity:
    return Quantity("error_top1", target, (source,), ("fgsm",), tuple(conditions.items()))


@pytest.mark.parametrize(
    ("given", "meant"),
    [
        (asked("a", "X", width=2.0), asked("a_width_2", "X")),
        (asked("X", "a", width=1.0), asked("X", "a_width_1")),
        (asked("a", "a", width=2.0, eps=0.3), asked("a_width_2", "a_width_2", eps=0.3)),
        (asked("a", "b", eps=0.3, width=1.0, act="elu", eps8=8.0), asked("a_width_1", "b_act_elu_eps8_8", eps=0.3)),
        (asked("b", "b", act="relu6", eps8=4 / 255), asked("b_act_relu6_eps8_4", "b_act_relu6_eps8_4")),
        (asked("a_width_2", "X", eps=0.3), asked("a_width_2", "X", eps=0.3)),
        (asked("X", "Y", width=2.0), asked("X", "Y", width=2.0)),
    ],
)
def test_a_grid_and_its_values_name_a_model(given: Quantity, meant: Quantity) -> None:
    assert resolve(given, PLACES) == meant


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (asked("a", "X"), "asks about a without saying width: width is one of 1, 2"),
        (asked("X", "a", eps=0.3), "asks about a without saying width: width is one of 1, 2"),
        (asked("a", "X", width=3.0), "asks about a at width=3: width is one of 1, 2"),
        (asked("a", "X", width="two"), "asks about a at width=two: width is one of 1, 2"),
        (
            asked("a", "b", width=1.0, act="elu"),
            "asks about b without saying eps8: act is one of elu, relu6",
        ),
        (
            asked("b", "b", act="elu", eps8=5.0),
            "asks about b at act=elu, eps8=5: act is one of elu, relu6",
        ),
    ],
)
def test_values_that_name_no_model_are_answered_with_those_there_are(given: Quantity, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        resolve(given, PLACES)


def test_a_grids_name_stands_for_its_models_in_a_list() -> None:
    assert with_members(["X", "a"], PLACES) == ["X", "a_width_1", "a_width_2"]
    assert with_members(["a_width_2"], PLACES) == ["a_width_2"] and with_members(None, PLACES) is None


def test_a_model_that_stands_for_equal_ones_has_the_values_of_all() -> None:
    other = GridModel("c", {"width": "3", "depth": "9"}, {"width": 3, "depth": 9})
    aliases = {"a_width_1": "X", "c": "X", "a_width_2": "a_width_2"}
    found = columns_of({**PLACES, "c": other}, aliases)
    assert found == {"X": {"width": 1, "depth": 9}, "a_width_2": {"width": 2}}


# ---- experiments


def said(*checks: str) -> Config:
    return {"says": "A claim", "paper": "no numbers", "checks": list(checks)}


@pytest.fixture
def long(tiny: Compose) -> Config:
    """A listed model of 6 epochs, and a grid of the same model at 1, 2 and 6."""
    config = tiny("suite.fgsm.eps=[0.1,0.3]")
    return {**config, "grid": {"long": grid("target", {"passes": "trainer.epochs"}, passes=[1, 2, 6])}}


def test_an_experiment_has_a_grids_models(long: Config) -> None:
    experiment = prepare_experiment(long)
    assert list(experiment.specs) == experiment.sources == ["target", "long_passes_1", "long_passes_2"]
    assert [spec.epochs for spec in experiment.specs.values()] == [6, 1, 2]
    assert experiment.grid_values == {
        "target": {"passes": 6},
        "long_passes_1": {"passes": 1},
        "long_passes_2": {"passes": 2},
    }
    assert experiment.config == long


def test_sources_and_targets_may_be_grids(long: Config) -> None:
    experiment = prepare_experiment({**long, "sources": ["long_passes_2"], "targets": ["long"]})
    assert experiment.sources == ["long_passes_2"]
    assert experiment.targets == ["long_passes_1", "long_passes_2", "long_passes_6"]
    with pytest.raises(ConfigError, match=r"^targets names 'lon' \(did you mean 'long'\?\): the models are"):
        prepare_experiment({**long, "targets": ["lon"]})


def test_statements_about_a_grid_stand_though_one_of_its_models_is_left_out(long: Config) -> None:
    models = {**long["models"], "long_passes_1": None}
    claim = said("error(long, passes=1) < error(long, passes=2)")
    experiment = prepare_experiment({**long, "models": models, "sources": ["long"], "claims": {"c": claim}})
    assert list(experiment.specs) == ["target", "long_passes_2"]
    asked = [quantity.target for quantity in experiment.asked]
    assert asked == ["long_passes_1", "long_passes_2"]


def test_tables_and_claims_may_ask_about_grids(long: Config) -> None:
    columns = {"e": "error(long | target, fgsm, passes={row}, eps=0.1)"}
    shown = {"title": "t", "rows": {"1": "1", "6": "6"}, "columns": columns, "paper": None, "unit": "percent"}
    shown["best"] = "none"
    claim = said("error(long, passes=2) <= error(long | long, fgsm, passes=1, eps=0.3)")
    experiment = prepare_experiment({**long, "tables": {"t": shown}, "claims": {"c": claim}})
    table, eps = experiment.statements.tables["t"], (("eps", 0.1),)
    assert table.cell("1", "e").alone == Quantity("error_top1", "long_passes_1", ("target",), ("fgsm",), eps)
    assert table.cell("6", "e").alone == Quantity("error_top1", "target", ("target",), ("fgsm",), eps)  # listed so
    clean, attacked = experiment.statements.claims["c"].quantities
    assert clean == Quantity("error_top1", "long_passes_2", ("long_passes_2",), ("clean",))
    assert attacked == Quantity("error_top1", "long_passes_1", ("long_passes_1",), ("fgsm",), (("eps", 0.3),))


def test_a_figure_over_a_grid_has_a_point_for_each_of_its_values(long: Config) -> None:
    """With `values: null`, too: a model of the grid each, though nothing is measured yet."""
    figure = {"title": "f", "kind": "line", "x": "passes", "lines": {"long": "long"}, "unit": "percent"}
    figure["y"] = "error({line} | {line}, fgsm, passes={x}, eps=0.1)"
    (shown,) = prepare_experiment({**long, "figures": {"f": figure}}).statements.figures.values()
    assert list(shown.given) == [1, 2, 6]
    assert [q.target for q in shown.quantities] == ["long_passes_1", "long_passes_2", "target"]


def test_a_figures_values_are_those_of_the_grids_that_it_asks_about(long: Config) -> None:
    """Another grid's with the same column are not; nor have a histogram's bins any, whatever its axis is called."""
    other = grid("target", {"passes": "trainer.epochs"}, passes={"none": 0.5, "a": 3})
    norms = {
        "measurements": {"norms": {"name": "gradient_norms", "bins": {"low": 0, "high": 1, "number": 2, "log": False}}}
    }
    shown = {"title": "f", "kind": "line", "x": "passes", "lines": {"long": "long"}, "unit": "percent"}
    bins = {**shown, "kind": "histogram", "y": "gradient_l2_share({line}, passes=2)"}
    figures = {"f": {**shown, "y": "error({line}, passes={x})"}, "h": bins}
    every = {**long, **norms, "grid": {**long["grid"], "other": other}, "figures": figures}
    found = prepare_experiment(every).statements.figures
    assert list(found["f"].given) == [1, 2, 6] and found["h"].values is None


def test_a_scale_that_a_grids_values_do_not_fit_is_refused(long: Config) -> None:
    """Its values are known when the config is checked, not when the figure is read."""
    wide = grid("target", {"pool": "seed"}, pool=[0, 1])
    figure = {"title": "f", "kind": "line", "x": "pool", "lines": {"wide": "wide"}, "unit": "percent", "log_x": True}
    with pytest.raises(ConfigError, match=r"^figures\.f\.log_x should be false: values has no numbers above 0 alone$"):
        prepare_experiment(
            {**long, "grid": {"wide": wide}, "figures": {"f": {**figure, "y": "error({line}, pool={x})"}}}
        )


def test_the_worst_of_a_grids_sources_is_of_its_models(long: Config) -> None:
    claim = said("error(target | worst(long, target), fgsm, passes=1, eps=0.3) < 1")
    (worst,) = prepare_experiment({**long, "claims": {"c": claim}}).statements.claims["c"].quantities
    assert (worst.target, worst.sources) == ("target", ("long_passes_1", "target"))


@pytest.mark.parametrize(
    ("check", "message"),
    [
        ("error(long) < 1", "claims.c asks about long without saying passes: passes is one of 1, 2, 6"),
        ("error(long, passes=3) < 1", "claims.c asks about long at passes=3: passes is one of 1, 2, 6"),
        ("error(lang, passes=1) < 1", "claims.c asks about 'lang' (did you mean 'long'?): the models are"),
    ],
)
def test_a_wrong_question_about_a_grid_is_told_in_one_line(long: Config, check: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        prepare_experiment({**long, "claims": {"c": said(check)}})
    assert str(error.value).startswith(message)


def test_a_model_that_is_named_in_full_may_be_said_to_have_its_value(long: Config) -> None:
    measured = {"measurement": {**long["measurement"], "cells": "asked"}}
    config = {**long, **measured, "grid": {"long": grid("target", {"passes": "trainer.epochs"}, passes=[1, 2])}}

    def asked(check: str) -> tuple[list[tuple[str, str]], list[str]]:
        experiment = prepare_experiment({**config, "claims": {"c": said(check)}})
        cells = [(source, target) for _, label, source, target, _, _ in experiment.cells if label != "clean"]
        return cells, list(experiment.expected.holes(experiment.statements))

    full = "long_passes_2 | long_passes_2, fgsm, eps=0.3"
    assert asked(f"error({full}, passes=2) < 1") == ([("long_passes_2", "long_passes_2")], [])
    assert asked("error(target | long_passes_2, fgsm, eps=0.3, passes=2) < 1") == ([("long_passes_2", "target")], [])
    cells, told = asked(f"error({full}, passes=1) < 1")
    assert cells == [] and told[0].startswith(
        "claims.c: 1 of 1 numbers will not be measured, such as error(long_passes_2"
    )


def test_a_grids_values_are_in_the_configs_hash(long: Config) -> None:
    listed = {**long, "grid": {}, "models": expand_grids(long)[0]["models"]}
    assert prepare_experiment(listed).specs.keys() == prepare_experiment(long).specs.keys()
    assert prepare_experiment(listed).config_hash != prepare_experiment(long).config_hash


def test_rows_of_a_run_carry_the_values(long: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the target; where it is of no grid, those of the source. No other number depends on the grid."""
    monkeypatch.setattr("epsball.output.matrix.draw_heatmap", lambda rows, path: path.write_bytes(b"png"))
    monkeypatch.setattr("epsball.output.matrix.draw_error_by_eps", lambda rows, path: False)
    config = {
        **long,
        "outputs": str(tmp_path),
        "grid": {"long": grid("target", {"passes": "trainer.epochs"}, passes=[1, 2])},
    }
    config["claims"] = {"c": said("error(long | target, fgsm, passes=2, eps=0.3) <= 1")}
    listed = {**config, "grid": {}, "claims": {}, "models": expand_grids(config)[0]["models"]}
    found = {}
    for name, each in (("grid", config), ("listed", listed)):
        run_experiments(name, [[prepare_experiment(each)]], tmp_path / name, [], Stop())
        found[name] = pd.read_csv(tmp_path / name / "results.csv")
    rows = found["grid"]
    passes = {"long_passes_1": 1.0, "long_passes_2": 2.0}
    expected = rows["target"].map(passes).fillna(rows["source"].map(passes))
    pd.testing.assert_series_equal(rows["passes"], expected, check_names=False)
    assert sorted(rows.loc[rows["target"] == "target", "passes"].dropna()) == [1, 1, 2, 2]  # two eps on two sources
    pd.testing.assert_frame_equal(rows.drop(columns="passes"), found["listed"], check_exact=True)
    assert "passes" not in found["listed"]
    (claim,) = pd.read_csv(tmp_path / "grid" / "claims.csv").to_dict(orient="records")
    number = rows.query("target == 'long_passes_2' and source == 'target' and eps == 0.3")["error_top1"].item()
    assert claim["left"] == number
    assert json.loads((tmp_path / "grid" / "run.json").read_text())["status"] == "done"
