"""One sentence at the head of a report and at the end of what is printed."""

from collections.abc import Callable
from pathlib import Path

from commands import Ended, tiny_line

CLAIM = "+claims.one={says: Some are fooled, paper: no numbers, checks: ['error(target | target, fgsm) > 0.01']}"


def test_a_run_ends_in_its_conclusion(main: Callable[..., Ended], tmp_path: Path) -> None:
    words = "conclusion={confirmed: Fragile, refuted: Robust, open: Unknown}"
    ended = main(*tiny_line(CLAIM, words, f"hydra.run.dir={tmp_path / 'run'}"))
    assert ended.code == 0, ended.err
    assert "\nFragile: its one statement is confirmed.\n" in ended.out
    report = (tmp_path / "run" / "report.md").read_text()
    assert report.index("## Conclusion\n\nFragile: its one statement") < report.index("## Claims")


def test_a_wrong_conclusion_is_told_before_training(main: Callable[..., Ended], tmp_path: Path) -> None:
    for words, told in (
        ("conclusion={confirmed: Fragile, refuted: Robust}", "conclusion.open is missing: it should be a text"),
        ("conclusion={confirmd: Fragile}", "conclusion.confirmd is not a field (did you mean 'confirmed'?)"),
        ("conclusion=fine", "conclusion should be a group of fields, is 'fine'"),
    ):
        ended = main(*tiny_line(CLAIM, words))
        assert ended.code == 2 and told in ended.err and len(ended.err.splitlines()) == 1
    assert not (tmp_path / "outputs").exists()
