"""Models side by side: the bits of one after another, each trained once; longer trainings go on from shorter ones."""

import json
import logging
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from filelock import FileLock
from torch import nn

from epsball import plan, workshop
from epsball.progress import Interrupted, Stop
from epsball.store import LAST, Slot, Store
from epsball.workshop import Workshop

Config = dict[str, Any]


@pytest.fixture
def three_models(tmp_path: Path, tiny: Callable[..., dict[str, Any]]) -> Callable[[str], plan.Experiment]:
    """Two independent models and one that trains on the first as its source, in an output folder of the given name."""

    def prepared(folder: str, workers: int = 1, seed: int = 0, threads: str = "1") -> plan.Experiment:
        config = tiny(f"workers={workers}", f"threads={threads}", "models=alone", f"seed={seed}")
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
        one = three_models("alone")
        Workshop([one], Stop()).models(one)
        both = [three_models("together", workers=2, seed=seed) for seed in (0, 1)]
        together = Workshop(both, Stop())
        together.train_side_by_side()
    finally:
        torch.set_num_threads(threads)
    files = sorted(p.relative_to(tmp_path / "alone") for p in (tmp_path / "alone").rglob("model.safetensors"))
    assert len(files) == 3
    for file in files:
        assert (tmp_path / "alone" / file).read_bytes() == (tmp_path / "together" / file).read_bytes()

    monkeypatch.setattr(workshop, "fit", None)  # nothing is left to train
    monkeypatch.setattr(workshop, "ProcessPoolExecutor", None)
    for seed, experiment in enumerate(both):
        assert list(together.models(experiment)) == ["target", "other", "third"]
        records = dict(together.records(experiment))
        named = {f"{name} of seed {seed}": planned.key for name, planned in experiment.plans.items()}
        assert {name: record["fingerprint"] for name, record in records.items() if "source" not in name} == named
        assert all(record["reused"] for record in records.values())
    keys = {planned.key for experiment in both for planned in experiment.plans.values()}
    assert {json.loads(path.read_text())["fingerprint"] for path in (tmp_path / "together").rglob("spec.json")} == keys
    assert len(keys) == 5  # `other` has a seed of its own, and is one model


def test_sources_come_before_the_models_that_need_them(three_models: Callable[..., plan.Experiment]) -> None:
    places = [place for place, _ in workshop.every_plan(three_models("order").plans)]
    assert places == [("target",), ("other",), ("third", "first"), ("third",)]


def test_workers_share_the_threads_out(
    tmp_path: Path, three_models: Callable[..., plan.Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(workshop.torch, "get_num_threads", lambda: 7)
    Workshop([three_models("shared", workers=2, threads="null")], Stop()).train_side_by_side()
    assert {json.loads(path.read_text())["threads"] for path in (tmp_path / "shared").rglob("spec.json")} == {3}


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", False), ("bf16", True)])
def test_a_worker_scores_its_model_in_the_precision_of_evaluations(
    precision: str, allowed: bool, tmp_path: Path, tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, original = [], Workshop.clean_mistakes

    def recording(shop: Workshop, *arguments: Any) -> Any:
        found.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
        return original(shop, *arguments)

    monkeypatch.setattr(Workshop, "clean_mistakes", recording)
    config = tiny(f"precision={precision}", "trainer.epochs=1", f"outputs={tmp_path}")
    workshop.train_in_worker([config], 0, ("target",))
    assert found == [(allowed, allowed)]


@pytest.mark.parametrize("deterministic", [False, True])
def test_the_config_chooses_the_kernels(
    deterministic: bool, tmp_path: Path, tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    chosen: list[tuple[torch.device, bool]] = []
    monkeypatch.setattr(workshop, "choose_kernels", lambda *given: chosen.append(given))
    Workshop([plan.prepare(tiny(f"deterministic={deterministic}", f"outputs={tmp_path}"))], Stop())
    assert chosen == [(torch.device("cpu"), deterministic)]


def test_a_stop_ends_the_workers_with_their_state_saved(
    tmp_path: Path, three_models: Callable[..., plan.Experiment]
) -> None:
    stop = Stop()
    stop.signum = 15
    with pytest.raises(KeyboardInterrupt):
        workshop.Workshop([three_models("stopped", workers=2)], stop).train_side_by_side()
    assert not list((tmp_path / "stopped").rglob("manifest.json"))


# ---- a longer training goes on where a shorter one ends


SMALL = (*(word for word in TINY if not word.startswith(("arch", "trainer"))), "arch=mnist_d")


@pytest.fixture
def courses(compose: Callable[..., Config], tmp_path: Path) -> Callable[..., plan.Experiment]:
    """`courses(folder, {name: epochs}, *overrides)`: an experiment on one network with dropout, trained that long."""

    def prepared(folder: str, epochs: dict[str, float], *overrides: str, **fields: Any) -> plan.Experiment:
        config = compose(*SMALL, *overrides, f"outputs={tmp_path / folder}")
        spec = config["models"]["target"]
        source = compose(*SMALL, "trainer=standard", "trainer.epochs=1")["models"]["target"]
        spec["trainer"]["sources"] = {name: {**source, "seed": 9} for name in spec["trainer"]["sources"]}
        models = {n: {**spec, "trainer": {**spec["trainer"], **fields, "epochs": e}} for n, e in epochs.items()}
        return plan.prepare({**config, "models": models})

    return prepared


def waves(*experiments: plan.Experiment) -> list[set[str]]:
    """The names of the models that could train at one time, in order."""
    names = {planned.key: place[-1] for e in experiments for place, planned in workshop.every_plan(e.plans)}
    plans = [planned for e in experiments for _, planned in workshop.every_plan(e.plans)]
    order, found = TopologicalSorter(Workshop(experiments, Stop()).needs(plans)), []
    order.prepare()
    while order.is_active():
        ready = order.get_ready()
        found.append({names[key] for key in ready})
        order.done(*ready)
    return found


def test_side_by_side_each_model_waits_for_its_sources_and_for_the_training_it_goes_on_from(
    courses: Callable[..., plan.Experiment], three_models: Callable[..., plan.Experiment]
) -> None:
    assert waves(courses("order", {"long": 3.0, "short": 1.0, "middle": 2.0})) == [{"short"}, {"middle"}, {"long"}]
    of_sources = waves(three_models("order"))
    assert [len(wave) for wave in of_sources] == [2, 1]
    assert of_sources[1] == {"third"}


def test_what_the_store_has_already_is_not_waited_for(courses: Callable[..., plan.Experiment]) -> None:
    one = courses("order", {"long": 2.0, "short": 1.0})
    shop = Workshop([one], Stop())
    for name in ("short", "long"):
        assert shop.needs([one.plans[name]]) == {one.plans[name].key: []}


def test_the_longest_chain_of_models_begins_first() -> None:
    needs = {"ens": ["a", "c"], "a": [], "b": [], "ens_12": ["ens"], "c": [], "forest": []}
    epochs = {"a": 4.0, "b": 6.0, "c": 0.5, "ens": 2.0, "ens_12": 3.0, "forest": 0.0}
    left = workshop.epochs_left(needs, epochs)
    assert left == {"a": 9.0, "b": 6.0, "c": 5.5, "ens": 5.0, "ens_12": 3.0, "forest": 0.0}


def test_workers_begin_with_what_most_waits_for(
    three_models: Callable[..., plan.Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    """`third` needs a source, so that one is begun before the other models, which are as long."""
    begun: list[tuple[str, ...]] = []

    def submit(pool: ProcessPoolExecutor, _: object, configs: object, experiment: int, place: tuple[str, ...]) -> Any:
        begun.append(place)
        done: Future[str] = Future()
        done.set_result("trained")
        return done

    one = three_models("order", workers=2)
    one = replace(one, plans={name: one.plans[name] for name in ("other", "third", "target")})
    monkeypatch.setattr(ProcessPoolExecutor, "submit", submit)
    Workshop([one], Stop()).train_side_by_side()
    assert begun == [("target",), ("other",), ("third",)]


@pytest.fixture
def began(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """At which step each model's training began, by its name."""
    found: dict[str, int] = {}
    original = workshop.fit

    def watched(*arguments: Any) -> Any:
        control = arguments[-1]
        found[control.title] = control.state["step"] if control.state else 0
        return original(*arguments)

    monkeypatch.setattr(workshop, "fit", watched)
    return found


def trained(*experiments: plan.Experiment) -> dict[str, Path]:
    """The folders of all models, trained in one run, by name."""
    shop = Workshop(experiments, Stop())
    for experiment in experiments:
        shop.models(experiment)
    plans = {name: planned for experiment in experiments for name, planned in experiment.plans.items()}
    return {name: shop.store.path(planned.label, planned.key) for name, planned in plans.items()}


def same(one: Path, other: Path) -> bool:
    """Whether two models have the same bits and the same learning curve."""
    return all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in ("model.safetensors", "training.csv")
    )


COURSES = {
    "standard": ("trainer=standard",),
    "its own examples": ("trainer=fgsm_adv",),
    "sources at random": ("trainer=ensemble_adv",),
    "exponential schedule": ("trainer=standard", "+trainer.schedule={name:exponential,gamma:0.5,every:1}"),
    "augmented": ("trainer=standard", "trainer.augment={shift:2,crop:0.9,flip:false}"),
}
STEPS = 8  # of an epoch: 64 images by 8


@pytest.mark.parametrize("kind", COURSES)
def test_twelve_epochs_from_six_are_twelve_from_scratch(
    courses: Callable[..., plan.Experiment], began: dict[str, int], kind: str
) -> None:
    line = (*COURSES[kind], "trainer.batch_size=8")
    together = courses("together", {"long": 2, "longest": 3, "short": 1}, *line)
    network = together.plans["long"].network
    assert any(isinstance(module, nn.Dropout) and module.p > 0 for module in network.modules())
    assert len({planned.course for planned in together.plans.values()}) == 1 != together.plans["long"].course
    folders = trained(together)
    assert {name: began[name] for name in together.plans} == {"long": STEPS, "longest": 2 * STEPS, "short": 0}
    began.clear()
    for name, epochs in (("long", 2), ("longest", 3)):
        alone = trained(courses(f"alone_{name}", {name: epochs}, *line))[name]
        assert began[name] == 0 and alone.name == folders[name].name
        assert same(alone, folders[name])
        assert not (folders[name] / LAST).exists()
    assert not same(folders["long"], folders["longest"])


def test_a_longer_training_in_another_part_goes_on_too(
    courses: Callable[..., plan.Experiment], began: dict[str, int]
) -> None:
    line = ("trainer=fgsm_adv", "trainer.batch_size=8")
    folders = trained(courses("parts", {"short": 1}, *line), courses("parts", {"long": 2}, *line))
    assert began == {"short": 0, "long": STEPS}
    assert same(folders["long"], trained(courses("alone", {"long": 2}, *line))["long"])
    reverse = trained(courses("reverse", {"long": 2}, *line), courses("reverse", {"short": 1}, *line))
    assert began == {"short": 0, "long": 0}  # the longer one came first: both from scratch, and the same
    assert all(same(folders[name], reverse[name]) for name in folders)


def test_only_the_same_training_but_for_its_epochs_is_handed_on(
    courses: Callable[..., plan.Experiment], began: dict[str, int]
) -> None:
    experiment = courses("apart", {"short": 1, "long": 2}, "trainer=standard", "trainer.batch_size=8")
    long = experiment.config["models"]["long"]
    others = {
        "seed": {**long, "seed": 5},
        "arch": {**long, "arch": {**long["arch"], "name": "mnist_d", "activation": {"name": "elu"}}},
        "lr": {**long, "trainer": {**long["trainer"], "optimizer": {**long["trainer"]["optimizer"], "lr": 0.003}}},
        "data": {**long, "dataset": {**long["dataset"], "train_size": 56}},
    }
    models = {"short": experiment.config["models"]["short"], **others}
    experiment = plan.prepare({**experiment.config, "models": models})
    assert len({planned.course for planned in experiment.plans.values()}) == 5
    trained(experiment)
    assert set(began.values()) == {0} and len(began) == 5


@pytest.mark.parametrize(
    ("line", "fields"),
    [
        (("trainer=standard",), {"schedule": {"name": "step", "milestones": [0.5], "gamma": 0.1}}),
        (("trainer=ensemble_adv", "trainer.objective.crafting_mode=eval"), {}),
    ],
    ids=["step", "cached sources"],
)
def test_what_depends_on_the_number_of_epochs_is_trained_from_scratch(
    courses: Callable[..., plan.Experiment], began: dict[str, int], line: tuple[str, ...], fields: Config
) -> None:
    experiment = courses("apart", {"short": 1, "long": 2}, *line, "trainer.batch_size=8", **fields)
    assert [planned.course for planned in experiment.plans.values()] == [None, None]
    folders = trained(experiment)
    assert (began["short"], began["long"]) == (0, 0)
    alone = courses("alone", {"long": 2}, *line, "trainer.batch_size=8", **fields)
    assert same(folders["long"], trained(alone)["long"])


def test_a_training_handed_on_in_mid_epoch_has_the_same_curve(courses: Callable[..., plan.Experiment]) -> None:
    line = ("trainer=standard", "trainer.batch_size=8")
    folders = trained(courses("together", {"short": 0.5, "long": 1}, *line))
    assert same(folders["long"], trained(courses("alone", {"long": 1}, *line))["long"])


def test_a_training_handed_on_in_mid_epoch_has_the_same_weights(
    courses: Callable[..., plan.Experiment], began: dict[str, int]
) -> None:
    line = ("trainer=standard", "trainer.batch_size=8")
    folder = trained(courses("together", {"short": 0.5, "long": 1}, *line))["long"]
    assert began["long"] == STEPS // 2
    alone = trained(courses("alone", {"long": 1}, *line))["long"]
    assert (folder / "model.safetensors").read_bytes() == (alone / "model.safetensors").read_bytes()


def test_a_longer_training_that_was_interrupted_goes_on_to_the_same_bits(
    courses: Callable[..., plan.Experiment], began: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """From the shorter one's end to its own saved state, and on."""
    epochs, line = {"short": 1, "long": 3}, ("trainer=fgsm_adv", "trainer.batch_size=8", "checkpoint_seconds=-1")
    stop, original = Stop(), Slot.save_state

    def stopping(slot: Slot, state: Config) -> None:
        original(slot, state)
        if state["step"] == STEPS + 3:
            stop.signum = 15

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(Slot, "save_state", stopping)
        experiment = courses("stopped", epochs, *line)
        Workshop([experiment], stop).models(experiment)
    assert began == {"short": 0, "long": STEPS}
    again = trained(courses("stopped", epochs, *line))
    assert began["long"] in (STEPS + 3, STEPS + 4)
    assert same(again["long"], trained(courses("alone", {"long": 3}, *line))["long"])


def test_a_state_is_handed_to_no_one_who_has_begun(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path, lambda: None)
    slot = Slot(store.path("net", "k"))

    def step() -> object:
        found = slot.last_state(torch.device("cpu"))
        return found and found["step"]

    (tmp_path / "models").mkdir()
    with FileLock(tmp_path / "models" / ".k.lock"), caplog.at_level(logging.INFO):
        store.hand_on("net", "k", {"step": 1})
    assert step() is None and "net-k is being trained elsewhere already" in caplog.messages
    store.hand_on("net", "k", {"step": 2})
    assert step() == 2
    store.hand_on("net", "k", {"step": 3})
    assert step() == 2  # it has a state of its own, perhaps a later one
    store.load_or_train("net", "k", torch.device("cpu"), lambda slot: ({"w": torch.zeros(1)}, {}, ""))
    store.hand_on("net", "k", {"step": 4})
    assert step() is None and store.has("net", "k")
