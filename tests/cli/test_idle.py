"""Words of the command line that change nothing are told."""

from collections.abc import Callable

import pytest
from commands import Ended, tiny_line

from epsball.cli.idle import Composed, compose, idle_words, labelling_words

OWN = "what is run has its own, one at a time set by"


def idle(*words: str) -> list[str]:
    return idle_words([compose(words)], words)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["paper=tramer/table4", "trainer.epochs=3", "seed=1"], {"trainer.epochs=3": "models.NAME.trainer.epochs"}),
        (["paper=madry/table1", "arch.width=2", "arch=madry_mnist"], {"arch.width=2": "models.NAME.arch.width"}),
        (["paper=tramer/table4", "eps=0.2"], {}),
        (["paper=tramer/table4", "~trainer.name"], {"~trainer.name": "models.NAME.trainer.name"}),
        (
            ["paper=tramer/table4", "arch=resnet20", "trainer=madry"],
            {"arch=resnet20": "arch@models.NAME.arch", "trainer=madry": "trainer@models.NAME.trainer"},
        ),
        (
            ["paper=tramer/table4", "optimizer@trainer.optimizer=sgd", "+attack@trainer.watch.attack=pgd_20"],
            {
                "optimizer@trainer.optimizer=sgd": "optimizer@models.NAME.trainer.optimizer",
                "+attack@trainer.watch.attack=pgd_20": "+attack@models.NAME.trainer.watch.attack",
            },
        ),
        (["paper=tramer/table4", "arch=mnist_a"], {}),  # which its models have: a file may have named it for that
        (["paper=kurakin/table1", "eps=0.2"], {"eps=0.2": "suite.NAME.eps"}),
        (
            ["paper=kariyappa/table2_conv3", "trainer.precision=bf16", "trainer.batch_size=8"],
            {"trainer.precision=bf16": "models.NAME.trainer.precision"},
        ),
    ],
)
def test_what_nothing_refers_to_is_told(words: list[str], told: dict[str, str]) -> None:
    assert idle(*words) == [f"{word} changes nothing: {OWN} {key}" for word, key in told.items()]


@pytest.mark.parametrize(
    "words",
    [
        ["trainer.epochs=3", "arch.activation={name: tanh}", "eps=0.1", "trainer=madry"],  # the model under test's
        ["arch=mnist_c", "optimizer@trainer.optimizer=sgd", "arch@models.holdout.arch=mnist_d"],
        ["paper=kariyappa/table2_conv3", "arch=ensemble_mix"],
        ["trainer.optimizer={name: sgd, lr: 0.1}", "+trainer.objective.extra=1"],
        ["paper=kurakin/table1", "trainer.batch_size=64", "trainer.objective.delay=0", "arch.width=0.25"],
        ["paper=kariyappa/table2_conv3", "trainer.augment=null", "arch.copies=3"],
        ["paper=kurakin/figure1", "arch.width=1"],  # by way of the widths of its grid
        ["diagnostic=masking", "trainer.epochs=1"],
    ],
)
def test_what_acts_is_not(words: list[str]) -> None:
    assert idle(*words) == []


def test_of_several_parts_one_that_a_word_acts_on_is_enough() -> None:
    words, taken = ["eps=0.2", "trainer.epochs=3"], []

    def part(paper: str) -> Composed:
        taken.append(paper)
        return compose([*words, f"paper={paper}"])

    told = f"trainer.epochs=3 changes nothing: {OWN} models.NAME.trainer.epochs"
    assert idle_words(map(part, ["tramer/table7", "tramer/table2"]), words) == [told]  # eps acts on the second
    acting = ["kurakin/table1", "tramer/table2", "kurakin/table3"]
    taken.clear()
    assert idle_words(map(part, acting), words) == [] and taken == acting[:2]  # no more than needed


def test_a_trainers_name_is_told_to_be_a_label() -> None:
    grid = "grid.g={model: target, values: {t: [standard, madry]}, keys: {t: trainer.name}}"
    telling = ["trainer.name=standard", "+models.copy.trainer.name=madry", grid, "grid.g.keys.t=trainer.name"]
    others = [
        "arch.name=mnist_d",
        "attack.name=noise",
        "~trainer.name",
        "trainer.objective.name=standard",
        "trainer=madry",
    ]
    told = labelling_words([*telling, *others])
    assert [text.partition(" changes the label of a trainer alone: trainer=OPTION")[0] for text in told] == telling


def test_a_run_says_so(main: Callable[..., Ended]) -> None:
    ended = main(*tiny_line("suite=none", "attack=none", "eps=0.1", "trainer.name=madry"))
    assert ended.code == 0 and "trainer.name=madry changes the label" in ended.err
    assert f"eps=0.1 changes nothing: {OWN} suite.NAME.eps" in ended.err
