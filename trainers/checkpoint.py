"""Checkpoints: everything needed to go on as if nothing had happened, written atomically.

A folder `sft-000400` or `grpo-000010` holds `model.safetensors`, `optimizer.pt` and `state.json`.
It is built under another name, flushed to disk and renamed, so that a half-written one never
counts. There is no random state to save: every draw is a function of (seed, step).
"""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PHASES = ("sft", "grpo")


@dataclass(frozen=True, order=True)
class Place:
    """A point of a run: `step` steps of phase number `phase` are done."""

    phase: int
    step: int

    @property
    def name(self) -> str:
        return f"{PHASES[self.phase]}-{self.step:06d}"


def save(folder: Path, place: Place, model: Any, optimizer: Any, keep: int) -> Path:
    """Write a checkpoint and remove all but the newest `keep`."""
    import torch
    from safetensors.torch import save_model

    folder.mkdir(parents=True, exist_ok=True)
    final, part = folder / place.name, folder / f".{place.name}.part"
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    save_model(model, str(part / "model.safetensors"))  # knows tied weights
    torch.save(optimizer.state_dict(), part / "optimizer.pt")
    state = {"phase": PHASES[place.phase], "step": place.step}
    (part / "state.json").write_text(json.dumps(state))
    for file in part.iterdir():
        _flush(file)
    if final.exists():
        shutil.rmtree(final)
    part.rename(final)
    _flush(folder)
    for old in sorted(places(folder))[:-keep]:
        shutil.rmtree(folder / old.name)
    return final


def places(folder: Path) -> list[Place]:
    """The checkpoints that are there, in no particular order."""
    found = []
    for state in folder.glob("*/state.json") if folder.is_dir() else ():
        if state.parent.name.startswith("."):
            continue
        read = json.loads(state.read_text())
        found.append(Place(PHASES.index(read["phase"]), int(read["step"])))
    return found


def load(folder: Path, place: Place, model: Any, optimizer: Any | None) -> None:
    """Put a checkpoint's weights (and optimizer state, when asked) in place."""
    import torch
    from safetensors.torch import load_model

    load_model(model, folder / place.name / "model.safetensors")
    if optimizer is not None:
        state = torch.load(folder / place.name / "optimizer.pt", weights_only=True)
        optimizer.load_state_dict(state)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
