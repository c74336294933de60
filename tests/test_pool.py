"""The pool: turns, leases, repair. The sandboxes here are real folders with real subprocesses."""

import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from palaestra.sandboxes.core import ExecResult, Limits, Sandbox, SandboxError, inside
from palaestra.sandboxes.pool import Pool

open_folders: set[Path] = set()


class Folder(Sandbox):
    """The smallest sandbox that does the pool's part of the contract; it isolates nothing."""

    kind = "folder"

    def __init__(self):
        self.limits = Limits()
        self.folder = Path(tempfile.mkdtemp())
        self.runs: list[subprocess.Popen] = []
        self.broken = False
        open_folders.add(self.folder)

    def run(self, command=None, *, python=None, stdin=b"", env=None, timeout=None):
        command = [sys.executable, "-I", "-S", "-c", python] if python is not None else command
        with subprocess.Popen(command, cwd=self.folder, stdout=-1, text=True) as program:
            self.runs.append(program)
            out, _ = program.communicate()
        if program.returncode == -9:
            return ExecResult(None, out, valid=False, culprit="the folder was closed")
        return ExecResult(program.returncode, out)

    def write(self, path, data):
        (self.folder / inside(path)).write_text(data)

    def read(self, path, limit=0):
        return (self.folder / inside(path)).read_bytes()

    def list(self, path="."):
        return sorted(entry.name for entry in self.folder.iterdir())

    def clear(self):
        if self.broken:
            raise SandboxError("it broke")
        for entry in self.folder.iterdir():
            entry.unlink()

    def alive(self):
        return not self.broken

    def close(self):
        for program in self.runs:
            program.kill()
        if self.folder in open_folders:
            open_folders.discard(self.folder)
            for entry in self.folder.iterdir():
                entry.unlink()
            self.folder.rmdir()

    def shell(self):
        raise NotImplementedError

    python = snapshot = shell

    def restore(self, snapshot):
        raise NotImplementedError


@pytest.fixture(autouse=True)
def nothing_left():
    threads = threading.active_count()
    yield
    soon(lambda: not open_folders and threading.active_count() <= threads)


def soon(true, seconds=5.0):
    """Wait until it is true, with a limit."""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.005)


def test_a_lease_is_a_sandbox_and_comes_back_empty():
    with Pool(Folder, 1) as pool:
        with pool.lease() as sandbox:
            sandbox.write("note", "mine")
            assert sandbox.run(python="print(open('note').read())").stdout == "mine\n"
        with pool.lease() as sandbox:
            assert sandbox.list() == []
        assert pool.metrics().leases == 2
        assert len(open_folders) == 1  # the same one


def test_never_more_than_the_cap_at_once():
    here, most = [], []

    def work(_):
        with pool.lease():
            here.append(1)
            most.append(len(here))
            time.sleep(0.03)
            here.pop()

    with Pool(Folder, 3) as pool, ThreadPoolExecutor(12) as callers:
        list(callers.map(work, range(24)))
        assert pool.metrics().leases == 24
        assert len(open_folders) <= 3
    assert max(most) == 3


def test_callers_are_served_in_the_order_in_which_they_came():
    order = []

    def work(number):
        with pool.lease():
            order.append(number)

    with Pool(Folder, 1) as pool:
        callers = []
        with pool.lease():
            for number in range(8):
                callers.append(threading.Thread(target=work, args=(number,)))
                callers[-1].start()
                soon(lambda: pool.metrics().waiting == len(callers))
        for caller in callers:
            caller.join(5)
    assert order == list(range(8))


def test_few_are_started_when_nobody_waits_long_and_more_when_somebody_does():
    with Pool(Folder, 8) as pool, ThreadPoolExecutor(8) as callers:
        for _ in range(20):
            pool.lease().close()
        assert pool.metrics().idle == 1
        all_here = threading.Barrier(8, timeout=10)

        def meet(_):
            with pool.lease():
                all_here.wait()  # passes only when eight hold a lease

        list(callers.map(meet, range(8)))
        assert pool.metrics().idle == 8


def test_who_waits_too_long_is_told_in_a_sentence():
    with Pool(Folder, 1) as pool, pool.lease():
        began = time.monotonic()
        with pytest.raises(SandboxError, match=r"within 0\.1 s: 1 of at most 1 are leased"):
            pool.lease(wait=0.1)
        assert 0.09 < time.monotonic() - began < 2
        assert pool.metrics().waiting == 0


def test_a_caller_that_never_returns_its_lease_loses_it():
    with Pool(Folder, 1) as pool:
        kept = pool.lease(ttl=0.15)
        with pool.lease(wait=5) as other:  # the cap is 1: this one waits for the end of the first
            other.write("secret", "of the next")
            with pytest.raises(SandboxError, match=r"time to live of 0\.15 s ran out"):
                kept.read("secret")
            assert not kept.alive()
            kept.close()  # late, and without effect
            assert other.read("secret") == b"of the next"
        assert pool.metrics().expired == pool.metrics().restarts == 1


def test_a_run_that_outlives_its_lease_ends_and_says_so():
    with Pool(Folder, 1) as pool, pool.lease(ttl=0.2) as sandbox:
        result = sandbox.run(python="import time; time.sleep(30)")
    assert not result.valid
    assert "time to live" in result.culprit


def test_a_returned_lease_refuses_all_use():
    with Pool(Folder, 1) as pool:
        with pool.lease() as sandbox:
            pass
        with pytest.raises(SandboxError, match="was returned"):
            sandbox.run(python="1")


def test_one_that_breaks_in_use_is_replaced():
    with Pool(Folder, 2) as pool:
        with pool.lease() as sandbox:
            sandbox._sandbox.broken = True
        with pool.lease(wait=5) as sandbox:
            assert sandbox.run(python="print(1)").ok
        assert pool.metrics().restarts == 1


def test_one_that_dies_while_idle_is_found_before_it_is_lent():
    with Pool(Folder, 1) as pool:
        with pool.lease() as sandbox:
            dead = sandbox._sandbox
        dead.broken = True
        pool._idle[0].answered -= 2  # as if it had been idle for a while
        with pool.lease(wait=5) as sandbox:
            assert sandbox._sandbox is not dead
        assert pool.metrics().restarts == 1


def test_the_watch_asks_the_idle_and_retires_those_that_nobody_uses(monkeypatch):
    monkeypatch.setattr("palaestra.sandboxes.pool.CHECK_SECONDS", 0.05)
    with Pool(Folder, 3, idle=0.3) as pool:
        leases = [pool.lease() for _ in range(3)]
        sandboxes = [lease._sandbox for lease in leases]
        for lease in leases:
            lease.close()
        sandboxes[0].broken = True
        soon(lambda: pool.metrics().restarts == 1)
        soon(lambda: len(open_folders) == 1)  # `start` of them are kept
        assert pool.metrics().idle + pool.metrics().busy == 1


def test_an_opening_that_fails_is_tried_again():
    attempts = []

    def opening():
        attempts.append(1)
        if len(attempts) < 3:
            raise OSError("no room")
        return Folder()

    with Pool(opening, 4) as pool:
        with pool.lease() as sandbox:
            assert sandbox.run(python="print(1)").ok
        assert pool.metrics().failures == 2


def test_openings_that_always_fail_are_reported_and_never_spin():
    attempts = []

    def opening():
        attempts.append(1)
        raise SandboxError("the daemon does not answer; start it")

    with Pool(opening, 4) as pool:
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(SandboxError, match="the daemon does not answer"):
                pool.lease(wait=20)
            assert time.monotonic() - began < 5
        time.sleep(0.3)
        assert len(attempts) <= 5


def test_a_closed_pool_tells_those_who_wait_and_ends_what_runs():
    pool = Pool(Folder, 1)
    with ThreadPoolExecutor(2) as callers, pool.lease() as sandbox:
        running = callers.submit(sandbox.run, python="import time; time.sleep(30)")
        waiting = callers.submit(pool.lease)
        soon(lambda: pool.metrics().waiting == 1 and sandbox._sandbox.runs)
        pool.close()
        with pytest.raises(SandboxError, match="the pool was closed"):
            waiting.result(5)
        assert "the pool was closed" in running.result(5).culprit
    with pytest.raises(SandboxError, match="the pool was closed"):
        pool.lease()
    pool.close()


def test_a_cap_below_one_is_refused():
    with pytest.raises(SandboxError, match="cap=0"):
        Pool(Folder, 0)


def test_many_hasty_callers_lose_nothing():
    """Leases that time out, expire, break and return, all at once: the books balance after."""

    def work(number):
        try:
            with pool.lease(wait=0.02 + number % 3, ttl=0.05 if number % 7 == 0 else 5) as sandbox:
                if number % 11 == 0:
                    sandbox._sandbox.broken = True
                time.sleep(0.1 if number % 7 == 0 else 0.001)
                sandbox.write(f"n{number}", "")
                assert sandbox.list() == [f"n{number}"]
            return 1
        except SandboxError:
            return 0

    with Pool(Folder, 4) as pool, ThreadPoolExecutor(16) as callers:
        done = sum(callers.map(work, range(150)))
        assert done >= 50
        soon(lambda: pool.metrics().busy == pool.metrics().waiting == 0)
        assert pool.metrics().expired >= 10
        assert len(open_folders) <= 4
