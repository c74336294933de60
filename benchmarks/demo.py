"""The main job on several seeds, and the line it is compared with: SFT on careful experts alone.

    python benchmarks/demo.py --seeds 0 1 2 --runs runs/benchmark

Each seed is a whole run of configs/tiny.toml (its own model, SFT and GRPO). Writes demo.md and
demo.json beside the other results, and the reference line that `make demo` prints.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import sys
import time
from datetime import date
from pathlib import Path

from palaestra.agents import records
from palaestra.agents.evaluate import success
from palaestra.agents.stats import paired_difference, wilson
from palaestra.trainers.config import load_config

ROOT = Path(__file__).parents[1]
CAREFUL = ["steps=0", "sft.style={haste=0.0, slips=0.05}", "eval.control=false"]
WORDS = (
    "The low start is made on purpose by a hasty demonstrator: here GRPO corrects its haste and\n"
    "sharpens what SFT taught. It is compared with what careful demonstrations alone would give."
)


def train(out: Path, seed: int, *overrides: str) -> float:
    """Run to the end (again from its last checkpoint if it was cut off); returns the seconds."""
    if (out / "report.json").exists():
        return 0.0
    command = [sys.executable, "-m", "palaestra.cli", "train"]
    fresh = [str(ROOT / "configs/tiny.toml"), f"out={out}", f"seed={seed}", *overrides]
    started = time.monotonic()
    subprocess.run([*command, *(["--resume", str(out)] if out.exists() else fresh)], check=True)
    return time.monotonic() - started


def outcomes(out: Path, label: str) -> list[float]:
    return [float(success(t)) for t in records.read(out / "episodes" / f"eval-{label}.jsonl")]


def row(name: str, results: list[float]) -> str:
    low, high = wilson(int(sum(results)), len(results))
    rate = sum(results) / len(results)
    return f"| {name} | {len(results)} | {rate:.3f} | [{low:.3f}, {high:.3f}] |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--runs", type=Path, default=ROOT / "runs/benchmark")
    runs, seeds = parser.parse_args().runs, parser.parse_args().seeds
    careful_config = load_config(str(ROOT / "configs/tiny.toml"), CAREFUL)
    config = load_config(str(ROOT / "configs/tiny.toml"))
    before: list[float] = []
    after: list[float] = []
    control: list[float] = []
    careful: list[float] = []
    lines, results = [], []
    for seed in seeds:
        seconds = train(runs / f"seed-{seed}", seed)
        train(runs / f"careful-{seed}", seed, *CAREFUL)
        parts = {
            label: outcomes(runs / f"seed-{seed}", label)
            for label in ("before", "after", "control")
        }
        parts["careful"] = outcomes(runs / f"careful-{seed}", "before")
        before += parts["before"]
        after += parts["after"]
        control += parts["control"]
        careful += parts["careful"]
        mean, low, high = paired_difference(parts["before"], parts["after"])
        rates = {label: sum(part) / len(part) for label, part in parts.items()}
        phases = json.loads((runs / f"seed-{seed}" / "report.json").read_text())["seconds"]
        lines.append(
            f"| {seed} | {rates['before']:.3f} | {rates['after']:.3f} | {mean:+.3f} "
            f"[{low:+.3f}, {high:+.3f}] | {rates['control']:.3f} | {rates['careful']:.3f} "
            f"| {sum(phases.values()):.0f} |"
        )
        results.append({"seed": seed, **rates, "difference": [mean, low, high], "phases": phases})
        print(f"seed {seed}: {rates}, {seconds:.0f} s", flush=True)
    mean, low, high = paired_difference(before, after)
    today = date.today().isoformat()
    text = "\n".join(
        [
            "# The main job on several seeds",
            "",
            f"`python benchmarks/demo.py --seeds {' '.join(map(str, seeds))}`, {today}, "
            f"Python {platform.python_version()} on {platform.machine()}, one thread, on a shared "
            f"two-core machine; config {config.digest()} (seed 0).",
            "Greedy success on held-out tasks; differences are paired by task, 95 % intervals.",
            "",
            "| seed | after SFT | after GRPO | difference | control | careful SFT | seconds |",
            "|---|---|---|---|---|---|---|",
            *lines,
            "",
            "| pooled | n | success | 95 % interval |",
            "|---|---|---|---|",
            row("SFT on hasty experts", before),
            row("then GRPO", after),
            row("control: tools answer nothing", control),
            row("SFT on careful experts, no GRPO", careful),
            "",
            f"Pooled difference: {mean:+.3f} [{low:+.3f}, {high:+.3f}] over tasks; seeds differ "
            "more than that interval says, so look at the rows too.",
            "",
            WORDS,
            "",
        ]
    )
    folder = ROOT / "benchmarks/results"
    (folder / "demo.md").write_text(text)
    summary = {"date": today, "config": config.digest(), "seeds": results}
    (folder / "demo.json").write_text(json.dumps(summary, indent=2) + "\n")
    low, high = wilson(int(sum(careful)), len(careful))
    reference = {
        "label": "careful SFT alone, no GRPO",
        "n": len(careful),
        "success": round(sum(careful) / len(careful), 4),
        "interval": [round(low, 4), round(high, 4)],
        "date": today,
        "config": careful_config.digest(),
        "words": WORDS,
    }
    (ROOT / "configs/tiny.reference.json").write_text(json.dumps(reference, indent=2) + "\n")
    print(text)


if __name__ == "__main__":
    main()
