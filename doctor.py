"""`palaestra doctor`: what this machine can do, and how to get what is missing."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import platform
import sqlite3
import sys
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the examination. `required` ones decide whether the machine is fit."""

    name: str
    ok: bool
    detail: str
    advice: str = ""
    required: bool = False

    @property
    def mark(self) -> str:
        return "ok" if self.ok else ("MISSING" if self.required else "-")


def examine() -> list[Finding]:
    """Look at Python, libraries, GPU, threads, memory and sandbox tools; change nothing."""
    return [
        _python(),
        _sqlite(),
        *(_library(name, extra) for name, extra in _LIBRARIES.items()),
        _gpu(),
        _threads(),
        _memory(),
        _sandbox("bubblewrap"),
        _sandbox("container"),
    ]


_LIBRARIES = {"torch": "train", "transformers": "train", "tokenizers": "train"}


def _python() -> Finding:
    ok = sys.version_info >= (3, 11)
    detail = f"{platform.python_version()} on {platform.system()} {platform.machine()}"
    return Finding("python", ok, detail, "" if ok else "3.11 or newer is needed", required=True)


def _sqlite() -> Finding:
    ok = hasattr(sqlite3.Connection, "deserialize") and hasattr(sqlite3.Connection, "setlimit")
    advice = "" if ok else "this Python's sqlite3 lacks deserialize or setlimit"
    return Finding("sqlite", ok, sqlite3.sqlite_version, advice, required=True)


def _library(name: str, extra: str) -> Finding:
    if importlib.util.find_spec(name) is None:
        return Finding(name, False, "not installed", f"pip install 'palaestra[{extra}]'")
    try:
        version = importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        version = "installed"
    return Finding(name, True, version)


def _gpu() -> Finding:
    if importlib.util.find_spec("torch") is None:
        return Finding("gpu", False, "cannot look without torch")
    import torch

    if not torch.cuda.is_available():
        return Finding("gpu", False, "none that torch can use; the embedded engine runs on CPU")
    properties = torch.cuda.get_device_properties(0)
    count = torch.cuda.device_count()
    memory = properties.total_memory / 2**30
    return Finding("gpu", True, f"{count} x {properties.name}, {memory:.0f} GiB")


def _threads() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    given = os.environ.get("OMP_NUM_THREADS")
    ok = given == "1"
    advice = "" if ok else "small models: export OMP_NUM_THREADS=1 OMP_WAIT_POLICY=PASSIVE"
    return Finding("threads", ok, f"{cores} cores, OMP_NUM_THREADS={given or 'not set'}", advice)


def _memory() -> Finding:
    try:
        size = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    except (ValueError, OSError):
        return Finding("memory", True, "unknown")
    return Finding("memory", size >= 4, f"{size:.0f} GiB", "" if size >= 4 else "4 GiB are advised")


def _sandbox(kind: str) -> Finding:
    """Whether a kind of sandbox works here, and what of its isolation a few attempts prove."""
    from .sandboxes import SandboxError
    from .sandboxes.attack import probes

    try:
        report = probes(kind)
    except SandboxError as error:
        return Finding(f"sandbox {kind}", False, "does not work here", str(error))
    if report.ok:
        held = ", ".join(result.name for result in report.results)
        return Finding(f"sandbox {kind}", True, f"isolates: held against {held}")
    bad = ", ".join([*report.succeeded, *report.errors])
    advice = f"see: palaestra sandbox attack {kind}"
    return Finding(f"sandbox {kind}", False, f"does NOT hold against {bad}", advice)
