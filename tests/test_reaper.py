"""The reaper: what a crashed owner left is removed, and nothing that anybody still owns."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from palaestra.sandboxes import reaper
from palaestra.sandboxes.reaper import OWNER_VARIABLE, PREFIX, home, mark, orphaned, prune


@pytest.fixture
def dead():
    """The mark of an owner that ran and ended."""
    program = "from palaestra.sandboxes.reaper import mark; print(mark())"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    return done.stdout.strip()


@pytest.fixture
def temp(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_only_an_owner_that_is_surely_gone_is_gone(dead):
    assert orphaned(f"{PREFIX}{dead}-work")
    assert not orphaned(f"{PREFIX}{mark()}-work")
    pid, started, _ = mark().split("-")
    assert orphaned(f"{PREFIX}{pid}-{int(started) - 1}-{home()}")  # the pid was given out again
    assert not orphaned(f"{PREFIX}{dead[:-8]}00000000-work")  # of a place that we cannot see
    for name in ("palaestra-owner-12", "palaestra", f"other-{dead}", f"{PREFIX}1-2-3"):
        assert not orphaned(name)


def test_folders_of_the_dead_go_and_others_stay(temp, dead):
    for name in (f"{dead}-a", f"process-{dead}-b", f"{mark()}-c", "holiday"):
        (temp / f"{PREFIX}{name}" / "deep").mkdir(parents=True)
    outside = temp / "outside"
    outside.write_text("kept")
    (temp / f"{PREFIX}{dead}-a/deep/link").symlink_to(outside)
    (temp / f"{PREFIX}{dead}-link").symlink_to(temp / f"{PREFIX}holiday")
    assert len(prune(dry_run=True, containers=False)) >= 3
    assert (temp / f"{PREFIX}{dead}-a").exists()
    said = " ".join(prune(containers=False))
    assert f"{PREFIX}{dead}-a" in said
    assert f"process-{dead}-b" in said
    assert sorted(path.name for path in temp.iterdir()) == sorted(
        [f"{PREFIX}{mark()}-c", f"{PREFIX}holiday", "outside"]
    )
    assert (temp / f"{PREFIX}holiday/deep").exists()


def test_a_folder_from_before_this_boot_belongs_to_nobody(temp):
    old = temp / f"{PREFIX}77-77-{'0' * 8}-x"
    old.mkdir()
    prune(containers=False)
    assert old.exists()
    os.utime(old, (1, 1))
    prune(containers=False)
    assert not old.exists()


def test_processes_of_the_dead_are_ended_and_others_live(temp, dead):
    def start(owner):
        return subprocess.Popen(["sleep", "60"], env={OWNER_VARIABLE: owner})

    left, mine = start(dead), start(mark())
    try:
        time.sleep(0.1)
        assert f"process {left.pid} " in " ".join(prune(containers=False))
        assert left.wait(5) == -signal.SIGKILL
        assert mine.poll() is None
    finally:
        for process in (left, mine):
            process.kill()
            process.wait(5)


def test_cgroups_of_the_dead_are_removed_with_what_is_in_them(temp, dead):
    tops = [top for top in reaper._cgroup_tops() if os.access(top / "cgroup.procs", os.W_OK)]
    if not tops:
        pytest.skip("no cgroup that this user may make one in")  # as an ordinary user, in CI too
    group = tops[0] / f"{PREFIX}{dead}-0"
    try:
        group.mkdir()
    except OSError as error:
        pytest.skip(f"no cgroup can be made here: {error}")
    inside = subprocess.Popen(["sleep", "60"])
    try:
        (group / "cgroup.procs").write_text(str(inside.pid))
        assert str(group) in " ".join(prune(containers=False))
        assert inside.wait(5) == -signal.SIGKILL
        assert not group.exists()
    finally:
        inside.kill()
        inside.wait(5)
        with contextlib.suppress(OSError):
            group.rmdir()


def test_what_is_mounted_in_a_folder_of_the_dead_is_unmounted_never_emptied(temp, dead):
    folder, precious = temp / f"{PREFIX}{dead}-m", temp / "precious"
    (folder / "inner here").mkdir(parents=True)
    precious.mkdir()
    (precious / "file").write_text("kept")
    bind = ["mount", "--bind", str(precious), str(folder / "inner here")]
    if os.geteuid() != 0 or subprocess.run(bind, capture_output=True).returncode:
        pytest.skip("mounting needs root")
    prune(containers=False)
    assert not folder.exists()
    assert (precious / "file").read_text() == "kept"
    assert str(folder) not in Path("/proc/self/mounts").read_text()
