"""Write all that conf/ composes, as plain values, into one file: what a change of the YAML should leave alone.

python scripts/dump_configs.py before.json; ...; python scripts/dump_configs.py after.json
python scripts/dump_configs.py before.json after.json    # compares: exit code 1 when a value or an order differs
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from epsball.build import one_line
from epsball.cli.compose import CONF, SCALES, composed

ORDERED = (
    *("models", "suite", "measurements", "tables", "rows", "columns", "paper", "claims", "sources", "members"),
    *("figures", "lines", "panels", "values", "for"),
)
"""keys of mappings whose order shows in results"""


def options(group: str) -> list[str]:
    folder = CONF / group
    return sorted(path.relative_to(folder).with_suffix("").as_posix() for path in folder.rglob("*.yaml"))


def command_lines() -> Iterator[tuple[str, ...]]:
    """Yield every option of every group by itself, at every scale; what reaches into them; what is chosen elsewhere."""
    for scale in SCALES:
        for group in ("dataset", "arch", "trainer", "attack", "suite", "models", "measurement", "diagnostic", "paper"):
            yield from ((f"{group}={option}", f"scale={scale}") for option in options(group))
        yield from ((f"+model@models.X={model}", "models=none", f"scale={scale}") for model in options("model"))
    for group in ("trainer", "attack", "suite", "models", "paper"):
        yield from ((f"{group}={option}", "eps=0.1", "seed=3", "precision=bf16") for option in options(group))
    for dataset in ("mnist", "cifar10"):
        yield from ((f"dataset={dataset}", f"{g}={o}", "scale=paper") for g in ("trainer", "suite") for o in options(g))
    for attack in options("attack"):
        if attack != "none":
            yield (f"attack={attack}", "attack.eps=0.2", f"+attack@suite.mine={attack}")
            yield (f"attack@trainer.objective.attack={attack}", "dataset=cifar10")
    for trainer in options("trainer"):
        yield (f"trainer={trainer}", "trainer.optimizer.lr=0.02", "trainer.epochs=2", "models=alone", "arch=ensemble")
        yield (f"trainer@models.natural.trainer={trainer}", f"+trainer@trainer.sources.mine.trainer={trainer}")
    for paper in options("paper"):
        yield (f"paper={paper}", "dataset=digits", "suite=kurakin", "attack=pgd_100", "models=companions", "seeds=2")
    yield ("paper=tramer/table1", "models.A_adv.trainer.epochs=12", "suite.fgsm.eps=[0.1,0.2]")
    yield ("paper=tramer/table4", "models.A_adv_12.seed=5", "models.A_adv_ens.trainer.objective.source_choice=rotate")
    yield ("suite=kurakin", "suite.fgsm.eps=0.1", "arch=ensemble", "arch@arch.members.member=conv4")
    yield ("suite=madry", "suite.pgd.restarts=5", "attack=pgd", "attack.restarts=20", "dataset=cifar10")


def dump() -> dict[str, Any]:
    """Return the composed config, or the refusal, by command line."""
    found: dict[str, Any] = {}
    for line in command_lines():
        try:
            found[" ".join(line)] = composed(*line)
        except Exception as error:
            found[" ".join(line)] = f"refused: {one_line(error)}"
    return found


def differences(before: Any, after: Any, where: str, key: str = "") -> Iterator[str]:
    """Yield where two values differ; the order of a mapping counts where it has a meaning."""
    if isinstance(before, dict) and isinstance(after, dict):
        yield from (f"{where}.{name} is missing, was {value!r}" for name, value in before.items() if name not in after)
        yield from (f"{where}.{name} is new: {value!r}" for name, value in after.items() if name not in before)
        shared = [name for name in before if name in after]
        if key in ORDERED and shared != [name for name in after if name in before]:
            yield f"{where}: order was {list(before)}, is {list(after)}"
        for name in shared:
            yield from differences(before[name], after[name], f"{where}.{name}", name)
    elif type(before) is not type(after) or repr(before) != repr(after):
        yield f"{where} was {before!r}, is {after!r}"


def compared(before: dict[str, Any], after: dict[str, Any]) -> dict[str, list[str]]:
    """Return the command lines of every difference."""
    found: dict[str, list[str]] = {}
    for line, config in before.items():
        told = differences(config, after[line], "") if line in after else ["does not compose any more"]
        for difference in told:
            found.setdefault(difference, []).append(line)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="+", type=Path, help="a file to be written, or two to be compared")
    files = parser.parse_args().files
    if len(files) == 1:
        files[0].write_text(json.dumps(found := dump(), indent=1))
        print(f"{len(found)} configs, {sum(isinstance(c, str) for c in found.values())} refused")
        return 0
    before, after = (json.loads(file.read_text()) for file in files)
    found = compared(before, after)
    for difference, lines in found.items():
        print(f"{len(lines)} configs: {difference.removeprefix('.')}    (such as {lines[0]})")
    new = set(after) - set(before)
    print(f"{len(before)} configs, {len(new)} new, {len(found)} kinds of difference")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
