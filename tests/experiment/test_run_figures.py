"""Figures of whole runs, in process, on networks that train in a blink: what is measured for them, files, sections."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from epsball.experiment.joint import prepare_parts
from epsball.experiment.record import claim_directory
from epsball.experiment.run import run_experiments
from epsball.results.intervals import wilson
from epsball.runtime.progress import Stop

Config = dict[str, Any]
BINS = {"low": 1e-6, "high": 10, "number": 5, "log": True}


def figure(y: str, **changes: Any) -> Config:
    fields = {"title": f"Figure of {y}", "kind": "line", "x": "eps", "y": y, "unit": "value", "lines": {"A": "A"}}
    return {**fields, **changes}


FIGURES = {
    "by_eps": figure(
        "error({line} | {source}, fgsm, eps={x})", unit="percent", lines={"A": {"line": "A", "source": "B"}}
    ),
    "bars": figure(
        "error({line} | {line}, {x}, eps=0.3)",
        **{"kind": "bar", "x": "attack", "values": {"FGSM": "fgsm"}, "lines": {"A": "A", "B": "B"}, "unit": "percent"},
        **{"paper": {"A": [71.4]}, "published_on": "mnist"},
    ),
    "loss": figure("training_loss({line}, epoch={x})", x="epoch", lines={"A": "A", "B": "B"}),
    "norms": figure("gradient_l2_share({line})", kind="histogram", x="gradient_l2", unit="percent", log_x=True),
    "absent": figure("training_adversarial_error({line}, epoch={x})", x="epoch", values=[1], title="Not measured"),
}


@pytest.fixture(scope="module")
def base(tiny: Callable[..., Config]) -> Config:
    """Models A and B, FGSM at two eps, only what is asked about; training curves and histograms beside it."""
    config = tiny("suite.fgsm.eps=[0.1,0.3]", "measurement.cells=asked")
    spec = config["models"].pop("target")
    config["models"] = {"A": spec, "B": {**spec, "seed": 1}}
    config["measurements"] = {"curves": {"name": "training_curves"}, "norms": {"name": "gradient_norms", "bins": BINS}}
    return config


@pytest.fixture(autouse=True)
def no_matrix(monkeypatch: pytest.MonkeyPatch) -> None:
    """The transfer matrix is drawn elsewhere."""
    monkeypatch.setattr("epsball.output.matrix.draw_heatmap", lambda rows, path: path.write_bytes(b"png"))
    monkeypatch.setattr("epsball.output.matrix.draw_error_by_eps", lambda rows, path: False)


def run(configs: list[list[Config]], outputs: Path, whole: Config) -> tuple[Path, list[Path]]:
    """Run parts, each a list of configs of one seed; the run directory and the files that were said to be written."""
    there = [[{**config, "outputs": str(outputs)} for config in seeds] for seeds in configs]
    parts, joint = prepare_parts(there, whole)
    directory = claim_directory("run", parts, str(outputs / "run"), None)
    return directory, run_experiments("run", parts, directory, [], Stop(), joint).files


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def test_a_run_measures_writes_draws_and_shows_its_figures(base: Config, tmp_path: Path) -> None:
    config = {**base, "figures": FIGURES}
    top, files = run([[config]], tmp_path, config)
    points, rows = read(top / "figures.csv"), read(top / "results.csv")
    images = {path.name for path in top.glob("figure_*.png")}
    assert images == {f"figure_{name}.png" for name in FIGURES if name != "absent"}
    assert {path.name for path in files} >= {*images, "figures.csv"} and len(set(files)) == len(files)

    attacked = rows[rows["attack"] == "fgsm"][["source", "target", "eps"]].values.tolist()
    assert attacked == [["B", "A", 0.1], ["A", "A", 0.3], ["B", "A", 0.3], ["B", "B", 0.3]]  # what was asked about
    by_eps = points[points["figure"] == "by_eps"]
    own = rows[(rows["source"] == "B") & (rows["target"] == "A")]
    assert list(by_eps["x"].astype(float)) == [0.1, 0.3] and list(by_eps["y"]) == pytest.approx(
        list(100 * own["error_top1"])
    )
    ends = [wilson(round(40 * error), 40) for error in own["error_top1"]]
    assert by_eps[["low", "high"]].values.tolist() == [pytest.approx([100 * end for end in pair]) for pair in ends]
    bars = points[points["figure"] == "bars"]
    assert list(bars["x"]) == ["FGSM", "FGSM"] and list(bars["paper"].dropna()) == [71.4]
    assert list(bars["published_on"]) == ["mnist"] * 2

    loss = points[points["figure"] == "loss"]
    assert list(loss["x"].astype(float)) == [1, 2, 3, 4, 5, 6] * 2 and list(loss["line"]) == ["A"] * 6 + ["B"] * 6
    curves = rows[rows["measurement"] == "curves"].set_index(["target", "epoch"])["training_loss"]
    assert list(loss["y"]) == pytest.approx(list(curves))
    norms = points[points["figure"] == "norms"]
    assert len(norms) == 5 and norms["y"].sum() == pytest.approx(100)

    page, html = (top / "report.md").read_text(), (top / "report.html").read_text()
    for name, spec in FIGURES.items():
        assert spec["title"] in page and (f"(figure_{name}.png)" in page) == (name != "absent")
    assert "Nothing of it was measured." in page and html.count("data:image/png") == len(images) + 1
    assert "hollow: the paper's values, of another data set, mnist" in page


def test_figures_are_over_seeds_and_stand_between_tables_and_claims(base: Config, tmp_path: Path) -> None:
    table = {"title": "A table", "rows": {"A": "A"}, "columns": {"e": "error({row})"}, "paper": None}
    stated: Config = {"tables": {"t": {**table, "unit": "percent", "best": "none"}}}
    stated["claims"] = {"c": {"says": "A claim", "paper": "none", "checks": ["error(A) < 1"]}}
    stated["figures"] = {"by_eps": FIGURES["by_eps"]}
    seeds = [{**base, **stated, "measurements": {}}]
    seeds += [
        {
            **seeds[0],
            "seed": 1,
            "models": {name: {**spec, "seed": 2 + spec["seed"]} for name, spec in base["models"].items()},
        }
    ]
    top, _ = run([seeds], tmp_path, seeds[0])
    points, rows = read(top / "figures.csv"), read(top / "results.csv")
    errors = rows[rows["attack"] == "fgsm"].groupby("eps")["error_top1"]
    assert list(points["seeds"]) == [2, 2]
    assert list(points["y"]) == pytest.approx(list(100 * errors.mean()))
    assert list(points["sd"]) == pytest.approx(list(100 * errors.std()))
    page = (top / "report.md").read_text()
    titles = ["## A table", "## Figure of", "## Claims", "## Every number"]
    places = [page.index(title) for title in titles]
    assert places == sorted(places)
    assert "With 95 % intervals, over 2 seeds." in page


def test_a_run_of_parts_draws_figures_of_all_their_rows(base: Config, tmp_path: Path) -> None:
    """What the whole run states is over the rows of all parts, and shown once; a part has its own beside it."""
    alone = {**base, "measurements": {}, "measurement": {"name": "transfer_matrix", "cells": "all"}, "sources": ["B"]}
    parts = [
        [{**alone, "experiment": f"part{i}", "suite": {"fgsm": {**base["suite"]["fgsm"], "eps": eps}}}]
        for i, eps in enumerate(([0.1], [0.3]))
    ]
    parts[0][0]["figures"] = {"own": FIGURES["by_eps"]}
    claim = {"says": "A joint claim", "paper": "none", "checks": ["error(A | B, fgsm, eps=0.1) <= 1"]}
    top, files = run(parts, tmp_path, {"figures": {"joint": FIGURES["by_eps"]}, "claims": {"c": claim}})
    points = read(top / "figures.csv")
    assert points[["part", "figure", "x"]].fillna("").values.tolist() == [
        *(["", "joint", x] for x in (0.1, 0.3)),
        ["part0", "own", 0.1],
    ]
    assert top / "figure_joint.png" in files and (top / "part0" / "figure_own.png").is_file()
    assert not (top / "part1" / "figures.csv").exists()
    page = (top / "report.md").read_text()
    assert "(figure_joint.png)" in page and "(part0/figure_own.png)" in page
    assert page.count("# Claims") == 1 and page.count("A joint claim") == 1


def test_a_run_without_figures_has_no_file_of_them(base: Config, tmp_path: Path) -> None:
    config = {**base, "measurements": {}, "claims": {"c": {"says": "s", "paper": "p", "checks": ["error(A) < 1"]}}}
    top, _ = run([[config]], tmp_path, config)
    assert (top / "claims.csv").exists() and not list(top.glob("figure*"))


def test_another_figure_is_another_experiment(base: Config) -> None:
    found = [
        prepare_parts([[{**base, "figures": figures}]], {})[0][0][0].config_hash
        for figures in ({}, {"f": FIGURES["by_eps"]}, {"f": {**FIGURES["by_eps"], "log_y": True}})
    ]
    assert len(set(found)) == 3
