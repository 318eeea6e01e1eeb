"""Errors after some steps and starts, losses along the way, and maxima: on linear models, where all are known."""

from dataclasses import replace
from math import isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from linear import CountingModel, Function, linear, seeded, towards_1, two_class
from squares import BATCH, CLASSES, EPS, FGSM, NOISE, WEIGHTS, assert_same, errors, frames, losses, make_setup, whole
from torch import Tensor, nn

from epsball.attacks import NamedAttack
from epsball.attacks.gradient import GradientAttack
from epsball.attacks.noise import NoiseAttack
from epsball.data.images import Split
from epsball.measurements.iterates import Followed, Look, increases_loss
from epsball.measurements.loss_paths import LossPaths, averaged
from epsball.measurements.maxima import ball_distance
from epsball.measurements.measurement import Row, Setup
from epsball.measurements.violations import Violation
from epsball.models.predictions import Mistakes
from epsball.models.wrappers import Ensemble
from epsball.results.distributions import Bins
from epsball.results.intervals import estimate_cell
from epsball.results.metrics import METRICS
from epsball.results.paired import packed_bits, unpacked_bits

R, STEPS, IMAGES = 3, 6, 20
PGD = replace(FGSM, steps=STEPS, step_size=0.04, start="uniform", start_share=1.0)
PATHS = LossPaths("pgd", None, images=IMAGES, restarts=R, steps=[2, STEPS], drawn=2, paths=True)


def setup_of(folder: Path, attack: GradientAttack = PGD, **changes: Any) -> Setup:
    return make_setup(folder, NamedAttack("pgd", attack), **changes)


def rows_of(measurement: LossPaths, setup: Setup) -> list[Row]:
    return measurement.measure(setup)["results"]


def one(rows: list[Row], has: str = "error_top1", **columns: Any) -> Row:
    """The one row that has a metric and these columns."""
    found = [r for r in rows if not isnan(r.get(has, nan)) and all(r.get(name) == v for name, v in columns.items())]
    assert len(found) == 1, (columns, found)
    return found[0]


def starts_of(setup: Setup, attack: GradientAttack, source: str) -> list[tuple[Tensor, Tensor, list[Tensor]]]:
    """Images, labels and starts, batch by batch, as the attack with R restarts draws them."""
    named = NamedAttack("pgd", replace(attack, restarts=R))
    generator, found = setup.generator(named, source), []
    first = Split(setup.test.x[:IMAGES], setup.test.y[:IMAGES])
    for x, y in first.batches(BATCH // R):
        found.append((x, y, [attack.draw_start(x, x.new_ones(()), generator) for _ in range(R)]))
    return found


def iterates(setup: Setup, attack: GradientAttack, source: str, steps: int) -> tuple[Tensor, Tensor]:
    """(R, N, ...) iterates of all starts after some steps, one start and one batch after another; labels."""
    found = []
    for x, y, starts in starts_of(setup, attack, source):
        states = [attack.begin(x, start, x.new_ones(()), y) for start in starts]
        for state in states:
            attack.advance(setup.models[source], state, steps)
        found.append((torch.stack([state.x_adv for state in states]), y))
    return torch.cat([x for x, _ in found], 1), torch.cat([y for _, y in found])


def told(name: str, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """(R, N) mistakes and losses of a model on (R, N, ...) examples."""
    pairs = [(errors(name, part, y), losses(name, part, y)) for part in x]
    return torch.stack([wrong for wrong, _ in pairs]), torch.stack([loss for _, loss in pairs])


# ---- errors


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("steps", [2, STEPS])
def test_errors_after_some_steps_are_those_of_an_attack_with_so_many(
    steps: int, momentum: float, tmp_path: Path
) -> None:
    """From the same starts, in the same batches: one start, and the worst of all as GradientAttack chooses it."""
    attack = replace(PGD, momentum=momentum)
    setup = setup_of(tmp_path, attack)
    rows = rows_of(PATHS, setup)
    shorter = replace(attack, steps=steps, restarts=R)
    for source in "AB":
        generator = setup.generator(NamedAttack("pgd", replace(attack, restarts=R)), source)
        first = Split(setup.test.x[:IMAGES], setup.test.y[:IMAGES])
        parts = [(shorter(setup.models[source], x, y, generator), y) for x, y in first.batches(BATCH // R)]
        x_adv, y = torch.cat([x for x, _ in parts]), torch.cat([y for _, y in parts])
        for target, worst in ((source, {}), ("BA"["AB".index(source)], {"worst_for": "source"})):
            row = one(rows, source=source, target=target, steps=steps, restarts=R, **worst)
            assert unpacked_bits(row["mistakes_top1"], IMAGES).tolist() == errors(target, x_adv, y).tolist()
            assert row["error_top1"] == float(errors(target, x_adv, y).double().mean())
            assert row["loss_mean"] == pytest.approx(float(losses(target, x_adv, y).mean()), rel=1e-5)
        single, y = iterates(setup, attack, source, steps)
        for target in "AB":
            row = one(rows, source=source, target=target, steps=steps, restarts=1)
            assert "worst_for" not in row and row["n"] == IMAGES
            assert row["error_top1"] == float(errors(target, single[0], y).double().mean())
            assert row["loss_mean"] == pytest.approx(float(losses(target, single[0], y).mean()), rel=1e-5)
            x, _ = whole(setup.test)
            assert row["clean_error_top1"] == float(errors(target, x[:IMAGES], y).double().mean())
            assert row["max_perturbation"] == pytest.approx(float((single[0] - x[:IMAGES]).abs().max()), abs=1e-6)


def test_worst_for_the_target_counts_an_image_that_any_start_fools(tmp_path: Path) -> None:
    setup = setup_of(tmp_path)
    rows = rows_of(PATHS, setup)
    for source, target in ("AB", "BA"):
        wrong, loss = told(target, *iterates(setup, PGD, source, STEPS))
        row = one(rows, source=source, target=target, steps=STEPS, restarts=R, worst_for="target")
        first = torch.where(wrong.any(0), wrong.int().argmax(0), loss.argmax(0))
        assert row["error_top1"] == float(wrong.any(0).double().mean())
        assert row["loss_mean"] == pytest.approx(float(loss.gather(0, first[None]).mean()), rel=1e-5)
        other = one(rows, source=source, target=target, steps=STEPS, restarts=R, worst_for="source")
        assert other["error_top1"] <= row["error_top1"]
    pairs = [(r["error_top1"], r["source"], r["target"]) for r in rows if r.get("worst_for")]
    assert len(pairs) == 2 * 2 * 2


def test_both_readings_by_hand() -> None:
    """Two images, three starts. The source is fooled by start 1 of the first image, and by none of the second, whose
    start 2 has the highest value; the target by starts 2 and 0."""
    source = mistaken([".x.", "..."], [[1.0, 2.0, 9.0], [1.0, 2.0, 3.0]])
    target = mistaken(["..x", "x.."], [[5.0, 7.0, 6.0], [4.0, 8.0, 1.0]])
    look = Look(torch.tensor([[0.0, 0.0, 9.0], [0.0, 1.0, 2.0]]), torch.tensor([[0.1, 0.2, 0.1]] * 2), {})
    look = look._replace(shown={"A": source, "B": target})
    seen = Followed("A", {4: look}, None, {}, 1.0)
    expected: dict[tuple[str, int, str | None], tuple[list[bool], list[float], float]] = {
        ("A", 1, None): ([False, False], [1, 1], 0.1),
        ("A", 3, None): ([True, False], [2, 3], 0.2),
        ("B", 1, None): ([False, True], [5, 4], 0.1),
        ("B", 3, "source"): ([False, False], [7, 1], 0.2),
        ("B", 3, "target"): ([True, True], [6, 4], 0.2),
    }
    for (model, restarts, worst_for), (wrong, loss, largest) in expected.items():
        found, reach = seen.reading(model, 4, restarts, worst_for)
        assert (found.top1.tolist(), found.losses.tolist()) == (wrong, loss), (model, restarts, worst_for)
        assert reach == pytest.approx(largest)
    standing = look._replace(shown={"A": source, "B": mistaken(["...", "..."], [[5.0, 7.0, 6.0], [4.0, 8.0, 1.0]])})
    assert replace(seen, looks={4: standing}).reading("B", 4, 3, "target")[0].losses.tolist() == [7, 8]


def mistaken(top1: list[str], found: list[list[float]]) -> Mistakes:
    return Mistakes(torch.tensor([[c == "x" for c in line] for line in top1]), None, torch.tensor(found))


def test_what_is_beyond_the_first_images_is_not_attacked(tmp_path: Path) -> None:
    test = Split(*(part[:IMAGES] for part in (setup_of(tmp_path).test.x, setup_of(tmp_path).test.y)))
    many, few = rows_of(PATHS, setup_of(tmp_path / "many")), rows_of(PATHS, setup_of(tmp_path / "few", test=test))
    assert_same(many, few, but=["seconds", "identity"])
    fewer = Split(test.x[:5], test.y[:5])
    assert {r["n"] for r in rows_of(PATHS, setup_of(tmp_path / "5", test=fewer)) if "error_top1" in r} == {5}


def test_top5_is_that_of_the_chosen_example(tmp_path: Path) -> None:
    weight = torch.randn(7, 4, generator=seeded(3))
    setup = setup_of(tmp_path, models={"A": linear(weight), "B": linear(weight.flip(0))})
    row = one(rows_of(PATHS, setup), source="A", target="A", steps=STEPS, restarts=1)
    x, y = iterates(setup, PGD, "A", STEPS)
    five = (x[0].flatten(1) @ weight.T).topk(5, 1).indices
    wrong = ~(five == y[:, None]).any(1)
    assert row["error_top5"] == float(wrong.double().mean()) > 0
    assert row["mistakes_top5"] == packed_bits(wrong.numpy())


def test_an_iterate_outside_the_ball_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def too_far(attack: GradientAttack, x: Tensor, *rest: Any) -> Any:
        return begin(replace(attack, eps=0.3), x, *rest)

    begin = GradientAttack.begin
    monkeypatch.setattr(GradientAttack, "begin", too_far)
    with pytest.raises(Violation, match=r"pgd eps 0.2 from 3 starts on A: eps is 0\.200000, an example lies 0\.3"):
        rows_of(PATHS, setup_of(tmp_path))


def test_maxima_of_an_ensemble_are_kept_apart_from_those_beside_the_gradient_of_its_common_loss(tmp_path: Path) -> None:
    setup = setup_of(tmp_path)
    ((named, source), *_) = PATHS.tasks(setup)
    single, other, own = (
        PATHS.parts(replace(setup, ensembles=names), named, source) for names in ([], ["B"], [source])
    )
    assert single == other and single[:-1] == own[:-1] and single[-1] != own[-1]


# ---- losses along the way


def test_a_network_with_a_layer_called_heads_has_one_loss() -> None:
    model = Function(linear(WEIGHTS["A"]))
    assert increases_loss(PGD, model) and not increases_loss(PGD, Ensemble([model], "vote"))
    model.heads = nn.Identity()
    assert increases_loss(PGD, model)


@pytest.mark.parametrize("loss", ["cross_entropy", "margin"])
def test_a_path_is_the_cross_entropy_of_each_iterate_whatever_the_attack_increases(loss: Any, tmp_path: Path) -> None:
    attack = replace(PGD, loss=loss, kappa=9.0 if loss == "margin" else 0.0)
    setup = setup_of(tmp_path, attack)
    rows = rows_of(PATHS, setup)
    for steps in range(STEPS + 1):
        x, y = iterates(setup, attack, "B", steps)
        _, loss_then = told("B", x, y)
        for image in (0, 1):
            for restart in range(R):
                row = one(rows, "path_loss", source="B", image=image, restart=restart, step=steps)
                assert row["path_loss"] == pytest.approx(float(loss_then[restart, image]), rel=1e-4, abs=1e-6)
        mean = one(rows, "path_loss_mean", source="B", step=steps)
        per_image = loss_then.mean(0)
        assert mean["path_loss_mean"] == pytest.approx(float(per_image.mean()), rel=1e-4) and mean["n"] == IMAGES
        assert mean["path_loss_sd"] == pytest.approx(float(per_image.std()), rel=1e-4)
    assert sum("path_loss" in row for row in rows) == 2 * 2 * R * (STEPS + 1)


def test_an_ensembles_path_is_the_loss_of_its_prediction(tmp_path: Path) -> None:
    """Which is not the mean of its members' losses, that an attack increases."""
    ensemble = Ensemble([linear(weight) for weight in NOISE], "mean_logit").eval()
    setup = setup_of(tmp_path, models={"A": ensemble})
    rows = rows_of(PATHS, setup)
    x, y = iterates(setup, PGD, "A", 0)
    z = x[0].flatten(1) @ NOISE.mean(0).T
    exact = z.logsumexp(1) - z[torch.arange(IMAGES), y]
    found = [one(rows, "path_loss", image=image, restart=0, step=0)["path_loss"] for image in (0, 1)]
    assert found == pytest.approx(exact[:2].tolist(), rel=1e-4)


def test_the_loss_along_the_way_costs_no_forward_pass(tmp_path: Path) -> None:
    counted = []
    for paths in (False, True):
        models = {"A": CountingModel(linear(WEIGHTS["A"]))}
        rows_of(replace(PATHS, paths=paths, steps=[STEPS]), setup_of(tmp_path / str(paths), models=models))
        counted.append(models["A"].images)
    assert counted[0] == counted[1]


def test_without_paths_there_are_none(tmp_path: Path) -> None:
    rows = rows_of(replace(PATHS, paths=False), setup_of(tmp_path))
    assert not any("step" in row for row in rows) and one(rows, "final_loss", source="A")


# ---- maxima


def test_final_losses_and_their_spread(tmp_path: Path) -> None:
    setup = setup_of(tmp_path)
    rows = rows_of(replace(PATHS, bins=Bins(0, 20, 4, log=False)), setup)
    _, loss = told("A", *iterates(setup, PGD, "A", STEPS))
    row = one(rows, "final_loss", source="A")
    assert (row["n"], row["restarts"]) == (IMAGES, R) and row["target"] == "A" and "steps" not in row
    assert row["final_loss"] == pytest.approx(float(loss.mean()), rel=1e-4)
    assert row["final_loss_sd"] == pytest.approx(float(loss.mean(0).std()), rel=1e-4)
    assert row["restart_loss_sd"] == pytest.approx(float(loss.std(0).mean()), rel=1e-4)
    assert row["restart_loss_sd_sd"] == pytest.approx(float(loss.std(0).std()), rel=1e-4)
    assert row["loss_outlier_share"] == 0  # of three values none can be beyond the outer fences
    for image in (0, 1):
        own = loss[:, image]
        drawn = one(rows, "loss_mean", source="A", image=image)
        assert drawn["loss_mean"] == pytest.approx(float(own.mean()), rel=1e-4) and drawn["n"] == R
        assert drawn["loss_sd"] == pytest.approx(float(own.std()), rel=1e-3)
        bins = [r for r in rows if r.get("image") == image and r["source"] == "A" and "loss_share" in r]
        assert [(r["bin_low"], r["bin_high"]) for r in bins] == [(0, 5), (5, 10), (10, 15), (15, 20)]
        counts = torch.histc(own, 4, 0, 20) / R
        assert [r["loss_share"] for r in bins] == pytest.approx(counts.tolist())


def test_outliers_are_counted_over_images_and_starts(tmp_path: Path) -> None:
    """A narrow peak of the loss that few of many starts find."""
    grey = Split(torch.full((2, 1, 1, 1), 128, dtype=torch.uint8), torch.tensor([0, 0]))
    still = replace(PGD, steps=1, step_size=1e-7, eps=0.25)

    def peaked(x: Tensor) -> Tensor:
        u = x.flatten(1)[:, 0]
        return torch.stack([torch.zeros_like(u), u + 50.0 * (u > 0.74)], 1)

    rows = rows_of(replace(PATHS, restarts=50), setup_of(tmp_path, still, models={"A": Function(peaked)}, test=grey))
    setup = setup_of(tmp_path, still, models={"A": Function(peaked)}, test=grey)
    generator, high = setup.generator(NamedAttack("pgd", replace(still, restarts=50)), "A"), 0
    for x, _ in grey.batches(1):
        high += sum(int((still.draw_start(x, x.new_ones(()), generator) > 0.74).sum()) for _ in range(50))
    assert 0 < high < 10 and one(rows, "loss_outlier_share")["loss_outlier_share"] == pytest.approx(high / 100)


def test_a_linear_model_of_two_classes_has_one_maximum(tmp_path: Path) -> None:
    """The corner of the ball along the gradient's signs."""
    direction = torch.tensor([3.0, -1.0, 2.0, -4.0])
    grey = Split(torch.full((4, 1, 2, 2), 128, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    attack = replace(PGD, steps=12)
    setup = setup_of(tmp_path, attack, models={"A": two_class(direction)}, test=grey)
    row = one(rows_of(replace(PATHS, drawn=1), setup), "final_loss")
    cosine = float(direction.abs().sum() / (2 * direction.norm()))
    assert (row["maxima_distance"], row["maxima_angle"]) == pytest.approx((0, 0), abs=1e-4)
    assert row["gradient_cosine"] == pytest.approx(cosine, rel=1e-5) and row["negative_gradient_share"] == 0
    assert row["ball_distance"] == ball_distance(EPS, 4) and row["starts_distance"] > 0.1
    end = 128 / 255 * direction.sum() + EPS * direction.abs().sum()
    assert row["final_loss"] == pytest.approx(float(torch.log1p(end.exp())), rel=1e-5)


def test_the_cosine_is_with_the_whole_gradient_where_a_model_is_sure(tmp_path: Path) -> None:
    """With a margin of 40 the cross-entropy's, in float32, lacks what the label's own logit has."""
    other, own = torch.ones(4), torch.tensor([0.0, 0.0, 0.0, -9.0])
    grey = Split(torch.full((4, 1, 2, 2), 128, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))

    def sure(x: Tensor) -> Tensor:
        return torch.stack([x.flatten(1) @ own, x.flatten(1) @ other - 50], 1)

    row = one(
        rows_of(PATHS, setup_of(tmp_path, replace(PGD, steps=12), models={"A": Function(sure)}, test=grey)),
        "final_loss",
    )
    along = other - own
    assert row["gradient_cosine"] == pytest.approx(float(along.sum() / (2 * along.norm())), rel=1e-5)


def test_starts_are_as_far_apart_as_points_of_the_ball(tmp_path: Path) -> None:
    """Where the box does not cut it, and steps are too small to lead elsewhere."""
    grey = Split(torch.full((8, 1, 12, 12), 128, dtype=torch.uint8), torch.zeros(8, dtype=torch.int64))
    still = replace(PGD, steps=1, step_size=1e-7)
    setup = setup_of(tmp_path, still, models={"A": two_class(torch.ones(144))}, test=grey)
    row = one(rows_of(replace(PATHS, restarts=40, steps=[1]), setup), "final_loss")
    assert row["starts_distance"] == pytest.approx(ball_distance(EPS, 144), rel=0.01)
    assert row["maxima_distance"] == pytest.approx(row["starts_distance"], rel=1e-4)
    assert row["maxima_angle"] == pytest.approx(90, abs=1)
    assert row["negative_gradient_share"] == pytest.approx(0.5, abs=0.15)


def test_a_model_without_gradient_has_no_cosine(tmp_path: Path) -> None:
    setup = setup_of(tmp_path, models={"A": linear(torch.zeros(CLASSES, 4))})
    row = one(rows_of(PATHS, setup), "final_loss")
    assert isnan(row["gradient_cosine"]) and row["negative_gradient_share"] == 0 and row["gradient_cosine_n"] == 0


def test_a_mean_of_those_images_that_have_it_counts_these() -> None:
    """A row whose images all have it says nothing more, as published ones do."""
    assert averaged("maxima_angle", np.array([80.0, 100.0])).keys() == {"maxima_angle", "maxima_angle_sd"}
    row = {"n": 6, **averaged("maxima_angle", np.array([80.0, nan, 100.0, nan, nan, 90.0]))}
    assert (row["maxima_angle"], row["maxima_angle_sd"], row["maxima_angle_n"]) == (90.0, 10.0, 3)
    assert estimate_cell([row], METRICS["maxima_angle"]).high == pytest.approx(90 + 4.302653 * 10 / 3**0.5)
    assert estimate_cell([{**row, "maxima_angle_n": nan}], METRICS["maxima_angle"]).high == pytest.approx(
        90 + 2.570582 * 10 / 6**0.5
    )


# ---- rows that are kept


def test_a_target_that_joins_needs_no_other_rows_again(tmp_path: Path) -> None:
    alone = rows_of(PATHS, setup_of(tmp_path, targets=["A"]))
    both = setup_of(tmp_path)
    assert PATHS.workload(replace(both, sources=["A"], targets=["A"])).models == set()
    assert PATHS.workload(replace(both, sources=["A"])).models == {"A", "B"}
    rows = rows_of(PATHS, both)
    kept = {row["identity"]: row["seconds"] for row in alone if "seconds" in row}
    assert kept == {row["identity"]: row["seconds"] for row in rows if row["identity"] in kept and "seconds" in row}


@pytest.mark.parametrize(
    ("changes", "errors_stay", "maxima_stay"),
    [
        ({"images": 7}, False, False),
        ({"restarts": 2}, False, False),
        ({"drawn": 1}, True, False),
        ({"paths": False}, True, False),
        ({"bins": Bins(0, 9, 3, log=False)}, True, False),
        ({"steps": [STEPS]}, True, True),
        ({"sources": ["A", "B"]}, True, True),
    ],
)
def test_rows_stay_where_nothing_of_theirs_changes(
    changes: dict[str, Any], errors_stay: bool, maxima_stay: bool, tmp_path: Path
) -> None:
    setup, other = setup_of(tmp_path), replace(PATHS, **changes)
    ((named, source), *_), ((changed, _), *_) = PATHS.tasks(setup), other.tasks(setup)
    before, after = PATHS.parts(setup, named, source), other.parts(setup, changed, source)
    for stays, own in ((errors_stay, slice(-1)), (maxima_stay, slice(-1, None))):
        known = [part.what for part in before[own]]
        assert all((part.what in known) == stays for part in after[own])
    assert len({setup.identity(part.what, source, part.target) for part in before}) == len(before)


# ---- settings


def test_settings_that_make_no_sense_are_refused() -> None:
    for changes, message in (
        ({"restarts": 1}, "restarts should be at least 2, is 1: one start has no spread"),
        ({"images": 0}, "images should be at least 1, is 0"),
        ({"steps": []}, "steps should be numbers from 1 on, rising, is []"),
        ({"steps": [0, 2]}, "steps should be numbers from 1 on, rising, is [0, 2]"),
        ({"steps": [4, 2]}, "steps should be numbers from 1 on, rising, is [4, 2]"),
        ({"drawn": 21}, "drawn should be in [0, images], is 21 of 20"),
    ):
        with pytest.raises(ValueError) as caught:
            replace(PATHS, **changes)
        assert str(caught.value) == message


REFUSED: list[tuple[dict[str, Any], list[Any], str]] = [
    ({"attack": "pdg"}, [PGD], "attack names 'pdg' (did you mean 'pgd'?): the attacks are pgd"),
    ({}, [], "attack names 'pgd': the attacks are (none)"),
    ({"steps": [2, 7]}, [PGD], "steps should be at most 6, as pgd has, is [2, 7]"),
    ({"sources": ["C"]}, [PGD], "sources names 'C': they are A, B"),
    *(
        ({}, [attack], "attack names 'pgd': it should be a gradient attack with a random start and keep: last")
        for attack in (replace(PGD, start="none", start_share=0.0), replace(PGD, keep="best"), NoiseAttack(0.1, "sign"))
    ),
]


@pytest.mark.parametrize(("changes", "attacks", "message"), REFUSED)
def test_what_cannot_be_followed_is_refused(changes: dict[str, Any], attacks: list[Any], message: str) -> None:
    with pytest.raises(ValueError) as caught:
        replace(PATHS, **changes).check(["A", "B"], ["A", "B"], [NamedAttack("pgd", attack) for attack in attacks])
    assert str(caught.value) == message


def test_sources_and_every_eps_of_the_attack(tmp_path: Path) -> None:
    attacks = [NamedAttack("pgd", replace(PGD, eps=eps)) for eps in (0.1, 0.2)] + [NamedAttack("other", PGD)]
    rows = rows_of(replace(PATHS, sources=["B"]), make_setup(tmp_path, *attacks))
    assert {(row["source"], row["attack"], row["eps"]) for row in rows} == {("B", "pgd", 0.1), ("B", "pgd", 0.2)}


# ---- shown


def test_tables_and_text(tmp_path: Path) -> None:
    rows = rows_of(PATHS, setup_of(tmp_path))
    shown = frames({"results": [{"measurement": "loss_paths", **row} for row in rows]}, seeds=(0, 1))
    by_steps, maxima = PATHS.present(shown, tmp_path)
    assert by_steps.table is not None and maxima.table is not None
    table = by_steps.table.set_index(["source", "target", "starts", "worst for"])
    assert list(table.columns) == ["attack", "eps", "2 steps", "6 steps"] and len(table) == 2 * (2 + 3)
    row = one(rows, source="A", target="B", steps=2, restarts=R, worst_for="target")
    assert table.loc[("A", "B", R, "target"), "2 steps"] == f"{100 * row['error_top1']:.1f}"
    own = one(rows, "final_loss", source="B")
    line = maxima.table.set_index("source").loc["B"]
    assert line["final loss"] == f"{own['final_loss']:.3g}" and line["angle, degrees"] == f"{own['maxima_angle']:.3g}"
    assert line["against the gradient, %"] == f"{100 * own['negative_gradient_share']:.3g}"
    assert PATHS.say(shown).splitlines()[1].startswith(f"B, pgd eps 0.2: final loss {own['final_loss']:.3g}, its sd")
    assert PATHS.present(frames({"results": [{"measurement": "clean"}]}), tmp_path) == []
    assert PATHS.say(frames({"results": [{"measurement": "clean"}]})) == ""


def test_the_worst_of_several_starts_is_of_what_the_attack_increases(tmp_path: Path) -> None:
    grey = Split(torch.full((4, 1, 1, 1), 128, dtype=torch.uint8), torch.zeros(4, dtype=torch.int64))
    still = replace(PGD, steps=1, step_size=1e-7, eps=0.25, label="least_likely")
    setup = setup_of(tmp_path, still, models={"A": Function(towards_1)}, test=grey)
    row = one(rows_of(replace(PATHS, steps=[1], drawn=1), setup), source="A", restarts=R)
    starts = torch.cat([torch.stack(own) for _, _, own in starts_of(setup, still, "A")], 1)
    expected = torch.nn.functional.cross_entropy(towards_1(starts.amax(0)), grey.y)
    assert row["loss_mean"] == pytest.approx(float(expected), rel=1e-4)
