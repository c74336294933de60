"""Start-up time of the commands that need no model."""

import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

PALAESTRA = str(Path(sys.executable).with_name("palaestra"))
COMMANDS = {
    "import": [sys.executable, "-c", "import palaestra"],
    "help": [PALAESTRA, "--help"],
    "envs": [PALAESTRA, "envs"],
    "libraries": [sys.executable, "-c", "import gymnasium, pydantic, typer"],
}
ROUNDS = 7


@pytest.fixture(scope="module")
def runs(tmp_path_factory) -> dict[str, list[tuple[float, float]]]:
    """(wall, CPU) seconds of each command; they take turns, so a busy moment hits all of them."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, command in COMMANDS.items():
            wall, cpu = time.perf_counter(), cpu_of_children()
            done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True)
            wall, cpu = time.perf_counter() - wall, cpu_of_children() - cpu
            assert done.returncode == 0, f"{command}: {done.stderr}"
            found[name].append((wall, cpu))
    return found


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize(("name", "limit"), [("import", 0.5), ("help", 0.6), ("envs", 1.0)])
def test_it_starts_at_once(runs, name, limit):
    """The best run counts: other programs only ever make one slower."""
    assert min(wall for wall, _ in runs[name]) < limit


def test_help_costs_little_more_than_the_libraries_it_needs(runs):
    """In CPU time: a ratio of wall times would measure what else the machine was doing."""
    cost = {name: statistics.median(cpu for _, cpu in runs[name]) for name in runs}
    assert cost["help"] < 1.5 * cost["libraries"], cost
