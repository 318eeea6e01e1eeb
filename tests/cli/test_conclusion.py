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


def test_a_conclusion_of_no_claims_is_told(main: Callable[..., Ended]) -> None:
    words = "conclusion={confirmed: Fragile, refuted: Robust, open: Unknown}"
    ended = main(*tiny_line(words, "experiment=mine", "missing=skip"))
    assert ended.code == 0 and "conclusion changes nothing: mine has no claims that it could sum up" in ended.err
    assert "changes nothing" not in main(*tiny_line(words, CLAIM, "missing=skip")).err


def test_a_conclusion_beside_parts_is_of_claims_beside_them(main: Callable[..., Ended], tmp_path: Path) -> None:
    (tmp_path / "conf" / "paper").mkdir(parents=True)
    claim = CLAIM.removeprefix("+claims.one=")
    ends = "conclusion: {confirmed: Fragile, refuted: Robust, open: Unknown}"
    said = {"one": f"claims: {{one: {claim}}}", "two": "", "all": f"parts: [one, two]\n{ends}"}
    for name, text in said.items():
        text = f"# @package _global_\nexperiment: own/{name}\n{text}\n"
        (tmp_path / "conf" / "paper" / f"{name}.yaml").write_text(text)
    ended = main(*tiny_line("paper=all", f"hydra.searchpath=[file://{tmp_path / 'conf'}]", "missing=skip"))
    told = "conclusion changes nothing: own/all, beside its parts, has no claims that it could sum up"
    assert ended.code == 0 and ended.err.count("changes nothing") == 1 and told in ended.err, ended.err
