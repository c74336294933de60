"""Start-up time of the commands that need no model."""

import resource
import statistics
import subprocess
import sys
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
def runs(tmp_path_factory) -> dict[str, list[float]]:
    """CPU seconds of each command; they take turns, so a busy moment hits all of them."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    found: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, command in COMMANDS.items():
            before = cpu_of_children()
            done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True)
            assert done.returncode == 0, f"{command}: {done.stderr}"
            found[name].append(cpu_of_children() - before)
    return found


def cpu_of_children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.parametrize(("name", "limit"), [("import", 0.5), ("help", 0.6), ("envs", 1.0)])
def test_it_starts_at_once(runs, name, limit):
    """CPU seconds of the best run: the wall seconds of an idle machine, whatever else runs now."""
    assert min(runs[name]) < limit


def test_help_costs_little_more_than_the_libraries_it_needs(runs):
    cost = {name: statistics.median(runs[name]) for name in runs}
    assert cost["help"] < 1.5 * cost["libraries"], cost
