"""Models side by side: the same bits as one after another, each trained once."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from epsball import plan, workshop
from epsball.progress import Stop


@pytest.fixture
def three_models(tmp_path: Path, tiny: Callable[..., dict[str, Any]]) -> Callable[[str], plan.Experiment]:
    """Two independent models and one that trains on the first as its source, in an output folder of the given name."""

    def prepared(folder: str, workers: int = 1) -> plan.Experiment:
        config = tiny(f"workers={workers}", "threads=1", "models=alone")
        target = config["models"]["target"]
        other = {**target, "seed": 7}
        adversarial = {
            "name": "adversarial",
            "attack": {**next(iter(config["suite"].values()))},
            "placement": "append",
            "count": None,
            "weight": 1.0,
            "passes": "one",
            "eps_distribution": "fixed",
            "delay": 0,
            "crafting_mode": "eval",
            "include_self": True,
            "source_choice": "random",
            "label_smoothing": 0.0,
        }
        third = {**target, "trainer": {**target["trainer"], "objective": adversarial, "sources": {"first": target}}}
        models = {"target": target, "other": other, "third": third}
        return plan.prepare({**config, "models": models, "outputs": str(tmp_path / folder)})

    return prepared


def test_side_by_side_is_bit_for_bit_as_alone(
    tmp_path: Path, three_models: Callable[..., plan.Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()
    try:
        alone = workshop.Workshop(three_models("alone"), Stop())
        alone.models()
        together = workshop.Workshop(three_models("together", workers=2), Stop())
        together.train_side_by_side()
    finally:
        torch.set_num_threads(threads)
    files = sorted(p.relative_to(tmp_path / "alone") for p in (tmp_path / "alone").rglob("model.safetensors"))
    assert len(files) == 3
    for file in files:
        assert (tmp_path / "alone" / file).read_bytes() == (tmp_path / "together" / file).read_bytes()

    monkeypatch.setattr(workshop, "fit", None)  # nothing is left to train
    monkeypatch.setattr(workshop, "ProcessPoolExecutor", None)
    models = together.models()
    assert set(models) == {"target", "other", "third"} and all(r["reused"] for r in together.records.values())


def test_sources_come_before_the_models_that_need_them(three_models: Callable[..., plan.Experiment]) -> None:
    places = [place for place, _ in workshop.every_plan(three_models("order").plans)]
    assert places == [("target",), ("other",), ("third", "first"), ("third",)]


def test_a_stop_ends_the_workers_with_their_state_saved(
    tmp_path: Path, three_models: Callable[..., plan.Experiment]
) -> None:
    stop = Stop()
    stop.signum = 15
    with pytest.raises(KeyboardInterrupt):
        workshop.Workshop(three_models("stopped", workers=2), stop).train_side_by_side()
    assert not list((tmp_path / "stopped").rglob("manifest.json"))
