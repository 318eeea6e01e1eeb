"""The training loop with examples of the images before augmentation, and with a loss whose terms are shown."""

import copy
import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tiny_training import (
    ADVERSARIAL,
    BATCH,
    IMAGES,
    OPTIMIZERS,
    PGD,
    STANDARD,
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

from epsball.data.images import to_unit
from epsball.models.wrappers import Ensemble
from epsball.runtime.progress import Interrupted
from epsball.training.fit import TrainingState, batch_indices, describe
from epsball.training.trainer import Trainer

STILL = {"name": "noise", "eps": 0.0, "distribution": "sign"}  # gives the very images that it is crafted on
ONCE: dict[str, Any] = {
    **ADVERSARIAL,
    **{"crafted_on": "original", "crafted_once": True, "eps_rise": None, "include_self": False, "delay": 0},
}
DIVERSITY: dict[str, Any] = {"name": "diversity", "weight": 0.5, "data": None, "label_smoothing": 0.0}
TINY_STEP = {**OPTIMIZERS["sgd"], "lr": 1e-30, "weight_decay": 0.0}
PER_EPOCH = 4


def ensemble(seed: int = 0) -> Ensemble:
    """Three smooth networks of 6 x 6 pixels."""
    torch.manual_seed(seed)
    nets = [nn.Sequential(nn.Flatten(), nn.Linear(36, 5), nn.Tanh(), nn.Linear(5, 3)) for _ in range(3)]
    return Ensemble(list(nets), "mean_probability")


def images_in(model: nn.Module) -> list[Tensor]:
    """A list that grows by the images of every forward pass of `model` in train mode from now on."""
    seen: list[Tensor] = []
    model.register_forward_pre_hook(lambda m, inputs: seen.append(inputs[0].clone()) if m.training else None)
    return seen


def batches_of(steps: int, seed: int = 0) -> list[tuple[Tensor, Tensor]]:
    train = data().train
    return [train.take(index) for index in batch_indices(train, BATCH, seed, 0, steps)]


# ---- images before augmentation


@pytest.mark.parametrize("crafted_on", ["original", "augmented"])
@pytest.mark.parametrize("placement", ["append", "only"])
def test_examples_are_crafted_on_images_that_no_augmentation_has_changed(crafted_on: str, placement: str) -> None:
    own = {**ONCE, "attack": STILL, "crafted_on": crafted_on, "crafted_once": False, "include_self": True}
    by = trainer(objective={**own, "placement": placement, "passes": "two"}, epochs=1.0)
    assert by.augment is not None
    model = network()
    seen = images_in(model)
    fitted(by, model=model)
    crafted = seen[1::2] if placement == "append" else seen
    originals = [x for x, _ in batches_of(PER_EPOCH)]
    assert len(crafted) == PER_EPOCH
    assert [torch.equal(x, original) for x, original in zip(crafted, originals, strict=True)] == [
        crafted_on == "original"
    ] * PER_EPOCH
    if placement == "append":
        clean = seen[::2]
        assert not any(torch.equal(x, original) for x, original in zip(clean, originals, strict=True))
        assert identical(clean, crafted) == (crafted_on == "augmented")


@pytest.mark.parametrize("epochs", [0.5, 2.5])
def test_examples_made_once_are_of_the_whole_training_set_before_augmentation(epochs: float) -> None:
    source = network(seed=5).eval()
    attacked: list[Tensor] = []
    source.register_forward_pre_hook(lambda _, inputs: attacked.append(inputs[0].detach().clone()))
    one_step = {**PGD, "steps": 1, "start": "none", "start_share": 0.0, "step_size": None}
    fitted(trainer(objective={**ONCE, "attack": one_step}, epochs=epochs), sources=[source])
    assert torch.equal(torch.cat(attacked), to_unit(data().train.x))  # each once, in order


def test_an_image_has_the_same_example_in_every_epoch() -> None:
    model = network()
    seen = images_in(model)
    fitted(trainer(objective={**ONCE, "placement": "only"}), model=model, sources=[network(seed=5).eval()])
    examples: dict[int, list[Tensor]] = {}
    for index, x in zip(batch_indices(data().train, BATCH, 0, 0, STEPS), seen, strict=True):
        for place, one in zip(index.tolist(), x, strict=True):
            examples.setdefault(place, []).append(one)
    assert sorted(examples) == list(range(IMAGES)) and min(map(len, examples.values())) == 2
    originals = to_unit(data().train.x)
    for place, several in examples.items():
        assert all(torch.equal(several[0], one) for one in several)
        assert 0 < float((several[0] - originals[place]).abs().max()) <= PGD["eps"] + 1e-6


# ---- one seed, one training


def made_once(**fields: Any) -> Trainer:
    """A trainer on a source's examples, made once by a random attack."""
    schedule = {"name": "constant"}
    return trainer(**{"objective": ONCE, "schedule": schedule, "sources": {"static": {}}, **fields})


def trained(by: Trainer, recorder: Recorder | None = None, seed: int = 0) -> tuple[dict[str, Tensor], Any, Recorder]:
    return fitted(by, model=network(seed), recorder=recorder, sources=[network(seed=5).eval()])


@pytest.mark.parametrize("crafting_mode", ["train", "eval"])
@pytest.mark.parametrize("at", [1, 4, 7])
def test_a_training_on_examples_made_once_goes_on_bit_for_bit(at: int, crafting_mode: str) -> None:
    """They are made again, the same ones: no state holds them."""
    by = made_once(objective={**ONCE, "crafting_mode": crafting_mode})
    weights, curve, straight = trained(by)
    stopped = Recorder(interrupt_at=at)
    with pytest.raises(Interrupted):
        trained(by, stopped)
    again = Recorder(state=stopped.last)
    weights_again, curve_again, _ = trained(by, again, seed=99)
    assert identical(weights, weights_again) and curve == curve_again
    assert identical(straight.last, again.last)


@pytest.mark.parametrize("eps_distribution", ["fixed", "truncated_normal"])
def test_two_epochs_on_examples_made_once_begin_with_the_steps_of_one(eps_distribution: str) -> None:
    fgsm = {**PGD, "steps": 1, "start": "none", "start_share": 0.0, "step_size": None}
    objective = {**ONCE, "attack": fgsm, "eps_distribution": eps_distribution, "crafting_mode": "eval"}
    short, long = (made_once(objective=objective, epochs=epochs) for epochs in (1.0, 2.0))
    assert short.prolongs and long.prolongs
    each_batch = {**objective, "crafted_once": False}
    assert made_once(objective=each_batch).prolongs == (eps_distribution == "truncated_normal")
    passed: list[dict[str, Any]] = []
    recorder = Recorder()
    recorder.control.pass_checkpoint = passed.append
    trained(short, recorder)
    weights, curve, whole = trained(long)
    assert len(recorder.saved) == PER_EPOCH
    assert whole.saved[:PER_EPOCH] == recorder.saved
    weights_on, curve_on, _ = trained(long, Recorder(state=passed[0]), seed=99)
    assert identical(weights, weights_on) and curve == curve_on


def test_a_step_schedule_prolongs_no_examples_made_once() -> None:
    step = {"name": "step", "milestones": [0.5], "gamma": 0.1}
    assert not made_once(schedule=step).prolongs


# ---- terms of the loss on the learning curve


def loss_and_gal(model: Ensemble, x: Tensor, y: Tensor) -> tuple[float, float]:
    """Equations 8 and 9 of Kariyappa, written out: the cosines of all pairs of input gradients."""
    losses, gradients = [], []
    for member in model.members:
        inputs = x.clone().requires_grad_()
        loss = F.cross_entropy(member(inputs), y, reduction="none")
        gradients.append(torch.autograd.grad(loss.sum(), inputs)[0].flatten(1))
        losses.append(loss.detach())
    pairs = itertools.combinations(gradients, 2)
    exponentials = [F.cosine_similarity(a, b, dim=1).exp() for a, b in pairs]
    gal = torch.stack(exponentials).sum(0).log().mean()
    return float(torch.stack(losses).mean() + 0.5 * gal), float(gal)


def means(numbers: Sequence[float]) -> list[float]:
    """Of the steps of each epoch."""
    parts = numbers[:PER_EPOCH], numbers[PER_EPOCH : 2 * PER_EPOCH], numbers[2 * PER_EPOCH :]
    return [sum(part) / len(part) for part in parts if part]


def test_gal_on_the_learning_curve_by_hand() -> None:
    """With a learning rate of nearly nothing an epoch's GAL is the mean of its batches'."""
    model = ensemble()
    _, curve, _ = fitted(plain(objective=DIVERSITY, optimizer=TINY_STEP), seed=3, model=model)
    worked = [loss_and_gal(model, x, y) for x, y in batches_of(STEPS, seed=3)]
    gal = means([gal for _, gal in worked])
    assert [row["gal"] for row in curve] == pytest.approx(gal, rel=1e-5) and len(set(gal)) == 3
    assert [row["loss"] for row in curve] == pytest.approx(means([loss for loss, _ in worked]), rel=1e-5)


def test_gal_of_two_linear_members_is_their_cosine_in_every_epoch() -> None:
    """Two of three classes are in the data; the third's logit is so low that the weights (0, w) are all that counts."""
    members = []
    for weight in ([1.0, 0.0], [3.0, 4.0]):
        dense = nn.Linear(36, 3)
        with torch.no_grad():
            dense.weight.zero_()
            dense.weight[1, :2] = torch.tensor(weight)
            dense.bias.copy_(torch.tensor([0.0, 0.0, -200.0]))
        members.append(nn.Sequential(nn.Flatten(), dense))
    tiny = data()
    tiny = replace(tiny, train=replace(tiny.train, y=tiny.train.y.clamp(max=1)))
    by = plain(objective=DIVERSITY, optimizer=TINY_STEP)
    _, curve, _ = fitted(by, model=Ensemble(list(members), "mean_probability"), on=tiny)
    assert [row["gal"] for row in curve] == pytest.approx([0.6] * 3, abs=1e-5)


@pytest.mark.parametrize("objective", [STANDARD, ADVERSARIAL], ids=["standard", "adversarial"])
def test_other_losses_have_no_gal_on_the_learning_curve(objective: dict[str, Any]) -> None:
    _, curve, _ = fitted(plain(objective=objective, watch=None))
    assert {tuple(row) for row in curve} == {("epoch", "step", "lr", "loss", "clean_error", "clean_n")}


def test_an_epoch_in_words() -> None:
    row = {"epoch": 1.0, "step": 4, "lr": 0.1, "loss": 1.5, "clean_error": 0.25}
    assert describe(row) == "loss 1.5000, clean error 25.00%"
    assert describe({**row, "gal": 0.6}) == "loss 1.5000, GAL 0.6000, clean error 25.00%"
    watched = {**row, "gal": -0.5, "adversarial_error": 1.0, "adversarial_n": 5}
    assert describe(watched) == "loss 1.5000, GAL -0.5000, clean error 25.00%, attacked 100.00%"


# ---- the last backward pass


def test_no_gradient_reaches_the_images_and_the_weights_have_those_of_a_plain_pass() -> None:
    model = ensemble()
    reference = copy.deepcopy(model)
    leaves: dict[str, list[Tensor]] = {"fit": [], "plain": []}
    for name, each in (("fit", model), ("plain", reference)):
        for member in each.members:
            member.register_forward_pre_hook(lambda _, inputs, own=leaves[name]: own.append(inputs[0]))
    state = TrainingState.begin(model, plain(objective=DIVERSITY, optimizer=TINY_STEP), [], data(), 0)
    index = torch.arange(BATCH)
    state.advance(index, 0.0)
    x, y = data().train.take(index)
    state.objective(reference, x, y, 0)[0].backward()
    gradients = [[p.grad for p in each.parameters()] for each in (model, reference)]
    assert identical(*gradients) and all(g is not None and g.any() for g in gradients[0])
    assert all(len(own) == 3 and all(leaf.requires_grad for leaf in own) for own in leaves.values())
    assert [leaf.grad for leaf in leaves["fit"]] == [None] * 3
    assert all(leaf.grad is not None for leaf in leaves["plain"])  # where a plain pass leaves one
