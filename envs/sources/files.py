"""Reading data sets with sentences for what is wrong: shared by the loaders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...core import PalaestraError


def field(record: Any, name: str, kind: type, where: str) -> Any:
    """`record[name]`, or a sentence that says where it is missing or what it is instead."""
    if not isinstance(record, Mapping) or name not in record:
        raise PalaestraError(f"{where} has no field '{name}'")
    if not isinstance(record[name], kind):
        got, wanted = type(record[name]).__name__, kind.__name__
        raise PalaestraError(f"{where}: the field '{name}' has type {got} instead of {wanted}")
    return record[name]


def read_text(file: Path) -> str:
    """The text of a data set's file, or a sentence that says what is missing."""
    if not file.parent.is_dir():
        raise PalaestraError(f"there is no folder {file.parent}")
    if not file.is_file():
        raise PalaestraError(f"the folder {file.parent} has no file {file.name}")
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise PalaestraError(f"{file} is not UTF-8 text ({error})") from None
