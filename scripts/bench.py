"""What the benchmarks share: components out of conf/, alternating rounds, ratios, a table and a CSV."""

import argparse
import csv
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from epsball.cli.compose import composed

__all__ = ["Table", "composed", "options", "rounds"]


def options(out: str, repeats: int) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=sys.modules["__main__"].__doc__)
    parser.add_argument("--repeats", type=int, default=repeats, help="rounds; medians are of these")
    parser.add_argument("--out", type=Path, default=Path(out), help="CSV to write")
    parser.add_argument("--batch", type=int, help="images per batch, where a benchmark has one")
    parser.add_argument("--only", default="", help="groups whose name has this in it, where a benchmark has groups")
    parser.add_argument("--device", default="cpu")
    return parser.parse_args()


def rounds(who: Mapping[str, Callable[[], object]], repeats: int, device: str = "cpu") -> dict[str, list[float]]:
    """Seconds of each function in `repeats` rounds that call all in turn, after one round that warms up."""
    times: dict[str, list[float]] = {name: [] for name in who}
    for i in range(repeats + 1):
        for name, function in who.items():
            began = time.perf_counter()
            function()
            if device != "cpu":
                torch.cuda.synchronize()
            if i:
                times[name].append(time.perf_counter() - began)
    return times


class Table:
    """Lines for the terminal and for a CSV: times as ratios to the `base` of the same round."""

    def __init__(self, *keys: str) -> None:
        self.rows = [[*keys, "who", "ratio_median", "ratio_low", "ratio_high", "ms_median"]]
        print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")

    def add(self, keys: tuple[str, ...], times: dict[str, list[float]], base: str) -> None:
        for name, taken in times.items():
            ratios = sorted(t / b for t, b in zip(taken, times[base], strict=True))
            middle, ms = statistics.median(ratios), 1000 * statistics.median(taken)
            spread = f"[{ratios[0]:.2f}, {ratios[-1]:.2f}]"
            print(f"{'  '.join(keys):34} {name:26} {middle:7.2f} {spread:>16} {ms:10.1f} ms", flush=True)
            self.rows.append([*keys, name, *(f"{v:.4f}" for v in (middle, ratios[0], ratios[-1], ms))])

    def write(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", newline="") as file:
            csv.writer(file).writerows(self.rows)
        print(f"wrote {path}")
