"""Gradient aligned adversarial subspaces of linear models, whose adversarial directions are counted by hand."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch
from linear import Brightness, Curve, NoFloat64, batch_sizes, linear, seeded, softmax_gradient, two_class
from squares import CLASSES, EPS, PIXELS, WEIGHTS, errors, frames, make_setup, whole
from torch import Tensor, nn

from epsball.attacks.losses import GradientsOf
from epsball.build import ConfigError, construct
from epsball.data.images import Batched, Split
from epsball.experiment.prepare import prepare_experiment
from epsball.measurements.gaas import Gaas, Subspace, aligned, count_adversarial, gaas_row
from epsball.measurements.hadamard import regular_hadamard
from epsball.measurements.measurement import Measurement, Row, Rows, Setup
from epsball.paper.claims import Claim, judge_claim
from epsball.paper.figures import Figure
from epsball.paper.points import figure_points
from epsball.paper.values import by_seed
from epsball.runtime.progress import Interrupted, Stop

Measure = Callable[[Measurement, Setup], Rows]
Tiny = Callable[..., dict[str, Any]]
OF: GradientsOf = "log_cross_entropy"
FOUR = 1 - 2 * torch.eye(4)  # a regular Hadamard matrix
BOTH = Gaas(images=None, eps=[0.1, EPS], directions=[1, 4], gradients_of=OF)
KNOWN = "1, 4, 16, 36, 64, 144, 256 or another product of 4 and 36"


def counted(
    model: nn.Module,
    test: Split,
    eps: Sequence[float],
    directions: Sequence[int],
    batch_size: int = 100,
    of: GradientsOf = OF,
) -> dict[tuple[float, int], list[int]]:
    subspaces = [Subspace(each, k) for each in eps for k in directions]
    found = count_adversarial(model, of, Batched(test, batch_size, Stop()), subspaces, "gaas")
    return {tuple(subspace): fooling.tolist() for subspace, fooling in found.items()}


def grey(count: int, pixels: int, label: int = 0, value: int = 51) -> Split:
    """Images of one brightness, 0.2 unless told."""
    return Split(torch.full((count, 1, 1, pixels), value, dtype=torch.uint8), torch.full((count,), label))


def margin_of_one(weight: Tensor, label: int = 0, value: float = 0.2) -> Curve:
    """Two classes: grey images have their label by 1, which a change along `weight` must exceed to be adversarial."""
    sign = 1 - 2 * label
    return Curve(lambda pixels: sign * ((pixels - value) @ weight - 1)).eval()


def by_hand(name: str, test: Split, eps: float, directions: int) -> list[int]:
    """Numbers of adversarial directions of the images that a model of `squares` gets right, of 1 or 4 directions."""
    x, y = whole(test)
    x, y = x[~errors(name, x, y)], y[~errors(name, x, y)]
    sign = softmax_gradient(WEIGHTS[name], x, y).sign()
    rows = {1: torch.ones(1, 4), 4: FOUR}[directions]
    adversarial = [errors(name, (x + eps * row.view(1, 1, 2, 2) * sign).clamp(0, 1), y) for row in rows]
    return torch.stack(adversarial).sum(0).tolist()


# ---- regular Hadamard matrices


@pytest.mark.parametrize("order", [1, 4, 16, 36, 64, 144])
def test_rows_are_orthogonal_and_have_equal_sums(order: int) -> None:
    matrix = regular_hadamard(order)
    assert matrix.shape == (order, order) and torch.equal(matrix.abs(), torch.ones(order, order))
    assert torch.equal(matrix @ matrix.T, order * torch.eye(order))
    assert matrix.sum(1).tolist() == [order**0.5] * order


@pytest.mark.parametrize(
    ("order", "why"),
    [
        *((order, "") for order in (0, -4, 2, 8, 12, 100)),
        *((order, f": there is no Hadamard matrix of order {order}") for order in (25, 6)),
    ],
)
def test_other_orders_are_refused(order: int, why: str) -> None:
    with pytest.raises(ValueError) as caught:
        regular_hadamard(order)
    assert str(caught.value) == f"order should be {KNOWN}, is {order}{why}"


# ---- directions


@pytest.mark.parametrize(("shape", "order"), [((1, 2, 2), 4), ((2, 4, 4), 16), ((1, 8, 9), 36), ((3, 4, 4), 1)])
def test_directions_of_an_image_are_orthogonal_and_equally_aligned(shape: tuple[int, ...], order: int) -> None:
    sign = torch.randn(5, *shape, generator=seeded()).sign()
    matrix = regular_hadamard(order)
    found = aligned(matrix, sign)
    assert found.shape == (order, 5, *shape) and torch.equal(found.abs(), torch.ones_like(found))
    assert torch.equal((found * sign).flatten(2)[..., :order], matrix[:, None].expand(-1, 5, -1))  # a row, then again
    pixels = sign[0].numel()
    for directions, gradient in zip(found.flatten(2).transpose(0, 1), 0.25 * sign.flatten(1), strict=True):
        assert torch.equal(directions @ directions.T, pixels * torch.eye(order))
        assert (directions @ gradient).tolist() == [0.25 * pixels / order**0.5] * order  # |gradient|_1 / sqrt(k)


def test_pixels_beyond_the_last_whole_k_stay_as_they_are() -> None:
    sign = torch.tensor([1.0, -1, -1, 1, -1, 1]).view(1, 1, 2, 3)
    found = aligned(regular_hadamard(4), sign).flatten(1)
    assert torch.equal(found[:, 4:], torch.zeros(4, 2))
    assert torch.equal(found[:, :4] @ found[:, :4].T, 4 * torch.eye(4))
    weight = torch.tensor([3.0, 3, 3, 3, 100, 100])  # each direction changes the logit by 2 * 3 * eps
    own = counted(margin_of_one(weight), grey(2, 6), [0.15, 0.18], [1, 4])
    assert own == {(0.15, 1): [1, 1], (0.15, 4): [0, 0], (0.18, 1): [1, 1], (0.18, 4): [4, 4]}


# ---- counts


@pytest.mark.parametrize("label", [0, 1])
@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_of_weights_of_one_size_all_or_none_are_adversarial(label: int, batch_size: int) -> None:
    """Every direction changes the logit by eps * 16 / sqrt(k)."""
    weight = torch.tensor([1.0, -1] * 8)
    own = counted(margin_of_one(weight, label), grey(5, 16, label), [0.1, 0.15], [1, 4, 16], batch_size)
    expected = {(0.1, 1): 1, (0.1, 4): 0, (0.1, 16): 0, (0.15, 1): 1, (0.15, 4): 4, (0.15, 16): 0}
    assert own == {subspace: [number] * 5 for subspace, number in expected.items()}


def test_of_other_weights_those_that_are_long_enough() -> None:
    """Four directions change the logit by eps times 15 less twice a weight: -1, 7, 11, 13."""
    model = margin_of_one(torch.tensor([8.0, -4, 2, 1]))
    own = counted(model, grey(3, 4), [0.0, 0.07, 0.08, 0.1, 0.2], [4])
    assert {eps: fooling for (eps, _), fooling in own.items()} == {
        **{0.0: [0] * 3, 0.07: [0] * 3, 0.08: [1] * 3, 0.1: [2] * 3, 0.2: [3] * 3}
    }


def test_examples_stay_in_the_image_box() -> None:
    """White pixels cannot become brighter: of weights that want it, only each row's -1 changes anything."""
    model = margin_of_one(torch.full((4,), 10.0), value=1.0)
    seen: list[Tensor] = []
    model.register_forward_hook(lambda _module, inputs, _output: seen.append(inputs[0].detach()))
    assert counted(model, grey(1, 4, value=255), [0.25], [4]) == {(0.25, 4): [0]}
    _, examples = seen
    assert torch.equal(examples.flatten(1).sort(1).values, torch.tensor([[0.75, 1, 1, 1]] * 4))


def test_an_image_without_a_gradient_has_no_adversarial_direction() -> None:
    assert counted(linear(torch.zeros(2, 4)), grey(2, 4), [1.0], [1, 4]) == {(1.0, 1): [0, 0], (1.0, 4): [0, 0]}


@pytest.mark.parametrize("scale", [1, 300])
def test_a_model_that_is_sure_keeps_its_directions(scale: int) -> None:
    """The logits' scale changes no prediction; at a margin of 300 the cross-entropy has no gradient in float32."""
    weight = torch.tensor([8.0, -4, 2, 1])
    model = Curve(lambda pixels: scale * ((pixels - 0.2) @ weight - 1)).eval()
    expected = {(0.1, 1): [1, 1], (0.1, 4): [2, 2]}
    assert counted(model, grey(2, 4), [0.1], [1, 4], of="log_cross_entropy") == expected
    rounded = counted(model, grey(2, 4), [0.1], [1, 4], of="cross_entropy")
    assert rounded == (expected if scale == 1 else {subspace: [0, 0] for subspace in expected})


def test_the_gradient_of_a_batch_is_taken_once() -> None:
    """However many eps and k: passes with gradients are those of the batches, and no pass has more images than one."""
    model = two_class(torch.ones(16))
    sizes, graded = batch_sizes(model), list[int]()
    model.register_forward_hook(lambda _m, inputs, _o: graded.extend([len(inputs[0])] * torch.is_grad_enabled()))
    counted(model, grey(20, 16, label=1), [0.1, 0.2, 0.3], [1, 4, 16], batch_size=8)
    assert graded == [8, 8, 4] and max(sizes) == 8
    assert sum(sizes) == 20 * (1 + 3 * (1 + 4 + 16))


def test_it_stops_between_two_passes() -> None:
    model, stop = two_class(torch.ones(4)), Stop()
    sizes = batch_sizes(model)
    model.register_forward_hook(lambda *_: setattr(stop, "signum", 15))
    with pytest.raises(Interrupted):
        count_adversarial(model, OF, Batched(grey(8, 4), 4, stop), [Subspace(0.1, 4)], "gaas")
    assert sizes == [4]


def test_nothing_is_computed_in_float64_on_the_device() -> None:
    with NoFloat64("cpu"):
        assert counted(two_class(torch.ones(4)), grey(2, 4, label=1), [0.1], [4]) == {(0.1, 4): [0, 0]}


# ---- rows


def test_a_row_is_the_share_of_images_and_of_directions() -> None:
    row = gaas_row(torch.tensor([4, 4, 3, 0, 1]), 4)
    assert row == {"directions": 4, "n": 5, "gaas_all": 0.4, "gaas_share": 0.6}


def test_each_target_has_a_row_of_each_eps_and_k(measured: Measure, tmp_path: Path) -> None:
    setup = make_setup(tmp_path)
    clean, rows = (measured(BOTH, setup)["results"][part] for part in (slice(2), slice(2, None)))
    assert [(row["measurement"], row["target"], row["attack"]) for row in clean] == [
        ("clean", m, "clean") for m in "AB"
    ]
    key = ("measurement", "source", "target", "attack", "eps", "directions")
    assert [tuple(row[name] for name in key) for row in rows] == [
        ("mine", name, name, "gaas", eps, k) for name in "AB" for eps in (0.1, EPS) for k in (1, 4)
    ]
    for row in rows:
        fooling = by_hand(row["target"], setup.test, row["eps"], row["directions"])
        assert row["n"] == len(fooling) < 50  # only images that the target classifies correctly
        assert row["gaas_all"] == sum(number == row["directions"] for number in fooling) / len(fooling)
        assert row["gaas_share"] == sum(fooling) / len(fooling) / row["directions"]
    assert len({row["gaas_share"] for row in rows}) == len({row["identity"] for row in rows}) == 8


def test_the_first_images_alone(tmp_path: Path) -> None:
    setup = make_setup(tmp_path)
    rows = {number: replace(BOTH, images=number).measure(setup)["results"][3] for number in (20, 50, 70, None)}
    fooling = by_hand("A", Split(setup.test.x[:20], setup.test.y[:20]), EPS, 4)
    assert rows[20]["n"] == len(fooling) < 20 and rows[20]["gaas_share"] == sum(fooling) / len(fooling) / 4
    assert rows[50] == rows[70] == rows[None] and rows[20]["identity"] != rows[50]["identity"]


def test_only_a_new_k_is_measured(tmp_path: Path) -> None:
    """Images shown: the test set, to find which are correct; these for their gradients, and for each direction."""
    first = replace(BOTH, directions=[4]).measure(make_setup(tmp_path))["results"]
    setup = make_setup(tmp_path)
    shown = {name: batch_sizes(model) for name, model in setup.models.items()}
    rows = BOTH.measure(setup)["results"]
    assert [row for row in rows if row["directions"] == 4] == first
    correct = {row["target"]: row["n"] for row in first}
    assert {name: sum(sizes) for name, sizes in shown.items()} == {name: 50 + 3 * n for name, n in correct.items()}
    again = make_setup(tmp_path)
    shown = {name: batch_sizes(model) for name, model in again.models.items()}
    assert BOTH.workload(again).models == set() and BOTH.measure(again)["results"] == rows and not any(shown.values())


def test_a_target_without_gradients_has_a_clean_row_alone(measured: Measure, tmp_path: Path) -> None:
    models = {"A": linear(WEIGHTS["A"]), "forest": Brightness()}
    rows = measured(BOTH, make_setup(tmp_path, models=models, sources=["A"]))["results"]
    assert {row["target"] for row in rows if row["attack"] == "gaas"} == {"A"}
    shown = frames(measured(BOTH, make_setup(tmp_path, models={"forest": Brightness()}, sources=[])))
    assert BOTH.present(shown, tmp_path) == [] and BOTH.say(shown) == ""


def test_a_target_that_is_never_right_has_rows_without_numbers(measured: Measure, tmp_path: Path) -> None:
    setup = make_setup(tmp_path, models={"A": linear(torch.zeros(CLASSES, PIXELS))}, test=grey(5, PIXELS, label=2))
    found = measured(BOTH, setup)
    again = measured(BOTH, replace(setup, models={}))["results"][1:]
    for row in [*found["results"][1:], *again]:
        assert row["n"] == 0 and row["gaas_all"] != row["gaas_all"] and row["gaas_share"] != row["gaas_share"]
    assert len(again) == 4 and BOTH.present(frames(found), tmp_path) == [] and BOTH.say(frames(found)) == ""


# ---- what is shown


def test_they_are_shown_as_means_over_the_seeds(tmp_path: Path) -> None:
    keys = {"measurement": "gaas", "target": "A", "eps": 0.1}
    clean = {"measurement": "clean", "target": "A", "eps": 0.0, "n": 50}
    numbers = [(0, 4, 20, 0.25, 0.5), (0, 16, 20, 0.0, 0.125), (1, 4, 30, 0.75, 1.0), (1, 16, 30, 0.5, 0.25)]
    columns = ("seed", "directions", "n", "gaas_all", "gaas_share")
    shown = {"results": pd.DataFrame([clean, *({**keys, **dict(zip(columns, own, strict=True))} for own in numbers)])}
    (section,) = BOTH.present(shown, tmp_path)
    assert section.table is not None and list(section.table.columns) == [
        *("target", "eps", "directions", "images", "all adversarial, %", "adversarial, %")
    ]
    assert section.table.values.tolist() == [
        ["A", "0.1", 4, "25", "50.0", "75.0"],
        ["A", "0.1", 16, "25", "25.0", "18.8"],
    ]
    expected = "A, eps 0.1: all k directions (their share) adversarial, 4: 50.0% (75.0%), 16: 25.0% (18.8%)\n"
    assert BOTH.say(shown) == expected


def in_a_file(rows: Sequence[Row]) -> list[Row]:
    """Rows as a frame has them: clean ones have NaN where these have directions."""
    return [{str(name): value for name, value in row.items()} for row in pd.DataFrame(rows).to_dict("records")]


def test_a_figure_has_a_line_over_the_directions(measured: Measure, tmp_path: Path) -> None:
    spec = {"title": "Figure 5", "kind": "line", "x": "directions", "lines": {"base": "A", "div": "B"}}
    rows = in_a_file(measured(BOTH, make_setup(tmp_path))["results"])
    for metric in ("gaas_all", "gaas_share"):
        y = f"{metric}({{line}} | {{line}}, gaas, eps=0.1, directions={{x}})"
        figure = construct(Figure, {**spec, "y": y, "unit": "percent"}, where="figures.f")
        points = figure_points({"f": figure}, rows)
        expected = {(row["target"], row["directions"]): 100 * row[metric] for row in rows if row["eps"] == 0.1}
        assert points[["line", "x"]].values.tolist() == [[line, k] for line in ("base", "div") for k in (1, 4)]
        assert list(points["y"]) == pytest.approx(list(expected.values()))
        assert (points["low"] <= points["y"]).all() and (points["y"] <= points["high"]).all()


@pytest.mark.parametrize(("sign", "verdict"), [("<", "confirmed"), (">", "refuted")])
def test_a_claim_says_which_eps_and_how_many_directions(sign: str, verdict: str, tmp_path: Path) -> None:
    models = {"A": margin_of_one(torch.ones(4)), "B": margin_of_one(torch.full((4,), 6.0))}  # by 2 and by 12 eps
    rows = BOTH.measure(make_setup(tmp_path, models=models, test=grey(50, 4)))["results"]
    for eps, k, found in ((0.1, 4, verdict), (EPS, 4, verdict), (EPS, 16, "open"), (0.3, 4, "open")):
        check = f" {sign} ".join(f"gaas_share({name} | {name}, gaas, eps={eps}, directions={k})" for name in models)
        (judged,) = judge_claim(Claim("says", [check]), by_seed(in_a_file(rows)))
        assert judged.verdict == found  # what was not measured is open


# ---- what cannot be measured is said before anything is trained


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("directions=[4,25]", f"directions: order should be {KNOWN}, is 25: there is no Hadamard matrix of order 25"),
        ("directions=[8]", f"directions: order should be {KNOWN}, is 8"),
        ("directions=[0]", f"directions: order should be {KNOWN}, is 0"),
        ("directions=[4,1024]", "directions should be at most 784, the pixels of an image, is 1024"),
        ("directions=[4,4]", "directions should be one value or more, each once, is [4, 4]"),
        ("directions=[]", "directions should be one value or more, each once, is []"),
        ("eps=[]", "eps should be one value or more, each once, is []"),
        ("eps=[0.1,0.1]", "eps should be one value or more, each once, is [0.1, 0.1]"),
        ("eps=[0.1,1.5]", "eps should be in [0, 1], is [0.1, 1.5]"),
        ("eps=[-0.1]", "eps should be in [0, 1], is [-0.1]"),
        ("images=0", "images should be at least 1 or null, is 0"),
    ],
)
def test_a_wrong_setting_is_named_in_one_line(words: str, message: str, tiny: Tiny) -> None:
    with pytest.raises(ConfigError) as caught:
        prepare_experiment(tiny("measurement=gaas", f"measurement.{words}"))
    assert str(caught.value) == f"measurement.{message}"
