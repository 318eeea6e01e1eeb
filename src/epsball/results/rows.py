"""Rows of `results.csv`: their key, their columns, means over seeds, the shape of a matrix. No files here.

Rates are fractions in [0, 1] throughout. A row belongs to one (seed, measurement, source, target, attack, eps); a clean
row has attack `clean`, eps 0 and source == target; white-box means source == target.
"""

from collections.abc import Mapping, Sequence
from math import isnan, nan
from typing import TYPE_CHECKING, Any, Literal

from epsball.results.metrics import ERROR, METRICS, TOP1, TOP5

if TYPE_CHECKING:
    import pandas as pd

Row = Mapping[str, Any]

KEY = ("dataset", "measurement", "source", "target", "attack", "eps")  # a cell; with its seed, a row
MATRIX_LINE = ("source", "attack", "eps")
"""columns of a transfer matrix beside its targets"""
PAPER = ("paper_value", "paper_metric", "difference")
FINGERPRINTS = ("source_model", "target_model", "identity")
TEXTS = ("dataset", "measurement", "source", "target", "attack", "part", *FINGERPRINTS)
"""columns of texts, whatever they look like: a model may be called 007, a fingerprint 12e456789012"""
MISTAKES = (TOP1, TOP5)
FURTHER = (
    *("e1", "e2", "epoch", "step", "bin_low", "bin_high"),
    *("steps", "restarts", "worst_for", "image", "restart", "directions"),
)
"""columns that tell the rows of one measurement apart"""
COLUMNS = (
    "dataset", "seed", "measurement", "source", "target", "attack", "eps", "n", "error_top1", "error_top1_low",
    "error_top1_high", "error_top5", "transfer_rate_top1", "transfer_rate_top5", "transfer_n", "clean_error_top1",
    "loss_mean", "loss_sd", "max_perturbation", *PAPER, *FINGERPRINTS,
)  # fmt: skip
IMAGES = "test_images"
"""column, in no file, of the checksum of the test images: npz files below two roots are data sets of one name"""
SECONDS = "seconds"
"""column of what a row took, in a file of its own: equal results are equal files"""
MEASURED = {
    *(*COLUMNS, *FURTHER, *MISTAKES, SECONDS),
    *(column for metric in METRICS.values() for column in metric.columns),
}
"""columns that a measurement fills; any other is a grid's value, which a row has in its own run alone: in another run
or part the same model may be of no grid"""


def seeds_text(numbers: "pd.Series[int]") -> str:
    """Say of how many seeds values are that have so many: `3 seeds`, `2 to 3 seeds`. Those of none do not count."""
    known = numbers[numbers > 0]
    fewest, most = (int(known.min()), int(known.max())) if len(known) else (0, 0)
    return "one seed" if most == 1 else f"{most} seeds" if fewest == most else f"{fewest} to {most} seeds"


def seeds_of_cells(rows: "pd.DataFrame") -> "pd.Series[int]":
    """Return how many seeds each error of a matrix is of."""
    return error_rows(rows).groupby([*MATRIX_LINE, "target"])["seed"].nunique()


def attacks_of_fewer(rows: "pd.DataFrame") -> str:
    """Say which attacks have errors of fewer images than others of the data set have, `pgd of 50`; empty where none
    has."""
    rows = error_rows(rows)
    fewer = rows[rows["n"] < rows.groupby("dataset")["n"].transform("max")]
    counts = fewer.groupby("attack", sort=False)["n"].min().astype(int).items()
    return ", ".join(f"{attack} of {n:,}" for attack, n in counts)


def in_order(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Give `results.csv` its columns: COLUMNS in order, absent ones empty, then any others but the images mistaken
    and seconds.

    The paper's stand there only if it gives a value, fingerprints only if the rows name them.
    """
    given = "paper_value" in rows and rows["paper_value"].notna().any()
    optional = {name for name in FINGERPRINTS if name not in rows} | set(() if given else PAPER)
    known = [name for name in COLUMNS if name not in optional]
    others = [name for name in rows.columns if name not in (*COLUMNS, *MISTAKES, SECONDS)]
    return rows.reindex(columns=[*known, *others])


def mistakes_of(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Return `mistakes.csv`: which images were mistaken, packed (results/paired.py), by the rows' identity."""
    columns = [name for name in MISTAKES if name in rows]
    if not columns or "identity" not in rows:
        return rows.iloc[:0]
    return rows.dropna(subset=columns, how="all")[["identity", *columns]].drop_duplicates("identity")


def timings_of(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Return `timings.csv`: the seconds that rows took, by the columns that tell them apart."""
    if SECONDS not in rows:
        return rows.iloc[:0]
    key = [name for name in ("dataset", "seed", *KEY[1:], *FURTHER, "identity") if name in rows]
    return rows.dropna(subset=[SECONDS])[[*key, SECONDS]].dropna(axis=1, how="all")


def error_rows(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Leave out rows without an error, such as gradient norms': they have no place in a matrix."""
    return rows[rows[ERROR.name].notna()] if ERROR.name in rows else rows.iloc[:0]


def over_seeds(rows: "pd.DataFrame", by: Sequence[str]) -> "pd.DataFrame":
    """Return one row per `by`, in order of appearance: mean of each rate, `<rate>_sd` (ddof 1, NaN for
    one seed), `seeds`; of a rate that some of a cell's seeds lack, `<rate>_seeds`, how many have it.

    `rows` have one row per `by` and seed. paper_value and paper_metric are kept where the rows have them.
    """
    import pandas as pd

    rates = [metric.name for metric in METRICS.values() if metric.is_rate and metric.name in rows.columns]
    paper = [column for column in ("paper_value", "paper_metric") if column in rows.columns]
    groups = rows.astype(dict.fromkeys(rates, float)).groupby(list(by), sort=False, dropna=False)
    seeds, counts = groups["seed"].nunique().rename("seeds"), groups[rates].count()
    fewer = [rate for rate in rates if ((counts[rate] > 0) & (counts[rate] < seeds)).any()]
    parts = [groups[rates].mean(), groups[rates].std().add_suffix("_sd"), counts[fewer].add_suffix("_seeds"), seeds]
    parts += [groups[paper].first()] if paper else []
    table = pd.concat(parts, axis=1).reset_index()
    names = [rate + end for rate in rates for end in ("", "_sd", "_seeds") if rate + end in table]
    return table[[*by, "seeds", *names, *paper]]


def as_float(value: object) -> float:
    """Return `value` as a float; None (an empty cell) is NaN."""
    return nan if value is None else float(str(value))


def paper_metric(row: Row) -> str:
    """Return the column that this row's paper_value is about; error_top1 if it does not say."""
    metric = row.get("paper_metric")
    return metric if isinstance(metric, str) and metric else ERROR.name


def as_dicts(rows: "pd.DataFrame") -> list[dict[str, object]]:
    """Return `rows` as dicts with string keys."""
    return [{str(key): value for key, value in row.items()} for row in rows.to_dict(orient="records")]


def wide_matrix(rows: "pd.DataFrame", column: str = ERROR.name, how: Literal["mean", "std"] = "mean") -> "pd.DataFrame":
    """Lay out `column` (mean or standard deviation over seeds) of the rows that have an error: lines (source, attack,
    eps), one column per target, in order of appearance.

    The clean line comes first, with source "-". Pairs that were not measured are NaN.
    """
    import pandas as pd

    rows = with_dataset_names(error_rows(rows))
    clean = rows["attack"] == "clean"
    ranks = [list(dict.fromkeys(rows[name])) for name in MATRIX_LINE]
    ranks[0].insert(0, "-")
    rows = rows.assign(source=rows["source"].mask(clean, "-")).astype({column: float})
    wide = rows.groupby([*MATRIX_LINE, "target"])[column].agg(how).unstack("target")
    keys = dict.fromkeys(zip(rows["source"], rows["attack"], rows["eps"], strict=True))
    order = sorted(keys, key=lambda key: [rank.index(part) for rank, part in zip(ranks, key, strict=True)])
    index = pd.MultiIndex.from_tuples(order, names=MATRIX_LINE)
    return wide.reindex(index=index, columns=list(dict.fromkeys(rows["target"])))


def paper_matrix(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Lay out the paper's errors as `wide_matrix` does ours, NaN where it gives none."""
    import pandas as pd

    values = pd.Series(nan, index=rows.index, dtype=float)
    if "paper_value" in rows.columns:
        about_error = [paper_metric(row) == ERROR.name for row in as_dicts(rows)]
        values = pd.to_numeric(rows["paper_value"]).where(pd.Series(about_error, index=rows.index, dtype=bool))
    return wide_matrix(rows.assign(paper_value=values), "paper_value")


def with_dataset_names(rows: "pd.DataFrame") -> "pd.DataFrame":
    """Name models `dataset/model` where one name stands for models of several datasets."""
    if not (rows.groupby("target")["dataset"].nunique() > 1).any():
        return rows
    named = {name: rows["dataset"].astype(str) + "/" + rows[name].astype(str) for name in ("source", "target")}
    return rows.assign(**named)


def eps_label(eps: float) -> str:
    """Write `eps` as people do: 0.3, 8/255, 5/256."""
    if isnan(eps) or len(f"{eps:g}") <= 6:
        return "-" if isnan(eps) else f"{eps:g}"
    for levels in (255, 256):
        if abs(eps * levels - round(eps * levels)) < 1e-6:
            return f"{round(eps * levels)}/{levels}"
    return f"{eps:.4f}"
