"""The end of a run: a table of before and after, the time it took, and two episodes in words."""

from __future__ import annotations

import datetime
import json
from collections.abc import Sequence
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..agents import records
from ..agents.evaluate import success
from ..agents.stats import paired_difference
from ..agents.trajectory import Trajectory

if TYPE_CHECKING:
    from .loop import Run


def write_report(run: Run) -> dict[str, Any]:
    """Gather the run's results, write `report.json` and `report.txt`, and return the former."""
    report = gather(run)
    text = render(report, run.out)
    (run.out / "report.json").write_text(json.dumps(report, indent=2) + "\n")
    (run.out / "report.txt").write_text(text)
    return report


def gather(run: Run) -> dict[str, Any]:
    lines = run.metrics.read()
    evaluations = {line["evaluation"]: line for line in lines if "evaluation" in line}
    report: dict[str, Any] = {
        "out": str(run.out),
        "config": run.config.digest(),
        "date": datetime.date.today().isoformat(),
        "seed": run.config.seed,
        "held_out": not any(env.tasks for env in run.config.env),
        "parameters": sum(p.numel() for p in run.model.parameters()),
        "sft_steps": run.config.sft.steps,
        "grpo_steps": run.config.steps,
        "evaluations": evaluations,
        "seconds": _seconds(run, lines),
    }
    if {"before", "after"} <= set(evaluations):
        report["difference"] = _difference(run.out)
    rollout = report["seconds"].get("rollout")
    sampled = sum(line.get("tokens_sampled", 0) for line in lines)
    if rollout and sampled:
        report["tokens_per_second"] = round(sampled / rollout)
    if run.config.eval.reference:
        report["reference"] = _reference(run.config.eval.reference)
    return report


def _seconds(run: Run, lines: list[dict[str, Any]]) -> dict[str, float]:
    """Wall seconds by phase, of all the processes that the run took."""
    total = dict(run.seconds)
    for line in lines:
        for name, value in line.get("seconds", {}).items():
            total[name] = total.get(name, 0.0) + value
    return {name: round(value, 1) for name, value in total.items()}


def _difference(out: Path) -> list[float]:
    """Paired by task: success after minus before, with its 95 % interval."""
    before, after = (
        [float(success(t)) for t in records.read(out / "episodes" / f"eval-{label}.jsonl")]
        for label in ("before", "after")
    )
    return [round(value, 4) for value in paired_difference(before, after)]


def _reference(name: str) -> dict[str, Any]:
    text = resources.files("palaestra.configs").joinpath(name).read_text(encoding="utf-8")
    return json.loads(text)  # type: ignore[no-any-return]


# ---- in words ------------------------------------------------------------------------------


def render(report: dict[str, Any], out: Path) -> str:
    """The report as plain text."""
    sections = [_table(report), _phases(report), _episodes(out), f"Run folder: {out}"]
    return "\n\n".join(filter(None, sections)) + "\n"


def _table(report: dict[str, Any]) -> str:
    names = {
        "before": "after SFT" if report["sft_steps"] else "before GRPO",
        "after": "after GRPO",
        "control": "control: tools answer nothing",
    }
    kinds = ("outcome", "process", "checklist")
    title = "held-out, greedy" if report["held_out"] else "greedy, on the training tasks"
    head = f"{title:<32}{'n':>5}{'success':>9}  {'95 % interval':<16}"
    rows = [head + "".join(f"{kind:>11}" for kind in kinds) + f"{'reward':>9}"]
    for label, name in names.items():
        if line := report["evaluations"].get(label):
            rows.append(_row(name, line, kinds))
    if len(after := report["evaluations"].get("after", {}).get("by_env", {})) > 1:
        rows.append("  of these " + ", ".join(f"{name} {rate:.3f}" for name, rate in after.items()))
    if reference := report.get("reference"):
        low, high = reference["interval"]
        rows.append(
            f"{reference['label']:<32}{reference['n']:>5}{reference['success']:>9.3f}  "
            f"[{low:.3f}, {high:.3f}]   recorded {reference['date']}, config {reference['config']}"
        )
    if difference := report.get("difference"):
        mean, low, high = difference
        rows.append(f"\ndifference, paired by task: {mean:+.3f}  [{low:+.3f}, {high:+.3f}]")
    if reference:
        rows.append(reference["words"])
    return "\n".join(rows)


def _row(name: str, line: dict[str, Any], kinds: Sequence[str]) -> str:
    low, high = line["interval"]
    rewards = "".join(f"{line['reward_by_kind'].get(kind, 0.0):>11.3f}" for kind in kinds)
    return (
        f"{name:<32}{line['n']:>5}{line['success'] or 0:>9.3f}  [{low:.3f}, {high:.3f}]"
        f"{rewards}{line['reward'] or 0:>9.3f}"
    )


def _phases(report: dict[str, Any]) -> str:
    seconds = ", ".join(f"{name} {value:.0f} s" for name, value in report["seconds"].items())
    speed = report.get("tokens_per_second")
    tail = f"; {speed} tokens/s sampled in rollouts" if speed else ""
    return (
        f"{report['parameters'] / 1e6:.2f} M parameters, {report['sft_steps']} SFT and "
        f"{report['grpo_steps']} GRPO steps. Time: {seconds}{tail}."
    )


def _episodes(out: Path) -> str:
    """Two episodes of the last evaluation: a success and a failure, where there are both."""
    path = out / "episodes" / "eval-after.jsonl"
    if not path.exists():
        return ""
    chosen: dict[bool, Trajectory] = {}
    for each in records.read(path):
        won = success(each)
        best = chosen.get(won)
        if best is None or len(each.episode.turns) > len(best.episode.turns):
            chosen[won] = each
    return "\n\n".join(in_words(chosen[won]) for won in (True, False) if won in chosen)


def in_words(trajectory: Trajectory) -> str:
    """An episode as a person would read it, and what it earned."""
    episode = trajectory.episode
    title = "solved" if success(trajectory) else "not solved"
    lines = [f"--- {episode.task.env}, task {episode.task.id}: {title}"]
    for message in episode.conversation():
        calls = [
            f"{call.name}({', '.join(f'{k}={v!r}' for k, v in call.arguments.items())})"
            for call in message.tool_calls
        ]
        said = " ".join(filter(None, [message.content, *calls]))
        lines += [f"{message.role:>10}: " + said.replace("\n", "\n" + " " * 12)]
    golds = episode.task.gold.get("answers")
    if golds:
        lines.append(f"{'gold':>10}: {' / '.join(golds)}")
    return "\n".join([*lines, trajectory.ledger.explain()])
