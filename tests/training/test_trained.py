"""Models side by side: the bits of one after another, each trained once; longer trainings go on from shorter ones."""

import json
import logging
import multiprocessing
from collections.abc import Callable
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import replace
from graphlib import TopologicalSorter
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import TINY
from filelock import FileLock
from torch import nn

from epsball.experiment.prepare import Experiment, prepare_experiment
from epsball.runtime.device import environment
from epsball.runtime.distributed import PeerLost
from epsball.runtime.progress import Interrupted, Stop
from epsball.runtime.run_log import log_file
from epsball.runtime.store import LAST, CheckpointFolder, Store
from epsball.training import parallel, trained
from epsball.training.fit import Diverged, TrainingState, fit
from epsball.training.forecast import TrainingForecast
from epsball.training.operations import operations_of_steps
from epsball.training.parallel import Job, find_needs, train_in_parallel, train_in_worker, work_left
from epsball.training.spec import BuildCache, build_spec, with_sources
from epsball.training.trained import Checkpoints, TrainedModels

Config = dict[str, Any]


@pytest.fixture
def three_models(tmp_path: Path, tiny: Callable[..., dict[str, Any]]) -> Callable[[str], Experiment]:
    """Two independent models and one that trains on the first as its source, in an output folder of the given name."""

    def prepared(folder: str, workers: int = 1, seed: int = 0, threads: str = "1") -> Experiment:
        config = tiny(f"workers={workers}", f"threads={threads}", "models=alone", f"seed={seed}")
        target = config["models"]["target"]
        other = {**target, "seed": 7}
        adversarial = {
            "name": "adversarial",
            "attack": {**next(iter(config["suite"].values()))},
            "crafted_on": "augmented",
            "crafted_once": False,
            "placement": "append",
            "count": None,
            "weight": 1.0,
            "passes": "one",
            "eps_distribution": "fixed",
            "eps_rise": None,
            "delay": 0,
            "crafting_mode": "eval",
            "crafting_auxiliary": True,
            "crafting_statistics": "kept",
            "include_self": True,
            "source_choice": "random",
            "label_smoothing": 0.0,
        }
        third = {**target, "trainer": {**target["trainer"], "objective": adversarial, "sources": {"first": target}}}
        models = {"target": target, "other": other, "third": third}
        return prepare_experiment({**config, "models": models, "outputs": str(tmp_path / folder)})

    return prepared


def models_of(*experiments: Experiment, stop: Stop | None = None) -> TrainedModels:
    stop = stop or Stop()
    store = Store(Path(experiments[0].settings.outputs), stop.check)
    return TrainedModels(store, stop, [experiment.specs for experiment in experiments])


def train_together(*experiments: Experiment, stop: Stop | None = None) -> TrainedModels:
    """Train all models in worker processes, as a run does."""
    models, settings = models_of(*experiments, stop=stop), experiments[0].settings
    every = [(e, name, spec) for e in experiments for name, spec in models.untrained(e.specs, models.store.has)]
    wanted = {spec.key: (name, experiment.execution) for experiment, name, spec in every}
    train_in_parallel(wanted, models, settings.workers, settings.threads)
    return models


def test_side_by_side_is_bit_for_bit_as_alone(
    tmp_path: Path, three_models: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    one = three_models("alone")
    models_of(one).train(one.specs, one.execution)
    both = [three_models("together", workers=2, seed=seed) for seed in (0, 1)]
    together = train_together(*both)
    files = sorted(p.relative_to(tmp_path / "alone") for p in (tmp_path / "alone").rglob("model.safetensors"))
    assert len(files) == 3
    for file in files:
        assert (tmp_path / "alone" / file).read_bytes() == (tmp_path / "together" / file).read_bytes()

    monkeypatch.setattr(trained, "fit", None)  # nothing is left to train
    monkeypatch.setattr(parallel, "ProcessPoolExecutor", None)
    train_together(*both)
    for experiment in both:
        assert list(together.train(experiment.specs, experiment.execution)) == ["target", "other", "third"]
        records = dict(together.recorded(experiment.specs))
        named = {name: spec.key for name, spec in experiment.specs.items()}
        assert {name: record["fingerprint"] for name, record in records.items() if "source" not in name} == named
        assert all(record["reused"] for record in records.values())
    keys = {spec.key for experiment in both for spec in experiment.specs.values()}
    assert {json.loads(path.read_text())["fingerprint"] for path in (tmp_path / "together").rglob("spec.json")} == keys
    assert len(keys) == 5  # `other` has a seed of its own, and is one model


def test_a_model_out_of_the_store_is_in_eval_mode_and_frozen(compose: Callable[..., Config], tmp_path: Path) -> None:
    """With dropout on, or its weights open to gradients, it would be another model."""
    experiment = prepare_experiment(compose(*SMALL, "trainer.epochs=0.1", f"outputs={tmp_path}"))
    now = models_of(experiment).train(experiment.specs, experiment.execution)["target"]
    found = models_of(experiment).train(experiment.specs, experiment.execution)["target"]
    x, _ = next(iter(experiment.data.test.batches(16)))
    for network in (now, found):
        assert any(isinstance(module, nn.Dropout) and module.p > 0 for module in network.modules())
        assert not any(module.training for module in network.modules())
        assert not any(parameter.requires_grad for parameter in network.parameters())
        assert torch.equal(network(x), now(x))
    assert now is not found


def test_a_model_that_was_scored_on_other_images_is_reused_without_its_error(
    compose: Callable[..., Config], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    def told(images: int) -> tuple[Config, str]:
        line = (*SMALL, "trainer.epochs=0.1", f"dataset.test_size={images}", f"outputs={tmp_path}")
        experiment = prepare_experiment(compose(*line))
        models = models_of(experiment)
        caplog.clear()
        models.train(experiment.specs, experiment.execution)
        (recorded,) = models.recorded(experiment.specs)
        (read,) = models_of(experiment).recorded(experiment.specs)
        assert recorded == (read[0], {**read[1], "reused": recorded[1]["reused"]})
        return recorded[1], next(message for message in caplog.messages if "parameters" in message)

    trained, said = told(30)
    assert trained["clean_n"] == 30 and 0 < trained["clean_error"] <= 1
    assert said.startswith(f"target: clean error {trained['clean_error']:.2%} of 30 images, ") and "reused" not in said
    reused, said = told(40)
    assert (reused["clean_error"], reused["clean_n"], reused["reused"]) == (None, None, True)
    assert said.startswith("target: scored on other test images, ")
    assert told(30)[0] == {**trained, "reused": True}


def test_networks_are_released_after_their_last_use(three_models: Callable[..., Experiment]) -> None:
    """A run of many models holds those that some experiment still needs."""
    first = three_models("uses")
    second = replace(first, specs={name: first.specs[name] for name in ("other",)})
    models = models_of(first, second)
    models.train(first.specs, first.execution)
    assert len(models.networks) == 3
    models.release(first.specs)
    assert [key for key, *_ in models.networks] == [first.specs["other"].key]
    models.train(second.specs, second.execution)
    models.release(second.specs)
    assert not models.networks


def test_a_spec_takes_no_memory_for_its_weights(
    three_models: Callable[..., Experiment], tiny: Callable[..., Config]
) -> None:
    """A network is checked on the meta device; it has its weights when it is made, the same ones every time."""
    spec = three_models("meta").specs["third"]
    assert not any(isinstance(value, nn.Module) for value in vars(spec).values())
    weights = [spec.make_network().state_dict() for _ in range(2)]
    assert all(torch.equal(one, other) for one, other in zip(*(w.values() for w in weights), strict=True))


def test_sources_come_before_the_models_that_need_them(three_models: Callable[..., Experiment]) -> None:
    names = [name for name, _ in with_sources(three_models("order").specs)]
    assert names == ["target", "other", "third's source first", "third"]


def test_workers_share_the_threads_out(
    tmp_path: Path, three_models: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel.torch, "get_num_threads", lambda: 7)
    train_together(three_models("shared", workers=2, threads="null"))
    assert {json.loads(path.read_text())["threads"] for path in (tmp_path / "shared").rglob("spec.json")} == {3}


@pytest.mark.parametrize(("threads", "told"), [("1", []), ("2", ["2 workers of 2 threads on 3 cores"])])
def test_more_threads_than_cores_are_told(
    threads: str,
    told: list[str],
    three_models: Callable[..., Experiment],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    monkeypatch.setattr(parallel, "cores", lambda: 3)
    monkeypatch.setattr(parallel, "run_jobs", lambda *arguments: None)
    train_together(three_models("told", workers=2, threads=threads))
    assert [r.getMessage().split(" wait ")[0] for r in caplog.records if r.levelname == "WARNING"] == told
    assert all(r.getMessage().endswith(": threads=1") for r in caplog.records if r.levelname == "WARNING")


@pytest.mark.parametrize(("precision", "allowed"), [("fp32", False), ("bf16", True)])
def test_a_worker_scores_its_model_in_the_precision_of_evaluations(
    precision: str, allowed: bool, tmp_path: Path, tiny: Callable[..., Config], monkeypatch: pytest.MonkeyPatch
) -> None:
    found, original = [], trained.find_mistakes

    def recording(*arguments: Any) -> Any:
        found.append((torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32))
        return original(*arguments)

    monkeypatch.setattr(trained, "find_mistakes", recording)
    experiment = prepare_experiment(tiny(f"precision={precision}", "trainer.epochs=1", f"outputs={tmp_path}"))
    train_in_worker(Job("target", experiment.specs["target"].config, None, experiment.execution, tmp_path))
    assert found == [(allowed, allowed)]


def test_the_log_of_a_run_has_what_its_workers_say(tmp_path: Path, three_models: Callable[..., Experiment]) -> None:
    with log_file(tmp_path / "run.log"):
        train_together(three_models("logged", workers=2))
    lines = (tmp_path / "run.log").read_text().splitlines()
    for name in ("third's source first", "other", "third"):
        assert sum(f"INFO training {name} (" in line for line in lines) == 1


def test_a_training_that_diverged_begins_anew(tmp_path: Path, tiny: Callable[..., Config]) -> None:
    words = ("models=alone", "trainer=standard", "trainer.optimizer.lr=1e30", "checkpoint_seconds=0")
    experiment = prepare_experiment(tiny(*words, f"outputs={tmp_path}"))
    with pytest.raises(Diverged):
        train_together(experiment)
    assert list(tmp_path.glob("models/*/")) and not list(tmp_path.rglob(LAST))


def test_a_stop_ends_the_workers_with_their_state_saved(
    tmp_path: Path, three_models: Callable[..., Experiment]
) -> None:
    stop = Stop()
    stop.signum = 15
    with pytest.raises(KeyboardInterrupt):
        train_together(three_models("stopped", workers=2), stop=stop)
    assert not list((tmp_path / "stopped").rglob("manifest.json"))


def test_a_killed_worker_ends_the_others_and_is_told(
    three_models: Callable[..., Experiment], monkeypatch: pytest.MonkeyPatch
) -> None:
    original, others, killed = parallel.wait, set(multiprocessing.active_children()), list[BaseProcess]()

    def killing(*arguments: Any, **settings: Any) -> Any:
        if not killed:  # it is asked again, before its end is seen
            killed.extend(list(set(multiprocessing.active_children()) - others)[:1])
            killed[0].kill()
        return original(*arguments, **settings)

    monkeypatch.setattr(parallel, "wait", killing)
    with pytest.raises(
        PeerLost, match=r"^a training process was killed \(out of memory\?\); the same command goes on$"
    ):
        train_together(three_models("killed", workers=2))
    assert killed and set(multiprocessing.active_children()) <= others


# ---- a longer training goes on where a shorter one ends


SMALL = (*(word for word in TINY if not word.startswith(("arch", "trainer"))), "arch=mnist_d")


@pytest.fixture
def trainings(compose: Callable[..., Config], tmp_path: Path) -> Callable[..., Experiment]:
    """`trainings(folder, {name: epochs}, *overrides)`: an experiment on one network with dropout, trained that long."""

    def prepared(folder: str, epochs: dict[str, float], *overrides: str, **fields: Any) -> Experiment:
        config = compose(*SMALL, *overrides, f"outputs={tmp_path / folder}")
        spec = config["models"]["target"]
        source = compose(*SMALL, "trainer=standard", "trainer.epochs=1")["models"]["target"]
        spec["trainer"]["sources"] = {name: {**source, "seed": 9} for name in spec["trainer"]["sources"]}
        models = {n: {**spec, "trainer": {**spec["trainer"], **fields, "epochs": e}} for n, e in epochs.items()}
        return prepare_experiment({**config, "models": models})

    return prepared


def waves(*experiments: Experiment) -> list[set[str]]:
    """The names of the models that could train at one time, in order."""
    named = [(name, spec) for experiment in experiments for name, spec in with_sources(experiment.specs)]
    names = {spec.key: name for name, spec in named}
    order, found = TopologicalSorter(find_needs([spec for _, spec in named], models_of(*experiments))), []
    order.prepare()
    while order.is_active():
        ready = order.get_ready()
        found.append({names[key] for key in ready})
        order.done(*ready)
    return found


def test_side_by_side_each_model_waits_for_its_sources_and_for_the_training_it_goes_on_from(
    trainings: Callable[..., Experiment], three_models: Callable[..., Experiment]
) -> None:
    assert waves(trainings("order", {"long": 3.0, "short": 1.0, "middle": 2.0})) == [{"short"}, {"middle"}, {"long"}]
    of_sources = waves(three_models("order"))
    assert [len(wave) for wave in of_sources] == [2, 1]
    assert of_sources[1] == {"third"}


def test_what_the_store_has_already_is_not_waited_for(trainings: Callable[..., Experiment]) -> None:
    one = trainings("order", {"long": 2.0, "short": 1.0})
    for name in ("short", "long"):
        assert find_needs([one.specs[name]], models_of(one)) == {one.specs[name].key: []}


def test_the_longest_chain_of_models_begins_first() -> None:
    needs = {"ens": ["a", "c"], "a": [], "b": [], "ens_12": ["ens"], "c": [], "forest": []}
    work = {"a": 40, "b": 60, "c": 5, "ens": 20, "ens_12": 30, "forest": 0}
    assert work_left(needs, work) == {"a": 90, "b": 60, "c": 55, "ens": 50, "ens_12": 30, "forest": 0}


@pytest.fixture
def submitted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that worker processes are given to train, which do nothing here, by name."""
    names: list[str] = []

    def submit(pool: ProcessPoolExecutor, _: object, job: Job) -> Any:
        names.append(job.name)
        done: Future[str] = Future()
        done.set_result("trained")
        return done

    monkeypatch.setattr(ProcessPoolExecutor, "submit", submit)
    return names


def test_workers_begin_with_what_most_waits_for(three_models: Callable[..., Experiment], submitted: list[str]) -> None:
    """`third` needs a source, so that one is begun before the other models, which are as long."""
    one = three_models("order", workers=2)
    train_together(replace(one, specs={name: one.specs[name] for name in ("other", "third", "target")}))
    assert submitted == ["target", "other", "third"]


def test_workers_begin_with_what_has_most_operations(
    three_models: Callable[..., Experiment], submitted: list[str]
) -> None:
    """Of equally many steps those that craft examples take longer."""
    one = three_models("order", workers=2)
    config = one.specs["third"].config
    attacked = build_spec({**config, "trainer": {**config["trainer"], "sources": {}}}, "models.attacked", BuildCache())
    one = replace(one, specs={"attacked": attacked, "target": one.specs["target"], "other": one.specs["other"]})
    models, keys = models_of(one), {spec.key: spec for spec in one.specs.values()}
    models.forecast = TrainingForecast(dict.fromkeys(keys, 48), operations_of_steps(keys))
    train_in_parallel({spec.key: (name, one.execution) for name, spec in one.specs.items()}, models, 2, 1)
    assert submitted[0] == "attacked" and sorted(submitted) == ["attacked", "other", "target"]


@pytest.fixture
def began(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """At which step each model's training began, by its name."""
    found: dict[str, int] = {}
    original = fit

    def watched(*arguments: Any) -> Any:
        control = arguments[-1]
        found[control.title] = control.state["step"] if control.state else 0
        return original(*arguments)

    monkeypatch.setattr(trained, "fit", watched)
    return found


def train_all(*experiments: Experiment) -> dict[str, Path]:
    """The folders of all models, trained in one run, by name."""
    models = models_of(*experiments)
    for experiment in experiments:
        models.train(experiment.specs, experiment.execution)
    specs = {name: spec for experiment in experiments for name, spec in experiment.specs.items()}
    return {name: models.store.path(spec.key) for name, spec in specs.items()}


def same(one: Path, other: Path) -> bool:
    """Whether two models have the same bits and the same learning curve."""
    return all(
        (one / name).read_bytes() == (other / name).read_bytes() for name in ("model.safetensors", "training.csv")
    )


TRAININGS = {
    "standard": ("trainer=standard",),
    "its own examples": ("trainer=fgsm_adv",),
    "sources at random": ("trainer=ensemble_adv",),
    "exponential schedule": ("trainer=standard", "+trainer.schedule={name:exponential,gamma:0.5,every:1}"),
    "augmented": ("trainer=standard", "trainer.augment={shift:2,crop:0.9,flip:false}"),
    "examples made once": ("trainer=static_adv",),
}
STEPS = 8  # of an epoch: 64 images by 8


@pytest.mark.parametrize("kind", TRAININGS)
def test_twelve_epochs_from_six_are_twelve_from_scratch(
    trainings: Callable[..., Experiment], began: dict[str, int], kind: str
) -> None:
    line = (*TRAININGS[kind], "trainer.batch_size=8")
    together = trainings("together", {"long": 2, "longest": 3, "short": 1}, *line)
    network = together.specs["long"].make_network()
    assert any(isinstance(module, nn.Dropout) and module.p > 0 for module in network.modules())
    assert len({spec.trajectory for spec in together.specs.values()}) == 1 != together.specs["long"].trajectory
    folders = train_all(together)
    assert {name: began[name] for name in together.specs} == {"long": STEPS, "longest": 2 * STEPS, "short": 0}
    began.clear()
    for name, epochs in (("long", 2), ("longest", 3)):
        alone = train_all(trainings(f"alone_{name}", {name: epochs}, *line))[name]
        assert began[name] == 0 and alone.name == folders[name].name
        assert same(alone, folders[name])
        assert not (folders[name] / LAST).exists()
    assert not same(folders["long"], folders["longest"])


def test_a_longer_training_in_another_part_goes_on_too(
    trainings: Callable[..., Experiment], began: dict[str, int]
) -> None:
    line = ("trainer=fgsm_adv", "trainer.batch_size=8")
    folders = train_all(trainings("parts", {"short": 1}, *line), trainings("parts", {"long": 2}, *line))
    assert began == {"short": 0, "long": STEPS}
    assert same(folders["long"], train_all(trainings("alone", {"long": 2}, *line))["long"])
    reverse = train_all(trainings("reverse", {"long": 2}, *line), trainings("reverse", {"short": 1}, *line))
    assert began == {"short": 0, "long": 0}  # the longer one came first: both from scratch, and the same
    assert all(same(folders[name], reverse[name]) for name in folders)


def test_only_the_same_training_but_for_its_epochs_is_passed_on(
    trainings: Callable[..., Experiment], began: dict[str, int]
) -> None:
    experiment = trainings("apart", {"short": 1, "long": 2}, "trainer=standard", "trainer.batch_size=8")
    long = experiment.config["models"]["long"]
    others = {
        "seed": {**long, "seed": 5},
        "arch": {**long, "arch": {**long["arch"], "name": "mnist_d", "activation": {"name": "elu"}}},
        "lr": {**long, "trainer": {**long["trainer"], "optimizer": {**long["trainer"]["optimizer"], "lr": 0.003}}},
        "data": {**long, "dataset": {**long["dataset"], "train_size": 56}},
    }
    models = {"short": experiment.config["models"]["short"], **others}
    experiment = prepare_experiment({**experiment.config, "models": models})
    assert len({spec.trajectory for spec in experiment.specs.values()}) == 5
    train_all(experiment)
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
    trainings: Callable[..., Experiment], began: dict[str, int], line: tuple[str, ...], fields: Config
) -> None:
    experiment = trainings("apart", {"short": 1, "long": 2}, *line, "trainer.batch_size=8", **fields)
    assert [spec.trajectory for spec in experiment.specs.values()] == [None, None]
    folders = train_all(experiment)
    assert (began["short"], began["long"]) == (0, 0)
    alone = trainings("alone", {"long": 2}, *line, "trainer.batch_size=8", **fields)
    assert same(folders["long"], train_all(alone)["long"])


def test_a_training_passed_on_in_mid_epoch_has_the_same_curve(trainings: Callable[..., Experiment]) -> None:
    line = ("trainer=standard", "trainer.batch_size=8")
    folders = train_all(trainings("together", {"short": 0.5, "long": 1}, *line))
    assert same(folders["long"], train_all(trainings("alone", {"long": 1}, *line))["long"])


def test_a_training_passed_on_in_mid_epoch_has_the_same_weights(
    trainings: Callable[..., Experiment], began: dict[str, int]
) -> None:
    line = ("trainer=standard", "trainer.batch_size=8")
    folder = train_all(trainings("together", {"short": 0.5, "long": 1}, *line))["long"]
    assert began["long"] == STEPS // 2
    alone = train_all(trainings("alone", {"long": 1}, *line))["long"]
    assert (folder / "model.safetensors").read_bytes() == (alone / "model.safetensors").read_bytes()


OWN_ATTACK = "import torch\ndef noise(model, x, y, eps): return (x + eps * torch.rand_like(x)).clamp(0, 1)\n"


@pytest.mark.parametrize("attack", ["built in", "of the user's own file"])
def test_a_longer_training_that_was_interrupted_goes_on_to_the_same_bits(
    attack: str,
    trainings: Callable[..., Experiment],
    began: dict[str, int],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """From the shorter one's end to its own saved state, and on."""
    epochs, line = {"short": 1, "long": 3}, ("trainer=fgsm_adv", "trainer.batch_size=8", "checkpoint_seconds=0")
    if attack != "built in":
        own = tmp_path / "attack.py"
        own.write_text(OWN_ATTACK)
        place = "trainer.objective.attack"
        line += (f"attack@{place}=module", f"{place}.file={own}", f"{place}.call=noise")
    stop, original = Stop(), CheckpointFolder.save_state

    def stopping(folder: CheckpointFolder, state: Config) -> None:
        original(folder, state)
        if state["step"] == STEPS + 3:
            stop.signum = 15

    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(CheckpointFolder, "save_state", stopping)
        experiment = trainings("stopped", epochs, *line)
        models_of(experiment, stop=stop).train(experiment.specs, experiment.execution)
    assert began == {"short": 0, "long": STEPS}
    again = train_all(trainings("stopped", epochs, *line))
    assert began["long"] in (STEPS + 3, STEPS + 4)
    assert same(again["long"], train_all(trainings("alone", {"long": 3}, *line))["long"])


def test_a_training_that_ended_before_its_model_was_scored_goes_on_with_the_scoring(
    trainings: Callable[..., Experiment], began: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stop while the model is scored loses no step, neither at the end of an epoch nor within one."""
    line, original = ("trainer=standard", "trainer.batch_size=8"), trained.find_mistakes

    def stopped(*arguments: Any) -> Any:
        arguments[-1].stop.signum = 15
        return original(*arguments)

    for name, length in {"whole": 1.0, "part": 1.5}.items():
        experiment = trainings("stopped", {name: length}, *line)
        with monkeypatch.context() as patch, pytest.raises(Interrupted):
            patch.setattr(trained, "find_mistakes", stopped)
            train_all(experiment)
        with monkeypatch.context() as patch:
            patch.setattr(TrainingState, "advance", None)
            again = train_all(experiment)[name]
        assert began[name] == STEPS * length
        assert same(again, train_all(trainings("alone", {name: length}, *line))[name])


def test_a_state_is_passed_to_no_one_who_has_begun(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = Store(tmp_path, lambda: None)
    folder = CheckpointFolder(store.path("k", "net"))

    def step() -> object:
        found = folder.last_state()
        return found and found["step"]

    (tmp_path / "models").mkdir()
    with FileLock(tmp_path / "models" / ".k.lock"), caplog.at_level(logging.INFO):
        store.pass_checkpoint("net", "k", {"step": 1})
    assert step() is None and "net-k is being trained elsewhere already" in caplog.messages
    store.pass_checkpoint("net", "k", {"step": 2})
    assert step() == 2
    store.pass_checkpoint("net", "k", {"step": 3})
    assert step() == 2  # it has a state of its own, perhaps a later one
    store.load_or_train("net", "k", torch.device("cpu"), lambda folder: ({"w": torch.zeros(1)}, {}, ""))
    store.pass_checkpoint("net", "k", {"step": 4})
    assert step() is None and store.has("k")


def test_a_training_that_goes_on_elsewhere_says_so(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder, cpu = CheckpointFolder(tmp_path), torch.device("cpu")
    folder.save_state({"step": 3, "curve": [], "seconds": 1.0, "environment": {**environment(cpu), "threads": -1}})
    Checkpoints.open("A", folder, {"watch": None, "test_checksum": ""}, cpu)
    assert "A: threads changed since: the result may differ in the last bits" in caplog.messages
