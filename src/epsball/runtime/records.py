"""Read run.json, the record that a run leaves."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from epsball.build import ConfigError, convert

Record = dict[str, Any]
FIELDS: Mapping[str, Any] = {
    "seeds": list[int],
    "parts": list[str],
    "overrides": list[str],
    "settings": dict[str, Any],
    "aliases": list[dict[str, str]],
    "models": dict[str, dict[str, Any]],
    "cells": list[Any],
}
"""fields that are taken apart, of those that a record has"""


def read_record(path: Path) -> tuple[Record, str]:
    """Return what a run.json says, and why it cannot be used ("" if it can)."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return {}, "no run.json"
    except (OSError, ValueError) as error:
        return {}, f"run.json cannot be read ({error})"
    if not isinstance(record, dict):
        return {}, "run.json is not an object"
    try:
        check_fields(record)
    except ConfigError as error:
        return {}, f"run.json is not a run's: {error}"
    return record, ""


def check_fields(record: Record) -> None:
    """ConfigError for a field of another kind than a run writes."""
    for name, kind in FIELDS.items():
        if name in record:
            convert(record[name], kind, name)
    for number, cell in enumerate(record.get("cells", ())):
        if not (isinstance(cell, list) and cell and isinstance(cell[-1], int | float)):
            raise ConfigError(f"cells[{number}] should be a list that ends with an eps, is {cell!r}")
