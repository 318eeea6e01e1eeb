"""What the rows of `results.csv` mean: intervals, ties, means over seeds, distance to the paper. No files here.

Rates are fractions in [0, 1] throughout. A row belongs to one (seed, source, target, attack, eps); a clean row
has attack `clean`, eps 0 and source == target; white-box means source == target.
"""

from collections.abc import Callable, Sequence
from math import isnan, nan, sqrt
from statistics import NormalDist
from typing import Literal

import pandas as pd

Interval = Callable[[float, float], tuple[float, float]]  # (low, high) of k of n
KEY = ("dataset", "source", "target", "attack", "eps")
RATES = ("error_top1", "error_top5", "transfer_rate_top1", "transfer_rate_top5", "clean_error_top1")


def wilson(k: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """Wilson's score interval for a rate of which `k` of `n` trials were seen, as (low, high) fractions.

    It stays inside [0, 1] and is not empty at k = 0 or k = n, unlike `normal`. ValueError unless 0 <= k <= n, n > 0.
    Source: E. B. Wilson, J. Amer. Statist. Assoc. 22 (1927).
    """
    q = checked_z(k, n, confidence)
    scale = 1 + q * q / n
    centre = (k / n + q * q / (2 * n)) / scale
    half = q * sqrt(k * (n - k) / n + q * q / 4) / (n * scale)
    return (0.0 if k == 0 else centre - half), (1.0 if k == n else centre + half)


def normal(k: float, n: float, confidence: float = 0.95) -> tuple[float, float]:
    """The normal (Wald) interval of the papers, p ± z sqrt(p(1-p)/n), as (low, high) fractions, not clamped.

    ValueError unless 0 <= k <= n, n > 0. Source: Tramèr et al. 2018, caption of Table 4 (their ± at 95 %).
    """
    q = checked_z(k, n, confidence)
    p = k / n
    half = q * sqrt(p * (1 - p) / n)
    return p - half, p + half


def checked_z(k: float, n: float, confidence: float) -> float:
    """Two-sided normal quantile of `confidence`, once `k` of `n` is seen to be possible (else ValueError)."""
    if not n > 0:
        raise ValueError(f"n should be positive, is {n}")
    if not 0 <= k <= n:
        raise ValueError(f"k should lie in [0, {n}], is {k}")
    if not 0 < confidence < 1:
        raise ValueError(f"confidence should lie in (0, 1), is {confidence}")
    return z(confidence)


def z(confidence: float) -> float:
    """Two-sided normal quantile of `confidence`, in (0, 1): 1.96 for 0.95."""
    return NormalDist().inv_cdf((1 + confidence) / 2)


def rate_interval(rate: float, n: float, interval: Interval = wilson) -> tuple[float, float]:
    """The interval around a measured `rate` of `n` examples; (nan, nan) where either is missing or n is 0."""
    if isnan(rate) or isnan(n) or n == 0:
        return nan, nan
    return interval(round(rate * n), n)


def with_intervals(rows: pd.DataFrame) -> pd.DataFrame:
    """`rows` with error_top1_low and error_top1_high: Wilson's 95 % interval from error_top1 and n."""
    pairs = [rate_interval(float(rate), float(n)) for rate, n in zip(rows["error_top1"], rows["n"], strict=True)]
    low, high = [low for low, _ in pairs], [high for _, high in pairs]
    return rows.assign(error_top1_low=low, error_top1_high=high).astype(
        {"error_top1_low": "float64", "error_top1_high": "float64"}
    )


def ties_for_best(
    values: Sequence[float], lows: Sequence[float], highs: Sequence[float], smallest_is_best: bool = True
) -> list[bool]:
    """Which entries are the best one or have an interval that overlaps the best one's; NaN never is.

    Source: Tramèr et al. 2018, Table 4 ("statistically tied for best", 95 % intervals).
    """
    known = [i for i, value in enumerate(values) if not isnan(value)]
    if not known:
        return [False] * len(values)
    best = min(known, key=lambda i: values[i] if smallest_is_best else -values[i])
    tied = {i for i in known if lows[i] <= highs[best] and highs[i] >= lows[best]} | {best}
    return [i in tied for i in range(len(values))]


def over_seeds(rows: pd.DataFrame, by: Sequence[str] = KEY) -> pd.DataFrame:
    """One row per `by`, in order of appearance: mean of each rate, `<rate>_sd` (ddof 1, NaN for one seed), `seeds`.

    paper_value and paper_metric are kept where the rows have them.
    """
    rates = [rate for rate in RATES if rate in rows.columns]
    rows = rows.astype(dict.fromkeys(rates, float))
    groups = rows.groupby(list(by), sort=False, dropna=False)
    parts = [groups[rates].mean(), groups[rates].std(ddof=1).add_suffix("_sd"), groups["seed"].nunique()]
    paper = [column for column in ("paper_value", "paper_metric") if column in rows.columns]
    parts += [groups[paper].first()] if paper else []
    order = [column for rate in rates for column in (rate, f"{rate}_sd")]
    return pd.concat(parts, axis=1).rename(columns={"seed": "seeds"}).reset_index()[[*by, "seeds", *order, *paper]]


def number(value: object) -> float:
    """`value` as a float; None (an empty cell) is NaN."""
    return nan if value is None else float(str(value))


def paper_metric(row: dict[str, object]) -> str:
    """The rate column that this row's paper_value is about; error_top1 if it does not say."""
    metric = row.get("paper_metric")
    return metric if isinstance(metric, str) and metric else "error_top1"


def records(rows: pd.DataFrame) -> list[dict[str, object]]:
    """`rows` as dicts with string keys."""
    return [{str(key): value for key, value in row.items()} for row in rows.to_dict(orient="records")]


def matrix(rows: pd.DataFrame, column: str = "error_top1", how: Literal["mean", "std"] = "mean") -> pd.DataFrame:
    """`column` (mean or standard deviation over seeds): rows (source, attack, eps), one column per target, in order of
    appearance.

    The clean row comes first, with source "-". Pairs that were not measured are NaN.
    """
    rows = distinct(rows)
    clean = rows["attack"] == "clean"
    ranks = [list(dict.fromkeys(rows[name])) for name in ("source", "attack", "eps")]
    ranks[0].insert(0, "-")
    rows = rows.assign(source=rows["source"].mask(clean, "-")).astype({column: float})
    wide = rows.groupby(["source", "attack", "eps", "target"])[column].agg(how).unstack("target")
    keys = dict.fromkeys(zip(rows["source"], rows["attack"], rows["eps"], strict=True))
    order = sorted(keys, key=lambda key: [rank.index(part) for rank, part in zip(ranks, key, strict=True)])
    index = pd.MultiIndex.from_tuples(order, names=["source", "attack", "eps"])
    return wide.reindex(index=index, columns=list(dict.fromkeys(rows["target"])))


def distinct(rows: pd.DataFrame) -> pd.DataFrame:
    """`rows`, with models named `dataset/model` where one name stands for models of several datasets."""
    if not (rows.groupby("target")["dataset"].nunique() > 1).any():
        return rows
    named = {name: rows["dataset"].astype(str) + "/" + rows[name].astype(str) for name in ("source", "target")}
    return rows.assign(**named)


def eps_label(eps: float) -> str:
    """`eps` as people write it: 0.3, 8/255, 16/256."""
    if isnan(eps) or len(f"{eps:g}") <= 6:
        return "-" if isnan(eps) else f"{eps:g}"
    for levels in (255, 256):
        if abs(eps * levels - round(eps * levels)) < 1e-6:
            return f"{round(eps * levels)}/{levels}"
    return f"{eps:.4f}"
