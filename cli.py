"""The command line: plain verbs, errors in one sentence, `--json` for machines.

Reports go to stdout, progress to stderr. Heavy libraries load inside the command that needs them.
"""

from __future__ import annotations

import importlib
import json
import shlex
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from .core import PalaestraError

app = typer.Typer(
    help="Environments, rewards and GRPO training for tool-using language agents.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]
Import = Annotated[
    list[str], typer.Option("--import", help="Import a module first (your environments).")
]
Tasks = Annotated[str, typer.Option(help="Published tasks, FORMAT:PATH, such as spider:data/sql.")]
Option = Annotated[
    list[str], typer.Option("--option", "-o", help="An option of the environment, key=value.")
]


def main() -> None:
    """The console script: a PalaestraError is printed as a sentence, without a traceback."""
    try:
        app(standalone_mode=True)
    except PalaestraError as error:
        print(f"palaestra: {error}", file=sys.stderr)
        sys.exit(1)


@app.command()
def envs(json: Json = False, import_: Import = []) -> None:  # noqa: B006
    """List every registered environment: its tools, rewards, data formats.

    Example: palaestra envs
    """
    from .envs.registry import ENVS, env_class

    _import(import_)
    table = []
    for id in ENVS:
        cls = env_class(id)
        table.append(
            {
                "env": id,
                "about": (cls.__doc__ or "").strip().splitlines()[0],
                "tools": _tool_lines(cls),
                "rewards": {f"{t.name} ({t.kind})": t.weight for t in cls.rubric.terms},
                "tasks": ["embedded", *cls.formats],
                "snapshot": cls.snapshot_kind,
            }
        )
    if json:
        _emit({"envs": table})
        return
    for row in table:
        print(row["env"])
        print(f"  {row['about']}")
        print(f"  tools    {'; '.join(row['tools'])}")
        print(f"  rewards  {', '.join(f'{n} {w:g}' for n, w in row['rewards'].items())}")
        print(f"  tasks    {', '.join(row['tasks'])}\n")


@app.command()
def play(
    env: str,
    seed: Annotated[int, typer.Option(help="Everything random in the episode.")] = 0,
    task: Annotated[int, typer.Option(help="Index of the task; drawn by the seed if below 0.")] = -1,
    split: str = "train",
    tasks: Tasks = "",
    option: Option = [],  # noqa: B006
    import_: Import = [],  # noqa: B006
) -> None:
    """You are the policy: type tool calls, see what comes back and what it earned.

    Type `look 3`, `search query="Amber" k=2`, a JSON call, or `expert` for the expert's next move;
    `ledger` shows the rewards so far, `quit` leaves.

    Example: palaestra play palaestra/Stockroom-v0
    """
    _import(import_)
    game = _make(env, split, tasks, option)
    options = {"task": task} if task >= 0 else None
    observation, _ = game.reset(seed=seed, options=options)
    for spec in game.tools:
        print(f"  {_signature(spec)}  {spec.description}")
    _show(observation)
    over = False
    while not over:
        line = _ask()
        if line is None or line == "quit":
            return
        if line == "ledger":
            print(game.ledger.explain())
            continue
        action = game.expert(game.np_random) if line == "expert" else _typed(line, game)
        if action is None:
            continue
        if line == "expert":
            print("  " + ", ".join(f"{c.name}({dict(c.arguments)})" for c in action.tool_calls))
        observation, reward, terminated, truncated, info = game.step(action)
        _show(observation)
        if reward:
            print(f"  reward {reward:+.3f}")
        over = terminated or truncated
    print(f"\nThe episode is over: {info['stop']}.\n{game.ledger.explain()}")


@app.command()
def check(
    env: str,
    json: Json = False,
    tasks: Tasks = "",
    option: Option = [],  # noqa: B006
    import_: Import = [],  # noqa: B006
) -> None:
    """Test an environment against the contract; exits 1 when something does not hold.

    Example: palaestra check palaestra/Search-v0
    """
    from .envs.check import check as run_check

    _import(import_)
    findings = run_check(env, **_options(env, tasks, option))
    ok = all(finding.ok for finding in findings)
    for finding in findings:
        print(f"{'ok  ' if finding.ok else 'FAIL'}  {finding.name}", file=_out(json))
        if finding.detail and not finding.ok:
            print(f"      {finding.detail}", file=_out(json))
    print(f"{env}: {'all checks hold' if ok else 'NOT ok'}", file=_out(json))
    if json:
        rows = [{"name": f.name, "ok": f.ok, "detail": f.detail} for f in findings]
        _emit({"env": env, "ok": ok, "findings": rows})
    if not ok:
        raise typer.Exit(1)


@app.command()
def train(
    config: Annotated[str, typer.Argument(help="A TOML file, or the name of a packaged one.")] = "",
    overrides: Annotated[list[str], typer.Argument(help="key=value, such as steps=6")] = [],  # noqa: B006
    resume: Annotated[str, typer.Option(help="Go on with the run in this folder.")] = "",
    json: Json = False,
    import_: Import = [],  # noqa: B006
) -> None:
    """Train a policy: SFT on experts, then GRPO, with held-out evaluation.

    Any key of the config can be overridden. Ctrl-C writes a checkpoint and says how to go on.

    Examples:
      palaestra train configs/tiny.toml out=runs/tiny
      palaestra train tiny out=runs/short steps=6 algorithm.group_size=16
      palaestra train --resume runs/tiny
    """
    _import(import_)
    if bool(resume) == bool(config):
        raise PalaestraError("give either a config file or --resume DIR (see train --help)")
    _need("torch", "transformers", extra="train")
    from .trainers import loop
    from .trainers.config import load_config
    from .trainers.report import render
    from .trainers.watch import Watch

    watch = Watch()
    if resume:
        report = loop.resume(resume, watch)
    else:
        loaded = load_config(config, overrides)
        if not loaded.out:
            loaded = loaded.model_copy(update={"out": f"runs/{Path(config).stem}"})
        report = loop.train(loaded, watch)
    print(render(report, Path(report["out"])), file=_out(json))
    if json:
        _emit(report)


@app.command(name="eval")
def evaluate(
    env: str,
    policy: Annotated[
        str, typer.Option(help="tiny, hf:DIR_OR_ID, expert, random, null, python:module:callable")
    ] = "expert",
    split: str = "test",
    n: Annotated[int, typer.Option(help="How many tasks; all of a data set if not given.")] = 0,
    samples: Annotated[int, typer.Option(help="Episodes per task, each with its own seed.")] = 1,
    seed: int = 0,
    temperature: Annotated[float, typer.Option(help="0 is greedy.")] = 0.0,
    max_tokens: Annotated[int, typer.Option(help="Tokens per reply.")] = 256,
    max_context: Annotated[int, typer.Option(help="Tokens per episode.")] = 4096,
    concurrency: Annotated[int, typer.Option(help="Episodes in flight.")] = 32,
    out: Annotated[str, typer.Option(help="Write episodes and report into this folder.")] = "",
    tasks: Tasks = "",
    option: Option = [],  # noqa: B006
    json: Json = False,
    import_: Import = [],  # noqa: B006
) -> None:
    """Evaluate a policy: success with its interval, reward by kind, stop reasons.

    Examples:
      palaestra eval palaestra/Search-v0 --policy expert --n 50
      palaestra eval palaestra/SQL-v0 --policy hf:runs/tiny/final --n 200 --json
      palaestra eval palaestra/SQL-v0 --tasks spider:PATH --policy expert
    """
    _import(import_)
    for name, value in (("samples", samples), ("concurrency", concurrency)):
        if value < 1:
            raise PalaestraError(f"--{name} must be 1 or more, got {value}")
    folder = _new_folder(out) if out else None
    from .agents.agent import Sampling
    from .agents.evaluate import evaluate as run_evaluation
    from .agents.load import load_policy
    from .agents.records import write
    from .trainers.watch import Watch

    first = _make(env, split, tasks, option)
    count = n or (len(first.tasks) if tasks else 200)
    if policy.startswith(("hf:", "tiny")):
        _need("torch", "transformers", extra="train")
        _one_thread()
    sampling = Sampling(max_tokens=max_tokens, temperature=temperature, noise=(seed,))
    loaded = load_policy(policy, [first], sampling, max_context, concurrency)
    total = min(count, len(first.tasks)) * samples
    try:
        with Watch().phase(f"evaluate {policy}", total, 0) as tick:
            report, done = run_evaluation(
                env,
                lambda: _make(env, split, tasks, option),
                loaded.make_agent,
                n=count,
                samples=samples,
                seed=seed,
                concurrency=concurrency,
                policy=policy,
                each=lambda _: tick(""),
            )
    finally:
        loaded.close()
    if tasks:
        report["tasks"] = tasks
    if folder:
        write(folder / "episodes.jsonl", done)
        (folder / "report.json").write_text(_dumps(report) + "\n")
        report["out"] = str(folder)
    _print_report(report, json)


@app.command()
def doctor(json: Json = False) -> None:
    """What this machine can do, and how to get what is missing.

    Example: palaestra doctor
    """
    from .doctor import examine

    findings = examine()
    for finding in findings:
        print(f"{finding.mark:<8}{finding.name:<14}{finding.detail}", file=_out(json))
        if finding.advice:
            print(f"{'':<22}{finding.advice}", file=_out(json))
    if json:
        rows = [{"name": f.name, "ok": f.ok, "detail": f.detail} for f in findings]
        _emit({"ok": all(f.ok for f in findings if f.required), "findings": rows})


# ---- parts ---------------------------------------------------------------------------------


def _emit(value: Any) -> None:
    print(_dumps(value))


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)


def _out(as_json: bool) -> Any:
    """Where text for people goes: away from stdout when that is for a machine."""
    return sys.stderr if as_json else sys.stdout


def _import(modules: list[str]) -> None:
    from .envs.registry import import_module

    sys.path.insert(0, "")  # as `python -m` would: modules of the working folder can be named
    for module in modules:
        import_module(module)


def _need(*modules: str, extra: str) -> None:
    for module in modules:
        if importlib.util.find_spec(module) is None:
            raise PalaestraError(f"this needs {module}: pip install 'palaestra[{extra}]'")


def _one_thread() -> None:
    """Small models are faster, and repeatable, on one thread."""
    import torch

    torch.set_num_threads(1)


def _options(env: str, tasks: str, option: list[str]) -> dict[str, Any]:
    import tomllib

    options: dict[str, Any] = {"tasks": tasks} if tasks else {}
    for each in option:
        name, equals, value = each.partition("=")
        if not equals:
            raise PalaestraError(f"'{each}' is not of the form key=value, such as -o max_turns=6")
        try:
            options[name] = tomllib.loads(f"x = {value}")["x"]
        except tomllib.TOMLDecodeError:
            options[name] = value
    return options


def _make(env: str, split: str, tasks: str, option: list[str]) -> Any:
    from .envs.registry import make

    return make(env, split=split, **_options(env, tasks, option))


def _new_folder(out: str) -> Path:
    folder = Path(out)
    if folder.exists() and any(folder.iterdir()):
        raise PalaestraError(f"'{out}' is not empty; choose a new folder with --out DIR")
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _print_report(report: dict[str, Any], as_json: bool) -> None:
    low, high = report["interval"]
    success = report["success"]
    lines = [
        f"{report['env']}, policy {report['policy']}, split {report['split']}",
        f"  success  {'-' if success is None else f'{success:.3f}'}  "
        f"[{low:.3f}, {high:.3f}] of {report['n']}",
    ]
    skip = {"env", "policy", "split", "success", "interval", "n"}
    lines += [f"  {name:<16} {_brief(v)}" for name, v in report.items() if name not in skip]
    print("\n".join(lines), file=_out(as_json))
    if as_json:
        _emit(report)


def _brief(value: Any) -> str:
    if isinstance(value, dict):
        return "  ".join(f"{name} {_brief(each)}" for name, each in value.items())
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _tool_lines(cls: Any) -> list[str]:
    from .envs.tools import tools_of

    return [_signature(tool.spec) for tool in tools_of(cls).values()]


def _signature(spec: Any) -> str:
    return f"{spec.name}({', '.join(spec.parameters['properties'])})"


def _show(messages: Any) -> None:
    for message in messages:
        print(f"[{message.role}] {message.content}")


def _ask() -> str | None:
    try:
        return input("> ").strip()
    except (EOFError, KeyboardInterrupt):
        print()
        return None


def _typed(line: str, game: Any) -> Any:
    """What a person typed as an action: JSON, `tool value ...`, or `tool key=value ...`."""
    from .core import Message, ToolCall

    if line.startswith(("{", "<")):
        return line if line.startswith("<") else f"<tool_call>{line}</tool_call>"
    try:
        name, *words = shlex.split(line)
    except ValueError as error:
        print(f"  cannot read that: {error}")
        return None
    if name not in game.tool_table:
        print(f"  there is no tool '{name}'; tools: {', '.join(game.tool_table)}, expert, quit")
        return None
    properties = game.tool_table[name].spec.parameters["properties"]
    arguments: dict[str, Any] = {}
    for key, word in zip(properties, words, strict=False):
        given, equals, value = word.partition("=")
        named = bool(equals) and given in properties
        arguments[given if named else key] = _value(value if named else word)
    return Message("assistant", tool_calls=(ToolCall(name, arguments, "call_0"),))


def _value(word: str) -> Any:
    try:
        return json.loads(word)
    except json.JSONDecodeError:
        return word


if __name__ == "__main__":
    main()
