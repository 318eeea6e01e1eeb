"""README's own grid, smaller, run and collected."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
from conftest import ROOT

from epsball.collect import table as collect

GRID = ("-m", "arch=mnist_a,mnist_b", "trainer=standard,fgsm_adv", "seed=0,1")
SMALL = (
    *("scale=smoke", "dataset.train_size=16", "dataset.test_size=10", "suite=fgsm", "attack=none", "device=cpu"),
    *("threads=1", "trainer.epochs=1", "models.natural.trainer.epochs=1", "models.holdout.trainer.epochs=1"),
)


def test_readme_grid_is_collected_without_holes(tmp_path: Path, capsys) -> None:
    """Though `natural` is `target` where the trainer is standard, and so is listed once there."""
    assert " ".join(GRID[:4]) in (ROOT / "README.md").read_text()
    command = [sys.executable, ROOT / "run.py", *GRID, *SMALL]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    outputs = tmp_path / "outputs" / "transfer"
    records = [json.loads(path.read_text()) for path in outputs.rglob("run.json")]
    assert len(records) == 8
    for record in records:
        assert ("natural" in record["aliases"][0]) == (record["settings"]["trainer"] == "standard")
    assert collect.main([str(outputs)]) == 0
    text = capsys.readouterr().out
    assert "missing" not in text and "hole" not in text and "of 2 seeds" not in text
    body = [line for line in text.splitlines() if line.startswith("| arch=")]
    assert all(("= target" in line) == ("trainer=standard" in line) for line in body) and len(body) >= 14
    rows = pd.read_csv(outputs / "collected.csv")
    assert rows.groupby("job")["seed"].nunique().tolist() == [2] * 4
