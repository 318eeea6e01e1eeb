"""The one training loop: the same bits however often it is stopped."""

import copy
import io
import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import pytest
import torch
import torch.nn.functional as F
from tiny_training import (
    ADVERSARIAL,
    BATCH,
    IMAGES,
    OPTIMIZERS,
    PGD,
    STEPS,
    Recorder,
    data,
    fitted,
    identical,
    network,
    plain,
    trainer,
)
from torch import Tensor, nn

from epsball.attacks.attack import BrokenContract
from epsball.build import ConfigError
from epsball.data.images import Split, to_unit
from epsball.runtime.progress import Interrupted
from epsball.training.fit import Diverged, TrainingState, batch_indices, load_optimizer, steps_per_epoch
from epsball.training.objectives import Standard
from epsball.training.trainer import Trainer

# ---- watched


def test_a_watched_training_is_the_unwatched_one_bit_for_bit() -> None:
    weights, curve, _ = fitted(trainer())
    alone, unwatched, _ = fitted(trainer(watch=None))
    assert identical(weights, alone)
    assert [{k: v for k, v in row.items() if not k.startswith("adversarial")} for row in curve] == unwatched


def test_the_watch_is_the_error_of_the_first_training_images_under_the_attack() -> None:
    """With eps 0 that is the clean error; with eps 1 and 30 steps nothing is left."""
    free = {**PGD, "eps": 0.0, "step_size": None, "step_share": 1.0, "start": "none", "start_share": 0.0}
    strong = {**free, "eps": 1.0, "steps": 30, "step_share": 0.2}
    model = network()
    _, clean, _ = fitted(trainer(watch={"attack": free, "images": 5}), model=model)
    x, y = data().train.take(torch.arange(5))
    assert clean[-1]["adversarial_error"] == float((model(x).argmax(1) != y).float().mean())
    _, attacked, _ = fitted(trainer(watch={"attack": strong, "images": 5}))
    assert (attacked[-1]["adversarial_error"], attacked[-1]["adversarial_n"]) == (1.0, 5)


def test_the_clean_error_of_a_curve_is_of_the_first_thousand_test_images() -> None:
    many = Split(torch.zeros(1001, 1, 6, 6, dtype=torch.uint8), torch.zeros(1001, dtype=torch.int64))
    _, curve, _ = fitted(plain(epochs=0.25), on=replace(data(), test=many))
    assert curve[-1]["clean_n"] == 1000


def test_a_state_of_another_number_of_processes_goes_on_with_new_random_numbers(
    caplog: pytest.LogCaptureFixture,
) -> None:
    stopped = Recorder(interrupt_at=3)
    with pytest.raises(Interrupted):
        fitted(trainer(), recorder=stopped)
    own = {"rng": stopped.last["rng"], "buffers": {}}
    weights, _, _ = fitted(trainer(), recorder=Recorder({**stopped.last, "replicas": [own, own]}))
    assert "the state is of 2 processes, not of 1: random numbers are new" in caplog.messages
    assert not identical(weights, fitted(trainer())[0])


def test_a_watch_of_no_images_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"trainer\.watch\.images should be at least 1, is 0"):
        trainer(watch={"attack": PGD, "images": 0})


# ---- stopped and continued


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("at", [1, 3, 4, 5, 8, 9, 10])
def test_a_continued_training_is_the_straight_one_bit_for_bit(optimizer: str, at: int) -> None:
    by = trainer(optimizer=OPTIMIZERS[optimizer])
    weights, curve, straight = fitted(by)
    stopped = Recorder(interrupt_at=at)
    with pytest.raises(Interrupted) as error:
        fitted(by, recorder=stopped)
    assert error.value.signum == 15 and stopped.last["step"] == at == len(stopped.saved)
    again = Recorder(state=stopped.last)
    weights_again, curve_again, _ = fitted(by, model=network(seed=99), recorder=again)
    assert identical(weights, weights_again)
    assert curve == curve_again
    if at < STEPS:  # the optimiser's state and the generator's
        assert identical(straight.last, again.last) and again.last["step"] == STEPS
    else:  # no step is left
        assert again.saved == []


def test_a_training_stopped_at_every_step_is_the_straight_one() -> None:
    by = trainer()
    weights, curve, _ = fitted(by)
    state: dict[str, Any] | None = None
    for step in range(1, STEPS + 1):
        stopped = Recorder(state=state, interrupt_at=step)
        with pytest.raises(Interrupted):
            fitted(by, model=network(seed=step - 1), recorder=stopped)
        assert len(stopped.saved) == 1
        state = stopped.last
    weights_again, curve_again, _ = fitted(by, recorder=Recorder(state=state))
    assert identical(weights, weights_again) and curve == curve_again


def test_a_stop_is_obeyed_after_the_next_step_and_saved_before() -> None:
    recorder = Recorder()
    recorder.control.seconds_between = math.inf
    recorder.control.stop.signum = 2
    with pytest.raises(Interrupted):
        fitted(trainer(), recorder=recorder)
    assert [recorder.last["step"], len(recorder.saved)] == [1, 1]


def test_nothing_is_saved_before_its_time_but_the_last_state_always() -> None:
    recorder = Recorder()
    recorder.control.seconds_between = math.inf
    fitted(trainer(), recorder=recorder)
    assert [recorder.last["step"], len(recorder.saved)] == [STEPS, 1]


# ---- from one kind of device to another


def as_on_cuda(state: dict[str, Any]) -> dict[str, Any]:
    """A state as a training on a card would have saved it."""
    groups = [{**group, "capturable": True, "fused": True} for group in state["optimizer"]["param_groups"]]
    rng = {**state["rng"], "cuda": torch.zeros(16, dtype=torch.uint8)}
    return {**state, "rng": rng, "optimizer": {**state["optimizer"], "param_groups": groups}}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_state_of_a_card_goes_on_on_the_cpu(optimizer: str) -> None:
    by, stopped = trainer(optimizer=OPTIMIZERS[optimizer]), Recorder(interrupt_at=3)
    with pytest.raises(Interrupted):
        fitted(by, recorder=stopped)
    moved = fitted(by, recorder=Recorder(state=as_on_cuda(stopped.last)))
    assert identical(moved[0], fitted(by)[0])


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_a_state_of_the_cpu_is_loaded_for_a_capture(optimizer: str) -> None:
    """The step count goes to the parameters' device, and the learning rate stays the tensor that a graph reads."""
    by, recorder = trainer(optimizer=OPTIMIZERS[optimizer]), Recorder()
    fitted(by, recorder=recorder)
    there, meta = by.optimizer.make(network().to("meta")), torch.device("meta")  # any device that is not the CPU
    for group in there.param_groups:
        group.update({key: True for key in ("capturable", "fused") if key in group}, lr=torch.tensor(0.5, device=meta))
    load_optimizer(there, recorder.last["optimizer"])
    for group in there.param_groups:
        assert group.get("capturable", True) and group.get("fused", True)
        assert group["lr"].device == meta and group["weight_decay"] in (0.0, 1e-3, 1e-4)
    tensors = [t for state in there.state.values() for t in state.values() if t is not None]
    assert tensors and {t.device for t in tensors} == {meta}


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("first", ["contiguous_format", "channels_last"])
def test_a_state_goes_on_in_another_memory_layout(optimizer: str, first: str) -> None:
    """torch's fused Adam pairs weights and moments by their order in memory, and says nothing of another."""
    formats = [torch.contiguous_format, torch.channels_last]
    here, there = formats if first == "contiguous_format" else reversed(formats)
    networks = [nn.Conv2d(3, 4, 3).to(memory_format=here) for _ in range(2)]
    networks[1].load_state_dict(networks[0].state_dict())
    generator = torch.Generator().manual_seed(0)

    def step(*pairs: tuple[nn.Module, torch.optim.Optimizer]) -> None:
        gradients = [torch.randn(p.shape, generator=generator) for p in networks[0].parameters()]
        for net, by in pairs:
            for parameter, gradient in zip(net.parameters(), gradients, strict=True):
                parameter.grad = torch.empty_like(parameter).copy_(gradient)
            by.step()

    stays, moves = (trainer(optimizer=OPTIMIZERS[optimizer]).optimizer.make(net) for net in networks)
    for _ in range(3):
        step((networks[0], stays), (networks[1], moves))
    moved = nn.Conv2d(3, 4, 3).to(memory_format=there)
    moved.load_state_dict(networks[1].state_dict())
    goes_on = trainer(optimizer=OPTIMIZERS[optimizer]).optimizer.make(moved)
    load_optimizer(goes_on, moves.state_dict())
    for _ in range(3):
        step((networks[0], stays), (moved, goes_on))
    assert moved.weight.stride() != networks[0].weight.stride()
    torch.testing.assert_close(moved.state_dict(), networks[0].state_dict())


def test_a_learning_rate_that_a_graph_reads_is_written_over() -> None:
    state = TrainingState.begin(network(), plain(optimizer=OPTIMIZERS["rmsprop"]), [], data(), 0)
    tensors = [torch.tensor(0.005) for _ in state.optimizer.param_groups]
    for group, tensor in zip(state.optimizer.param_groups, tensors, strict=True):
        group["lr"] = tensor
    for lr in (0.25, 0.25, 0.125):
        state.set_learning_rate(lr)
        assert [float(tensor) for tensor in tensors] == [lr, lr] and state.lr == lr
    assert all(g["lr"] is t for g, t in zip(state.optimizer.param_groups, tensors, strict=True))
    assert [group["lr"] for group in state.state()["optimizer"]["param_groups"]] == [0.125, 0.125]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("at", [4, 6, 9])
def test_a_training_whose_rates_a_graph_reads_goes_on_at_the_rate_that_had_fallen(
    at: int, optimizer: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before any milestone, after the first, and after the last, from which on the schedule changes nothing."""
    original = TrainingState.begin

    def begin(*arguments: Any) -> TrainingState:
        state = original(*arguments)
        for group in state.optimizer.param_groups:
            group["lr"] = torch.tensor(state.lr)  # as on CUDA
        return state

    monkeypatch.setattr(TrainingState, "begin", begin)
    by, stopped = trainer(optimizer=OPTIMIZERS[optimizer]), Recorder(interrupt_at=at)
    weights, curve, _ = fitted(by)
    with pytest.raises(Interrupted):
        fitted(by, recorder=stopped)
    weights_again, curve_again, _ = fitted(by, recorder=Recorder(state=stopped.last))
    assert identical(weights, weights_again) and curve == curve_again


# ---- half precision


@pytest.mark.parametrize(
    "fields", [{"label": "predicted"}, {"label": "least_likely", "keep": "best"}, {"restarts": 2}], ids=str
)
@pytest.mark.parametrize("placement", ["append", "only"])
def test_every_weight_has_a_gradient_in_bf16(placement: str, fields: dict[str, Any]) -> None:
    """Crafting runs forward passes without gradients inside the step's autocast block, which keeps copies of the
    weights: torch before 2.11 trained with those."""
    objective = {**ADVERSARIAL, "placement": placement, "delay": 0, "attack": {**PGD, **fields}}
    state = TrainingState.begin(network(), trainer(objective=objective, precision="bf16"), [], data(), 0)
    state.advance(torch.arange(BATCH), 0.0)
    assert [key for key, p in state.model.named_parameters() if p.grad is None or not p.grad.any()] == []


@pytest.mark.parametrize(
    "when",
    [{"crafted_on": "original", "crafted_once": True}, {"crafting_mode": "eval"}, {}],
    ids=["once", "repeatable", "in each step"],
)
@pytest.mark.parametrize(("precision", "dtype"), [("bf16", torch.bfloat16), ("fp32", torch.float32)])
def test_examples_are_crafted_in_the_trainings_precision_also_those_before_it(
    precision: str, dtype: torch.dtype, when: dict[str, Any]
) -> None:
    fgsm = {**PGD, "steps": 1, "step_size": 0.1, "start": "none", "start_share": 0.0}
    fields = {"attack": fgsm, "eps_distribution": "fixed", "eps_rise": None, "delay": 0, "include_self": False, **when}
    source, seen = network(1).eval().requires_grad_(False), list[torch.dtype]()
    source[0].register_forward_hook(lambda _module, _inputs, output: seen.append(output.dtype))
    by = trainer(objective={**ADVERSARIAL, **fields}, precision=precision, augment=None, watch=None)
    state = TrainingState.begin(network(), by, [source], data(), 0)
    before = len(seen)
    state.advance(torch.arange(BATCH), 0.0)
    assert before == (4 if when else 0) and len(seen) - before == (0 if when else 1)
    assert set(seen) == {dtype}
    assert all(images.dtype == torch.float32 for images in state.objective.cached)  # type: ignore[attr-defined]


def test_crafting_before_training_is_told_and_can_be_stopped(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """It takes minutes on sources that are ensembles."""
    monkeypatch.setattr("epsball.runtime.progress.SECONDS_BETWEEN_LINES", 0.0)
    fields = {"eps_distribution": "fixed", "eps_rise": None, "crafted_on": "original", "crafted_once": True}
    by, source, seen = trainer(objective={**ADVERSARIAL, **fields}), network(1).eval(), list[int]()
    recorder = Recorder()

    def stop_at_second(_module: nn.Module, given: tuple[Tensor, ...]) -> None:
        seen.append(len(given[0]))
        if len(seen) == 3:  # PGD's steps on the first batch are two
            recorder.control.stop.signum = 15

    source.requires_grad_(False)[0].register_forward_pre_hook(stop_at_second)
    with caplog.at_level(logging.INFO), pytest.raises(Interrupted):
        fitted(by, sources=[source], recorder=recorder)
    assert sum(seen) == 4 * BATCH and not recorder.saved
    told = [line.getMessage() for line in caplog.records if "examples of a source" in line.getMessage()]
    assert [line.rpartition(" images, ")[0] for line in told] == [
        f"tiny: examples of a source: {done} of {IMAGES}" for done in (BATCH, 2 * BATCH)
    ]


# ---- one seed, one training


def test_the_same_seed_gives_the_same_bits() -> None:
    first, second = fitted(trainer()), fitted(trainer())
    assert identical(first[0], second[0]) and first[1] == second[1] and first[2].saved == second[2].saved


@pytest.mark.parametrize("by", [trainer(), plain()], ids=["random", "order alone"])
def test_another_seed_gives_another_training(by: Trainer) -> None:
    dropless = copy.deepcopy(network())
    dropless[3] = nn.Identity()
    first, second = fitted(by, 0, copy.deepcopy(dropless)), fitted(by, 1, copy.deepcopy(dropless))
    assert not identical(first[0], second[0])


def test_what_was_drawn_before_does_not_matter_and_nothing_is_drawn_outside() -> None:
    torch.manual_seed(3)
    before = torch.get_rng_state()
    first = fitted(trainer())
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(5)
    assert identical(first[0], fitted(trainer())[0])


def test_scoring_the_test_images_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scored = fitted(trainer())
    monkeypatch.setattr(TrainingState, "scored", lambda self: {"clean_error": 0.0})
    unscored = fitted(trainer())
    assert identical(scored[0], unscored[0])
    assert [row["clean_error"] for row in scored[1]] != [0.0] * 3


def test_the_model_is_left_in_eval_mode() -> None:
    model = network()
    fitted(plain(), model=model)
    assert not any(module.training for module in model.modules())


def test_no_gradients_are_left_behind() -> None:
    model = network()
    fitted(plain(), model=model)
    assert all(p.grad is None for p in model.parameters())


# ---- the order of the images


def test_an_epoch_is_a_permutation_and_every_epoch_another_one() -> None:
    split = data().train
    indices = list(batch_indices(split, BATCH, 0, 0, 12))
    epochs = [torch.cat(indices[i : i + 4]) for i in (0, 4, 8)]
    assert [len(index) for index in indices[:4]] == [6, 6, 6, 2]
    assert all(sorted(epoch.tolist()) == list(range(IMAGES)) for epoch in epochs)
    assert len({tuple(epoch.tolist()) for epoch in epochs}) == 3


@pytest.mark.parametrize("start", [1, 4, 6, 11])
def test_the_order_is_the_same_from_any_step(start: int) -> None:
    split = data().train
    whole = list(batch_indices(split, BATCH, 5, 0, 12))
    assert identical(whole[start:], list(batch_indices(split, BATCH, 5, start, 12)))


def test_another_seed_is_another_order() -> None:
    split = data().train
    assert not identical(list(batch_indices(split, BATCH, 0, 0, 4)), list(batch_indices(split, BATCH, 1, 0, 4)))


@pytest.mark.parametrize(
    ("images", "size", "steps"),
    [(12, 6, 2), (13, 6, 2), (14, 6, 3), (1, 6, 1), (5, 6, 1), (3, 1, 3), (1, 1, 1), (7, 2, 3), (55000, 50, 1100)],
)
def test_steps_of_an_epoch(images: int, size: int, steps: int) -> None:
    assert steps_per_epoch(images, size) == steps


def test_a_last_batch_of_one_image_is_left_out() -> None:
    indices = list(batch_indices(data(13).train, BATCH, 0, 0, 6))
    assert [len(index) for index in indices] == [6] * 6
    assert fitted(trainer(epochs=2.0), on=data(13))[1][-1]["step"] == 4  # batch norm meets no lone image


@pytest.mark.parametrize(("epochs", "steps"), [(1.0, 4), (0.5, 2), (1.3, 5), (2.6, 10), (0.01, 1)])
def test_epochs_may_be_a_fraction(epochs: float, steps: int) -> None:
    _, curve, _ = fitted(plain(epochs=epochs))
    assert curve[-1]["step"] == steps and curve[-1]["epoch"] == steps / 4


# ---- the learning curve


def test_the_learning_curve_by_hand() -> None:
    """With a learning rate of nearly nothing the loss of an epoch is the mean of its batches' losses."""
    model = network()
    model[3] = nn.Identity()
    before, tiny = copy.deepcopy(model), {**OPTIMIZERS["sgd"], "lr": 1e-30, "weight_decay": 0.0}
    tiny_data = data()
    _, curve, _ = fitted(plain(optimizer=tiny), seed=3, model=model, on=tiny_data)
    assert [(row["epoch"], row["step"]) for row in curve] == [(1.0, 4), (2.0, 8), (2.5, 10)]
    assert [row["lr"] for row in curve] == pytest.approx([1e-30, 1e-32, 1e-32])  # steps at 1.25 and 1.875 epochs
    losses = []
    for index in batch_indices(tiny_data.train, BATCH, 3, 0, STEPS):
        x, y = tiny_data.train.take(index)
        losses.append(F.cross_entropy(before(x), y).item())
    expected = [sum(part) / len(part) for part in (losses[:4], losses[4:8], losses[8:])]
    assert [row["loss"] for row in curve] == pytest.approx(expected, rel=1e-5)
    wrong = model(to_unit(tiny_data.test.x)).argmax(1) != tiny_data.test.y
    assert curve[-1]["clean_error"] == pytest.approx(wrong.float().mean().item())
    assert curve[-1]["clean_n"] == len(tiny_data.test)


def test_each_step_has_its_learning_rate() -> None:
    """Plain SGD on a loss of constant gradient moves a weight by the learning rate."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    sgd = {"name": "sgd", "lr": 0.5, "momentum": 0.0, "weight_decay": 0.0, "decay_on": "all"}
    by = plain(optimizer=sgd, schedule={"name": "exponential", "gamma": 0.5, "every": 1.0})
    recorder = Recorder()
    _, curve, _ = fitted(by, model=model, recorder=recorder)
    states = [torch.load(io.BytesIO(saved), weights_only=True) for saved in recorder.saved]
    rates = [state["optimizer"]["param_groups"][0]["lr"] for state in states]
    assert rates == [0.5] * 4 + [0.25] * 4 + [0.125] * 2
    assert [row["lr"] for row in curve] == [0.5, 0.25, 0.125]


def distance(a: nn.Module, b: nn.Module) -> float:
    return math.sqrt(
        sum(float((p - q).detach().square().sum()) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    )


@pytest.mark.parametrize(("clip_norm", "bound"), [(0.01, True), (1e6, False), (None, False)])
def test_clip_norm_bounds_a_step(clip_norm: float | None, bound: bool) -> None:
    sgd = {"name": "sgd", "lr": 1.0, "momentum": 0.0, "weight_decay": 0.0, "decay_on": "all"}
    before, model = network(), network()
    fitted(plain(optimizer=sgd, clip_norm=clip_norm, epochs=0.25), model=model)
    if bound:
        assert distance(model, before) == pytest.approx(0.01, rel=1e-3)
    else:
        assert distance(model, before) > 0.1


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_frozen_weights_stay_and_the_others_learn(optimizer: str) -> None:
    """As of a network of the user's own whose features another training made. It goes on bit for bit."""

    def frozen() -> nn.Module:
        model = network()
        model[0].requires_grad_(False)
        return model

    before, by = frozen().state_dict(), trainer(optimizer=OPTIMIZERS[optimizer])
    weights, _, whole = fitted(by, model=frozen())
    assert [name for name in ("0.weight", "0.bias", "5.weight") if identical(before[name], weights[name])] == [
        "0.weight",
        "0.bias",
    ]
    state = torch.load(io.BytesIO(whole.saved[3]), weights_only=True)
    assert identical(fitted(by, model=frozen(), recorder=Recorder(state))[0], weights)


# ---- divergence


@pytest.mark.parametrize("poison", [math.nan, math.inf])
def test_a_loss_that_is_not_finite_is_divergence(poison: float) -> None:
    model = network()
    nn.init.constant_(model[5].weight, poison)
    with pytest.raises(Diverged, match=r"loss nan at step 4, lr 0\.01"):
        fitted(plain(), model=model)


def test_weights_that_are_not_finite_are_divergence() -> None:
    """The last step's own loss is still finite, its weights are not."""
    model = nn.Sequential(nn.Flatten(), nn.Linear(36, 3))
    sgd = {"name": "sgd", "lr": 1e30, "momentum": 0.0, "weight_decay": 1e30, "decay_on": "all"}
    with pytest.raises(Diverged):
        fitted(plain(optimizer=sgd, epochs=0.25), model=model)


# ---- an objective that breaks its contract


class Breaking(Standard):
    """An objective of one's own, with a mistake."""

    mistake: ClassVar[Callable[[nn.Module, Tensor], Any]]
    terms: ClassVar[Any] = ()

    def __call__(self, model: nn.Module, x: Tensor, y: Tensor, *_: object) -> Any:
        return type(self).mistake(model, F.cross_entropy(model(x), y, reduction="none"))


def terms(*names: str) -> Callable[[nn.Module, Tensor], Any]:
    return lambda model, losses: torch.stack([losses.mean()] * (1 + len(names)))


BROKEN: list[tuple[Callable[[nn.Module, Tensor], Any], tuple[str, ...], str]] = [
    (lambda model, losses: losses, (), r"give a loss of shape \(\), gives a loss of shape \(6,\)"),
    (lambda model, losses: losses.mean()[None], (), r"give a loss of shape \(\), gives a loss of shape \(1,\)"),
    (lambda model, losses: losses.mean().item(), (), r"give a loss of shape \(\), gives a float"),
    (lambda model, losses: losses.mean(), ("kl",), r"give a loss of shape \(2,\), gives a loss of shape \(\)"),
    (terms("kl", "more"), ("kl",), r"give a loss of shape \(2,\), gives a loss of shape \(3,\)"),
    (lambda model, losses: losses.mean().detach(), (), "give a loss with gradients: it is detached"),
    (lambda model, losses: model.eval() and losses.mean(), (), "leave the model in train mode"),
]


@pytest.mark.parametrize(("mistake", "names", "message"), BROKEN, ids=[message for *_, message in BROKEN])
def test_an_objective_that_breaks_its_contract_is_refused(
    mistake: Any, names: tuple[str, ...], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Breaking, "mistake", mistake, raising=False)
    monkeypatch.setattr(Breaking, "terms", names)
    recorder = Recorder()
    with pytest.raises(BrokenContract, match=f"^Breaking should {message}"):
        fitted(replace(plain(), objective=Breaking(0.0)), recorder=recorder)
    assert not recorder.saved  # at its first step


@pytest.mark.parametrize("name", ["loss", "adversarial_error"])
def test_a_term_by_the_name_of_another_column_of_the_curve_is_refused(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Breaking, "mistake", terms(name), raising=False)
    monkeypatch.setattr(Breaking, "terms", (name,))
    with pytest.raises(BrokenContract, match=rf"^Breaking\.terms should have names of their own: not {name}$"):
        fitted(replace(plain(), objective=Breaking(0.0)))
    monkeypatch.setattr(Breaking, "terms", ("kl",))
    _, curve, _ = fitted(replace(plain(), objective=Breaking(0.0)))
    assert all(row["kl"] == row["loss"] for row in curve)


def test_each_row_of_the_curve_is_shown_those_of_an_earlier_process_first() -> None:
    first, shown = Recorder(interrupt_at=6), list[Mapping[str, float]]()
    with pytest.raises(Interrupted):
        fitted(plain(), recorder=first)
    second = Recorder(first.last)
    second.control.show = shown.append
    _, curve, _ = fitted(plain(), recorder=second)
    assert [row["step"] for row in curve] == [4, 8, 10] and shown == curve
