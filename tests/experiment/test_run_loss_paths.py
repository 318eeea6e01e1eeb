"""A run with loss paths beside the transfer matrix: what tables, claims and figures find, and rows given again."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from epsball.build import ConfigError
from epsball.collect import table as collect
from epsball.experiment.joint import prepare_parts
from epsball.experiment.prepare import prepare_experiment
from epsball.experiment.record import claim_directory
from epsball.experiment.run import run_experiments
from epsball.results.paired import unpacked_bits
from epsball.runtime.progress import Stop

Config = dict[str, Any]
STEPS, R, IMAGES = 6, 3, 10
PATHS = {
    **{"name": "loss_paths", "attack": "pgd", "sources": ["A"], "images": IMAGES, "restarts": R, "steps": [2, STEPS]},
    **{"drawn": 2, "paths": True, "bins": {"low": 0, "high": 20, "number": 4, "log": False}},
}
WORST = f"pgd, steps={STEPS}, restarts={R}"
TABLES = {
    "errors": {
        **{"title": "Errors", "unit": "percent", "best": "none", "paper": None, "rows": {"A": "A"}},
        "columns": {
            "FGSM": "error({row} | {row}, fgsm)",
            "PGD": f"error({{row}} | {{row}}, {WORST})",
            "named": f"error({{row}} | {{row}}, {WORST}, measurement=paths)",
            "one start": "error({row} | {row}, pgd, steps=2, restarts=1)",
            "black-box": f"error(B | {{row}}, {WORST}, worst_for=target)",
            "clean": "error({row})",
        },
    }
}
CLAIMS = {
    "paired": {
        "says": "More is worse",
        "paper": "",
        "checks": [f"error(A | A, {WORST}) >= error(A | A, pgd, steps=2, restarts=1)"],
    },
    "fewer": {"says": "Than clean", "paper": "", "checks": [f"error(A | A, {WORST}) >= error(A)"]},
    "plateau": {
        **{"says": "The loss plateaus", "paper": ""},
        "checks": [
            f"path_loss_mean(A | A, pgd, step={STEPS}) - path_loss_mean(A | A, pgd, step=5)"
            " < 0.9 * path_loss_mean(A | A, pgd, step=5) - 0.9 * path_loss_mean(A | A, pgd, step=0)"
        ],
    },
    "maxima": {
        **{"says": "Maxima lie apart", "paper": ""},
        "checks": [
            "maxima_distance(A | A, pgd) > 0 * ball_distance(A | A, pgd)",
            "loss_outlier_share(A | A, pgd) < 0.5",
        ],
    },
}
FIGURES = {
    "histogram": {
        **{"title": "Final losses", "kind": "histogram", "x": "loss", "unit": "percent", "lines": {"A": "A"}},
        **{"y": "loss_share({line} | {line}, pgd, image={panel})", "panels": {"first": "0", "second": "1"}},
    },
    "curves": {
        **{"title": "Loss by step", "kind": "line", "x": "step", "unit": "value", "lines": {"A": "A"}},
        **{"y": "path_loss({line} | {line}, pgd, image=0, step={x})", "each": "restart"},
    },
}


@pytest.fixture(scope="module")
def base(tiny: Callable[..., Config]) -> Config:
    """Models A and B under FGSM and PGD, loss paths of A beside the matrix."""
    config = tiny(
        "+attack@suite.pgd=pgd", f"suite.pgd.steps={STEPS}", "suite.pgd.step_share=0.3", "measurement.cells=asked"
    )
    spec = config["models"].pop("target")
    config["models"] = {"A": spec, "B": {**spec, "seed": 1}}
    return {**config, "measurements": {"paths": PATHS}, "tables": TABLES, "claims": CLAIMS, "figures": FIGURES}


def run(config: Config, outputs: Path) -> Path:
    """Run a config; its directory."""
    parts, joint = prepare_parts([[{**config, "outputs": str(outputs)}]], config)
    directory = claim_directory("run", parts, str(outputs / "run"), None)
    run_experiments("run", parts, directory, [], Stop(), joint)
    return directory


def read(path: Path) -> pd.DataFrame:
    return pd.read_csv(path, keep_default_na=False, na_values=[""])


def test_a_run_states_what_its_loss_paths_are(base: Config, tmp_path: Path) -> None:
    top = run(base, tmp_path)
    rows, compared = read(top / "results.csv"), read(top / "comparison.csv").set_index("column")["ours"]
    matrix = rows[rows["measurement"] == "transfer_matrix"]
    assert matrix[["source", "target", "attack"]].values.tolist() == [["A", "A", "fgsm"]]  # nothing more is asked of it
    own = rows[(rows["measurement"] == "paths") & rows["error_top1"].notna()]
    assert len(own) == 2 * (2 + 3) and set(own["n"]) == {IMAGES}
    white, black = (own[(own["target"] == name) & (own["steps"] == STEPS)] for name in "AB")
    worst = 100 * float(white.loc[white["restarts"] == R, "error_top1"].iloc[0])
    assert compared["PGD"] == compared["named"] == pytest.approx(worst)
    assert compared["black-box"] == pytest.approx(100 * float(black["error_top1"].iloc[-1]))
    assert compared["FGSM"] == pytest.approx(100 * float(matrix["error_top1"].iloc[0]))

    claims = read(top / "claims.csv").set_index("claim")
    assert (claims.loc["paired", "paired"], claims.loc["fewer", "paired"]) == ("yes", "yes")
    assert (claims["check_verdict"] != "not measured").all() and len(claims) == 5
    points = read(top / "figures.csv")
    histogram, curves = (points[points["figure"] == name] for name in ("histogram", "curves"))
    assert histogram.groupby("panel", sort=False)["y"].sum().tolist() == pytest.approx([100, 100])
    assert list(curves["each"]) == [r for r in range(R) for _ in range(STEPS + 1)]
    paths = rows[rows["path_loss"].notna() & (rows["image"] == 0)].sort_values(["restart", "step"])
    assert list(curves["y"]) == pytest.approx(list(paths["path_loss"]))
    report = (top / "report.md").read_text()
    for title in ("## Error by steps and starts", "## Maxima of several starts", "## Loss by step", "## Final losses"):
        assert title in report
    assert f"One seed: a curve for each restart, {R} of them." in report

    bits = read(top / "mistakes.csv").set_index("identity")["mistakes_top1"]
    for _, row in own.iterrows():
        assert unpacked_bits(bits[row["identity"]], IMAGES).mean() == pytest.approx(row["error_top1"])


def test_rows_of_a_finished_run_are_found_again_without_models(base: Config, tmp_path: Path) -> None:
    first = run(base, tmp_path / "first")
    given = {**base, "rows": [str(first / "results.csv")], "missing": "skip"}
    again = run(given, tmp_path / "again")
    assert not list((tmp_path / "again").rglob("model.safetensors"))
    for file in ("results.csv", "mistakes.csv", "comparison.csv", "claims.csv", "figures.csv"):
        pd.testing.assert_frame_equal(read(again / file), read(first / file))


def test_collected_a_cell_is_that_of_most_steps_and_starts(
    base: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    top = run(base, tmp_path)
    rows = read(top / "results.csv")
    last = rows[(rows["measurement"] == "paths") & (rows["steps"] == STEPS) & (rows["restarts"] == R)]
    worst = {target: own["error_top1"].iloc[-1] for target, own in last[last["error_top1"].notna()].groupby("target")}
    assert collect.main([str(top)]) == 0
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "| pgd" in line)
    cells = [cell.strip() for cell in line.strip("|").split("|")]
    assert cells[-2:] == [f"{100 * worst[target]:.1f}" for target in "AB"]
    promised = prepare_experiment(base).cells
    assert [cell[1:] for cell in promised if cell[1] == "paths"] == [("paths", "A", t, "pgd", 0.3) for t in "AB"]


def check(base: Config, check: str, cells: str = "all") -> None:
    claims = {"c": {"says": "s", "paper": "p", "checks": [check]}}
    matrix = {"name": "transfer_matrix", "cells": cells}
    prepare_experiment({**base, "measurement": matrix, "tables": {}, "figures": {}, "claims": claims})


def test_of_an_error_that_both_measure_a_statement_says_whose(base: Config) -> None:
    with pytest.raises(ConfigError) as caught:
        check(base, "error(A | A, pgd) < 1")
    assert str(caught.value) == (
        "measurements: transfer_matrix, paths all measure error(A | A, pgd): keep one of them, or say "
        "measurement=transfer_matrix"
    )
    for said in (
        "error(A | A, fgsm) < 1",
        "error(A | A, pgd, measurement=transfer_matrix) < 1",
        "final_loss(A | A, pgd) > 0",
    ):
        check(base, said)
    check(base, f"error(A | A, {WORST}) < 1")


def test_what_cannot_be_followed_is_refused_before_anything_is_trained(base: Config) -> None:
    wrong = {**base, "measurements": {"paths": {**PATHS, "attack": "fgsm"}}}
    with pytest.raises(ConfigError) as caught:
        prepare_experiment(wrong)
    message = "attack names 'fgsm': it should be a gradient attack with a random start and keep: last"
    assert str(caught.value) == f"measurements.paths.{message}"
