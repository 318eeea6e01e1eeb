"""Coherence of ensembles of linear models, whose members' gradients are known."""

import itertools
import math
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from linear import Brightness, NoFloat64, batch_sizes, linear, seeded, softmax_gradient, two_class
from squares import CLASSES, PIXELS, frames, make_setup, whole
from torch import Tensor, nn

from epsball.build import ConfigError
from epsball.data.images import Batched, Split
from epsball.experiment.prepare import prepare_experiment
from epsball.measurements.coherence import Alignment, Coherence, alignment, alignment_rows
from epsball.measurements.measurement import Measurement, Rows, Setup
from epsball.measurements.targets import over_batches
from epsball.models.wrappers import Ensemble
from epsball.results.distributions import Bins
from epsball.runtime.progress import Interrupted, Stop

Measure = Callable[[Measurement, Setup], Rows]
Config = dict[str, Any]
ALL = Coherence(images=None, bins=None)
BINS = Bins(low=0.0, high=1.0, number=4, log=False)
WEIGHTS = {name: torch.randn(3, CLASSES, PIXELS, generator=seeded(seed)) for seed, name in enumerate("AB")}


def ensemble(members: Sequence[nn.Module]) -> Ensemble:
    return Ensemble(list(members), "mean_probability").eval().requires_grad_(False)


def along(*directions: Sequence[float]) -> Ensemble:
    """Members of two classes whose gradients point along these, whatever the image, all forth or all back."""
    return ensemble([two_class(torch.tensor(direction, dtype=torch.float32)) for direction in directions])


def squares(count: int, pixels: int = PIXELS, label: int | None = None) -> Split:
    x = torch.randint(0, 256, (count, 1, 1, pixels), generator=seeded(5), dtype=torch.uint8)
    y = torch.randint(2, (count,), generator=seeded(6)) if label is None else torch.full((count,), label)
    return Split(x, y)


def found(model: nn.Module, test: Split, batch_size: int = 100) -> Alignment:
    return over_batches(partial(alignment, model), Batched(test, batch_size, Stop()), "coherence")


def setup_of(folder: Path, **changes: Any) -> Setup:
    """Return the setup of two ensembles of three members, of random weights."""
    models = {name: ensemble([linear(weight) for weight in weights]) for name, weights in WEIGHTS.items()}
    return make_setup(folder, **{"models": models, **changes})


def expected(name: str, test: Split) -> tuple[Tensor, Tensor]:
    """Return (N,) coherence and GAL of an ensemble of `setup_of`, in float64."""
    x, y = whole(test)
    a, b, c = (softmax_gradient(w.double(), x.double(), y).flatten(1) for w in WEIGHTS[name])
    cosines = torch.stack([F.cosine_similarity(*two) for two in ((a, b), (a, c), (b, c))])
    return cosines.amax(0), cosines.exp().sum(0).log()


# ---- of each image


def test_by_hand() -> None:
    """Cosines 0.6, 0 and -0.8; of four components 3, 2 and 3 are zero."""
    own = found(along([2, 0, 0, 0], [3, 4, 0, 0], [0, -0.1, 0, 0]), squares(7))
    expected = 0.6, math.log(math.exp(0.6) + 1 + math.exp(-0.8)), 2 / 3
    for values, value in zip(own, expected, strict=True):
        assert values.shape == (7,) and values.tolist() == pytest.approx([value] * 7, rel=1e-6)


@pytest.mark.parametrize("batch_size", [1, 16, 50, 100])
def test_it_is_of_each_images_own_gradients(batch_size: int, tmp_path: Path) -> None:
    setup = setup_of(tmp_path)
    own, (coherence, gal) = found(setup.models["A"], setup.test, batch_size), expected("A", setup.test)
    assert torch.allclose(own.coherence.double(), coherence, atol=1e-5)
    assert torch.allclose(own.gal.double(), gal, atol=1e-5)
    assert own.coherence.std() > 0.1 and not own.zero_components.any()
    assert not any(values.requires_grad for values in own)


def test_members_are_asked_one_by_one_whatever_the_ensembles_rule() -> None:
    weights = WEIGHTS["A"]
    for rule in ("mean_probability", "mean_logit", "vote"):  # a vote has no gradient
        model = Ensemble([linear(weight) for weight in weights], rule).eval()
        assert torch.equal(found(model, squares(5)).coherence, found(ensemble(model.members), squares(5)).coherence)


def test_each_member_is_run_once() -> None:
    model = ensemble([linear(weight) for weight in WEIGHTS["A"]])
    passes = [batch_sizes(member) for member in model.members]
    found(model, squares(20), 16)
    assert passes == [[16, 4]] * 3


@pytest.mark.parametrize("scale", [1, 100])
def test_confident_predictions_have_a_direction(scale: float) -> None:
    """The loss is 2e-35, and 0 at a hundred times the weights; the cosine of its gradients does not depend on that."""
    a, b = [-40.0 * scale, -40.0 * scale, 0.0, 0.0], [-56.0 * scale, -24.0 * scale, 0.0, 0.0]
    white = Split(torch.full((3, 1, 1, 4), 255, dtype=torch.uint8), torch.zeros(3, dtype=torch.long))
    own = found(along(a, b), white)
    cosine = (40 * 56 + 40 * 24) / (math.hypot(40, 40) * math.hypot(56, 24))
    assert own.coherence.tolist() == pytest.approx([cosine] * 3, rel=1e-5)
    assert own.zero_components.tolist() == [0.5] * 3


@pytest.mark.parametrize(
    ("gone", "coherence", "zero_components"), [([[0] * 4], 0.6, 9 / 12), ([[0] * 4] * 2, 0.6, 13 / 16)]
)
def test_a_gradient_that_is_zero_has_cosine_0(
    gone: list[list[float]], coherence: float, zero_components: float
) -> None:
    """Of members without weights."""
    white = Split(torch.full((3, 1, 1, 4), 255, dtype=torch.uint8), torch.zeros(3, dtype=torch.long))
    own = found(along([2, 0, 0, 0], [3, 4, 0, 0], *gone), white)
    assert own.coherence.tolist() == pytest.approx([coherence] * 3)
    pairs = math.comb(2 + len(gone), 2)
    assert own.gal.tolist() == pytest.approx([math.log(math.exp(0.6) + pairs - 1)] * 3)
    assert own.zero_components.tolist() == pytest.approx([zero_components] * 3)


def test_opposite_members_with_one_that_is_zero_have_coherence_0() -> None:
    assert found(along([1, 0, 0, 0], [-1, 0, 0, 0]), squares(2)).coherence.tolist() == [-1, -1]
    assert found(along([1, 0, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 0]), squares(2)).coherence.tolist() == [0, 0]


@pytest.mark.parametrize(("n", "lowest", "highest"), [(3, 0.599, 2.099), (5, 2.053, 3.303)])
def test_bounds_of_gal(n: int, lowest: float, highest: float) -> None:
    """Least for members as far apart as can be, a simplex; most for equal ones."""
    simplex, test = torch.eye(n) - 1 / n, squares(30, pixels=n)
    apart, equal = (found(along(*directions.tolist()), test) for directions in (simplex, torch.ones(n, n)))
    assert apart.gal.tolist() == pytest.approx([lowest] * 30, abs=6e-4)
    assert apart.coherence.tolist() == pytest.approx([-1 / (n - 1)] * 30, abs=1e-6)
    assert equal.gal.tolist() == pytest.approx([highest] * 30, abs=6e-4)
    assert equal.coherence.tolist() == pytest.approx([1.0] * 30)
    own = found(ensemble([linear(torch.randn(2, n, generator=seeded(k))) for k in range(n)]), test)
    assert (own.gal > lowest - 6e-4).all() and (own.gal < highest + 6e-4).all()
    assert (own.gal >= own.coherence).all()  # a smooth maximum lies above the maximum


# ---- rows


def test_a_row_is_means_and_deviations() -> None:
    own = Alignment(torch.tensor([0.5, -0.5, 0.75]), torch.tensor([1.0, 2.0, 3.0]), torch.tensor([0.0, 0.5, 1.0]))
    (row,) = alignment_rows(own, None)
    assert row == {
        **{"n": 3, "coherence_mean": 0.25, "coherence_sd": pytest.approx(0.4375**0.5)},
        **{"gal_mean": 2.0, "gal_sd": 1.0},
        **{"gradient_zero_components_mean": 0.5, "gradient_zero_components_sd": 0.5},
    }
    assert {type(value) for value in row.values()} == {int, float}


def test_each_target_has_a_row_of_its_own(measured: Measure, tmp_path: Path) -> None:
    setup = setup_of(tmp_path)
    rows = measured(ALL, setup)["results"]
    assert [(row["measurement"], row["source"], row["target"], row["attack"], row["eps"]) for row in rows] == [
        *(("clean", name, name, "clean", 0.0) for name in "AB"),
        *(("mine", name, name, "clean", 0.0) for name in "AB"),
    ]
    for row in rows[2:]:
        coherence, gal = expected(row["target"], setup.test)
        assert row["n"] == 50 and row["gradient_zero_components_mean"] == 0
        for quantity, values in (("coherence", coherence), ("gal", gal)):
            assert row[f"{quantity}_mean"] == pytest.approx(float(values.mean()), abs=1e-5)
            assert row[f"{quantity}_sd"] == pytest.approx(float(values.std()), abs=1e-5)
    assert rows[2]["coherence_mean"] != pytest.approx(rows[3]["coherence_mean"], abs=0.01)


def test_the_first_images_alone(measured: Measure, tmp_path: Path) -> None:
    setup = setup_of(tmp_path)
    rows = {number: measured(Coherence(number), setup)["results"][2] for number in (20, 50, 70, None)}
    first = expected("A", Split(setup.test.x[:20], setup.test.y[:20]))[0]
    assert rows[20]["n"] == 20 and rows[20]["coherence_mean"] == pytest.approx(float(first.mean()), abs=1e-5)
    assert rows[50] == rows[70] == rows[None] and rows[50]["n"] == 50  # the test set has 50
    assert rows[20]["identity"] != rows[50]["identity"]


def test_with_bins_a_histogram_stands_below_the_means(measured: Measure, tmp_path: Path) -> None:
    setup = setup_of(tmp_path)
    plain = next(row for row in measured(ALL, setup)["results"][2:] if row["target"] == "A")
    whole_row, *rows = (row for row in measured(Coherence(None, BINS), setup)["results"][2:] if row["target"] == "A")
    edges = [0.0, 0.25, 0.5, 0.75, 1.0]
    assert [(row["bin_low"], row["bin_high"]) for row in rows] == list(itertools.pairwise(edges))
    coherence, _ = expected("A", setup.test)
    counts = torch.histogram(coherence, torch.tensor(edges, dtype=torch.float64)).hist
    assert [row["coherence_share"] for row in rows] == pytest.approx((counts / 50).tolist()) and (counts > 0).all()
    assert all(row["n"] == 50 and "gal_mean" not in row for row in rows)
    assert {row["identity"] for row in rows} == {whole_row["identity"]} != {plain["identity"]}
    assert {**plain, "identity": whole_row["identity"]} == whole_row


def test_what_was_finished_before_a_stop_is_not_measured_again(tmp_path: Path) -> None:
    setup = setup_of(tmp_path)
    setup.models["B"].members[0].register_forward_hook(lambda *_: setattr(setup.stop, "signum", 15))
    with pytest.raises(Interrupted):
        ALL.measure(setup)
    again = setup_of(tmp_path)
    assert ALL.workload(again).models == {"B"}
    passes = [batch_sizes(model.members[0]) for model in again.models.values()]
    rows = ALL.measure(again)["results"]
    assert [row["target"] for row in rows] == ["A", "B"] and [sum(seen) for seen in passes] == [0, 50]
    assert ALL.workload(again).models == set()


def test_a_target_without_gradients_has_a_clean_row_alone(measured: Measure, tmp_path: Path) -> None:
    models = {"A": along([1, 0, 0, 0], [0, 1, 0, 0]), "forest": Brightness()}
    test = squares(50)
    rows = measured(ALL, setup_of(tmp_path, models=models, sources=["A"], test=test))["results"]
    assert [(row["measurement"], row["target"]) for row in rows] == [("clean", "A"), ("clean", "forest"), ("mine", "A")]
    shown = frames(measured(ALL, setup_of(tmp_path, models={"forest": Brightness()}, sources=[], test=test)))
    assert ALL.present(shown, tmp_path) == [] and ALL.say(shown) == ""


def test_they_are_shown_as_means_over_the_seeds(measured: Measure, tmp_path: Path) -> None:
    rows = measured(Coherence(None, BINS), setup_of(tmp_path))["results"]
    other = [{**row, "seed": 1, "gal_mean": 3 * row["gal_mean"]} if "gal_mean" in row else row for row in rows]
    shown = {"results": pd.DataFrame([*rows, *other])}
    (section,) = ALL.present(shown, tmp_path)
    assert section.table is not None and list(section.table["target"]) == ["A", "B"]
    whole_rows = [row for row in rows if "gal_mean" in row]
    assert list(section.table["GAL"].astype(float)) == pytest.approx(
        [2 * row["gal_mean"] for row in whole_rows], abs=1e-4
    )
    assert list(section.table["mean"].astype(float)) == pytest.approx(
        [row["coherence_mean"] for row in whole_rows], abs=1e-4
    )
    first, second = ALL.say(shown).splitlines()
    a = whole_rows[0]
    numbers = f"coherence {a['coherence_mean']:.4f}, sd {a['coherence_sd']:.4f}, GAL {2 * a['gal_mean']:.4f}"
    assert first == f"A: {numbers}, 0.00% of components zero" and second.startswith("B: coherence ")


# ---- the device


def test_nothing_is_computed_in_float64_on_the_device() -> None:
    with NoFloat64("cpu"):
        own = found(along([1, 0, 0, 0], [0, 1, 0, 0]), squares(20), 8)
    assert all(values.dtype is torch.float32 for values in own)


def test_no_value_is_read_before_the_end() -> None:
    """Tensors on the meta device have none: whatever waits for the device fails there."""
    model, test = along([1, 0, 0, 0], [0, 1, 0, 0]).to("meta"), squares(20).to("meta")
    own = found(model, test, 8)
    assert [values.shape for values in own] == [(20,)] * 3
    with pytest.raises(NotImplementedError, match="Cannot copy out of meta tensor"), NoFloat64("meta"):
        alignment_rows(own, None)


# ---- what cannot be measured is said before anything is trained


def as_ensemble(config: Config, name: str, copies: int) -> None:
    spec = config["models"][name]
    members = {"member": spec["arch"]}
    spec["arch"] = {"name": "ensemble", "members": members, "copies": copies, "rule": "mean_probability"}


@pytest.mark.parametrize("place", ["measurement", "measurements.mine"])
def test_a_target_that_is_no_ensemble_is_named(place: str, tiny: Callable[..., Config]) -> None:
    config = tiny("models=companions", "targets=[target,natural,copy]")
    coherence: Config = {"name": "coherence", "images": None, "bins": None}
    config |= {"measurement": coherence} if place == "measurement" else {"measurements": {"mine": coherence}}
    as_ensemble(config, "target", 2)
    as_ensemble(config, "copy", 1)
    with pytest.raises(ConfigError) as caught:
        prepare_experiment(config)
    assert str(caught.value) == (
        f"{place}.name is coherence, which needs targets of at least two members, unlike copy, natural: "
        "leave these out of targets, or give them arch=ensemble"
    )
    prepared = prepare_experiment({**config, "targets": ["target"]})  # the others are sources alone
    assert {name: spec.members for name, spec in prepared.specs.items() if name in ("target", "copy")} == {
        **{"target": 2, "copy": 1}
    }


def test_a_forest_beside_an_ensemble_is_not_refused(tiny: Callable[..., Config]) -> None:
    config = tiny("measurement=coherence", "+model@models.forest=random_forest")
    as_ensemble(config, "target", 2)
    assert prepare_experiment(config).targets == ["target", "forest"]


@pytest.mark.parametrize("images", [0, -1])
def test_no_images_are_refused(images: int) -> None:
    with pytest.raises(ValueError, match=f"^images should be at least 1 or null, is {images}$"):
        Coherence(images)
