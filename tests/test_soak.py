"""Nothing is left after many runs, and after an owner that was killed: a tenth of the benchmark."""

import runpy
from pathlib import Path

import pytest

SOAK = Path(__file__).parents[1] / "benchmarks" / "soak.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "runs"),
    [("bubblewrap", 1000), pytest.param("container", 100, marks=pytest.mark.docker)],
)
def test_nothing_is_left_after_many_runs_a_tenth_of_them_hostile(kind, runs):
    report = runpy.run_path(str(SOAK))["soak"](kind, runs)
    assert report["invalid"] == []
    assert report["left"] == []
    assert report["left_by_a_killed_owner"]["remains"] == []
    (descriptors, mib), (descriptors_after, mib_after) = report["owner_before_and_after"]
    assert descriptors_after <= descriptors + 2  # one leaked in each run would be `runs` more
    assert mib_after <= mib + 10
