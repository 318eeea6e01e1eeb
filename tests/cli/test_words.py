"""The words of a command line."""

from argparse import Action, ArgumentParser

import pytest

from epsball.cli.words import accept_lazy_help, hydra_parser, in_order


class Lazy:
    """Help that is no text, as Hydra's of --shell-completion."""


def test_help_that_is_no_text_is_not_looked_into(monkeypatch: pytest.MonkeyPatch) -> None:
    """As argparse does from Python 3.14 on, for each argument that is added; a text it goes on looking into."""

    def check(parser: ArgumentParser, action: Action) -> None:
        if "%" in action.help:  # type: ignore[operator]
            raise ValueError("badly formed help string")

    accept_lazy_help()  # once in a process, and what is to be there after this test
    monkeypatch.setattr(ArgumentParser, "_check_help", check, raising=False)
    accept_lazy_help.__wrapped__()
    for parser in (ArgumentParser(), hydra_parser()):
        parser._check_help(Action(["--lazy"], "lazy", help=Lazy()))  # type: ignore[arg-type, attr-defined]
        with pytest.raises(ValueError, match="badly formed"):
            parser._check_help(Action(["--text"], "text", help="50 %"))  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("words", "ordered"),
    [
        ("trainer=madry --info defaults seed=1", "--info defaults trainer=madry seed=1"),
        ("trainer=madry --info", "--info all trainer=madry"),
        ("-i trainer=madry", "-i all trainer=madry"),
        ("seed=1 --cfg job -m arch=mnist_a", "--cfg job -m seed=1 arch=mnist_a"),
    ],
)
def test_flags_and_their_values_may_stand_anywhere(words: str, ordered: str) -> None:
    assert in_order(words.split()) == ordered.split()
