"""Start-up time. Noise only ever adds, so each command counts with the best of its runs."""

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
def best(tmp_path_factory) -> dict[str, float]:
    """Seconds of each command. They take turns, so that a busy moment hits all of them."""
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    spent: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, command in COMMANDS.items():
            start = time.perf_counter()
            done = subprocess.run(command, cwd=elsewhere, capture_output=True, text=True)
            spent[name].append(time.perf_counter() - start)
            assert done.returncode == 0, f"{command}: {done.stderr}"
    return {name: min(times) for name, times in spent.items()}


@pytest.mark.parametrize(("name", "limit"), [("import", 0.5), ("help", 0.6), ("envs", 1.0)])
def test_it_starts_at_once(best, name, limit):
    assert best[name] < limit


def test_help_costs_little_more_than_the_libraries_it_needs(best):
    assert best["help"] < 1.5 * best["libraries"]
