"""How many runs of a small Python program a second: every way to run it, side by side in one run.

    python benchmarks/sandboxes.py [--peers] [--only bubblewrap] [--seconds 3] [--rounds 3]

Closed loop: each of 32 callers starts its next run when its last one ended. Open loop: runs arrive
at random at half the measured maximum, and their time counts from their arrival. The ways take
turns, so that a noisy neighbour disturbs all of them; the table holds medians over the rounds.
`--peers` installs gem-llm and skyrl-gym into a venv of their own (460 MB in the temporary folder,
kept) and measures their code tools. What cannot run here is named with its reason. Writes
sandboxes.md beside the other results.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import platform
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from statistics import median, quantiles

from palaestra.sandboxes import Limits, Sandbox, SandboxError, open_sandbox
from palaestra.sandboxes.pool import Pool

ROOT = Path(__file__).parents[1]
OUT = ROOT / "benchmarks/results/sandboxes.md"
PROGRAM, ANSWER = "print(6 * 7)", "42"
LIMITS = Limits(memory=128 << 20)
CORES = os.cpu_count() or 1
# The one that bubblewrap uses too: interpreters differ by a factor of two in how fast they start.
PYTHON = "/usr/bin/python3" if os.path.exists("/usr/bin/python3") else sys.executable
Act = Callable[[], str]


@dataclass
class Way:
    """One way to run the program. `open` gives what runs it once and returns its output."""

    name: str
    open: Callable[[], contextlib.AbstractContextManager[Act]]
    kind: str = ""
    rates: list[float] = field(default_factory=list)
    middle: list[float] = field(default_factory=list)
    slow: list[float] = field(default_factory=list)
    missing: str = ""

    @property
    def rate(self) -> float:
        return median(self.rates) if self.rates else 0.0


@contextlib.contextmanager
def subprocesses() -> Iterator[Act]:
    """Nothing isolates: the floor of what one pays for a fresh interpreter."""
    command = [PYTHON, "-I", "-c", PROGRAM]
    yield lambda: subprocess.run(command, capture_output=True, text=True, timeout=30).stdout


@contextlib.contextmanager
def bubblewrap_each() -> Iterator[Act]:
    """A new bubblewrap for each run, with the same namespaces as ours."""
    if not shutil.which("bwrap"):
        raise SandboxError("no bwrap: apt-get install bubblewrap")
    links = [f"--symlink usr/{name} /{name}" for name in ("bin", "lib", "lib64", "sbin")]
    command = (
        "bwrap --unshare-all --die-with-parent --new-session --clearenv --cap-drop ALL --uid 65534 "
        f"--gid 65534 --ro-bind /usr /usr {' '.join(links)} --proc /proc --dev /dev --tmpfs /tmp "
        "--tmpfs /work --chdir /work /usr/bin/python3 -I -c"
    )
    full = [*command.split(), PROGRAM]
    yield lambda: subprocess.run(full, capture_output=True, text=True, timeout=30).stdout


def warm(kind: str, cap: int, keep: bool) -> Callable[[], contextlib.AbstractContextManager[Act]]:
    """Ours: a pool of warm workers; a lease for each run, or one that each caller keeps."""

    @contextlib.contextmanager
    def opened() -> Iterator[Act]:
        with Pool(lambda: open_sandbox(kind, limits=LIMITS), cap, wait=120) as pool:
            if not keep:

                def leased() -> str:
                    with pool.lease() as sandbox:
                        return checked(sandbox)

                leased()
                yield leased
                return
            leases = [pool.lease() for _ in range(cap)]
            turn = iter(leases)
            own = threading.local()

            def kept() -> str:
                if not hasattr(own, "sandbox"):
                    own.sandbox = next(turn, None) or leases[threading.get_ident() % cap]
                return checked(own.sandbox)

            yield kept
            for lease in leases:
                lease.close()

    return opened


def checked(sandbox: Sandbox) -> str:
    result = sandbox.run(python=PROGRAM)
    return result.stdout if result.ok else f"{result}"


@contextlib.contextmanager
def docker_run() -> Iterator[Act]:
    """A new container for each run, as safe as ours."""
    require_docker()
    command = (
        "docker run --rm --network none --cap-drop ALL --security-opt no-new-privileges "
        "--read-only --pids-limit 64 --memory 256m --user 65534 palaestra-sandbox python3 -I -c"
    )
    full = [*command.split(), PROGRAM]
    yield lambda: subprocess.run(full, capture_output=True, text=True, timeout=60).stdout


@contextlib.contextmanager
def docker_exec() -> Iterator[Act]:
    """A container that stays, and an exec in it for each run, through the SDK."""
    require_docker()
    import docker

    client = docker.from_env(timeout=60, max_pool_size=40)
    container = client.containers.run(
        "palaestra-sandbox",
        ["sleep", "600"],
        detach=True,
        init=True,
        network_mode="none",
        cap_drop=["ALL"],
        security_opt=["no-new-privileges"],
        read_only=True,
    )
    try:
        yield lambda: container.exec_run(["python3", "-I", "-c", PROGRAM]).output.decode()
    finally:
        container.remove(force=True)
        client.close()


def require_docker() -> None:
    image = ["docker", "image", "inspect", "palaestra-sandbox"]
    try:
        there = subprocess.run(image, capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.TimeoutExpired):
        there = False
    if not there:
        raise SandboxError("no Docker, or no image of ours: bash .ci/docker start")


PEER = """
import sys, time, json
from concurrent.futures import ThreadPoolExecutor
name, callers, seconds, program = sys.argv[1], int(sys.argv[2]), float(sys.argv[3]), sys.argv[4]
if name.startswith("gem"):
    from gem.tools.python_code_tool import PythonCodeTool
    tool = PythonCodeTool(timeout=5, sandbox_type="bwrap" if "bwrap" in name else "none")
    act = lambda: tool.execute_action(f"<python>{program}</python>")[2]
else:
    from skyrl_gym.tools.python import PythonCodeExecutorToolGroup
    act = PythonCodeExecutorToolGroup().python
    act = (lambda run: lambda: run(program))(act)
first = act()
if "42" not in first: sys.exit("it answered " + first.strip()[:200])
times, end = [], time.monotonic() + seconds
def caller(_):
    while time.monotonic() < end:
        began = time.monotonic(); assert "42" in act(); times.append(time.monotonic() - began)
began = time.monotonic()
with ThreadPoolExecutor(callers) as pool: list(pool.map(caller, range(callers)))
print(json.dumps([time.monotonic() - began, times]))
"""


def peer(way: Way, python: Path, callers: int, seconds: float) -> None:
    """A peer's tool runs in an interpreter of its venv, with the same closed loop."""
    with tempfile.TemporaryDirectory() as folder:
        path = f"{python.parent}:{os.environ['PATH']}"  # they start what `python` is on the path
        command = [str(python), "-c", PEER, way.name, str(callers), str(seconds), PROGRAM]
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=300,
            cwd=folder,
            env={**os.environ, "PATH": path},
        )
    if done.returncode:
        way.missing = done.stderr.strip().splitlines()[-1][:200]
        return
    spent, times = json.loads(done.stdout.splitlines()[-1])
    note(way, spent, times)


def peers_python() -> Path:
    venv = Path(tempfile.gettempdir()) / "palaestra-benchmark-peers"
    python = venv / "bin/python"
    if not python.exists():
        print("installing gem-llm and skyrl-gym (once, half a minute)", flush=True)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True, timeout=120)
        pip = [str(python), "-m", "pip", "install", "-q", "gem-llm==0.1.0", "skyrl-gym==0.4.0"]
        subprocess.run(pip, check=True, timeout=900)
    return python


def closed_loop(act: Act, callers: int, seconds: float) -> tuple[float, list[float]]:
    """Seconds spent and the seconds of every run."""
    times: list[float] = []
    end = time.monotonic() + seconds

    def caller(_: int) -> None:
        while (began := time.monotonic()) < end:
            if (said := act().strip()) != ANSWER:
                raise RuntimeError(f"it answered {said[:300]!r}")
            times.append(time.monotonic() - began)

    began = time.monotonic()
    with ThreadPoolExecutor(callers) as pool:
        list(pool.map(caller, range(callers)))
    return time.monotonic() - began, times


def open_loop(act: Act, rate: float, seconds: float, seed: int = 0) -> list[float]:
    """Seconds from the arrival to the end of each run, arrivals being a Poisson process."""
    rng, times = random.Random(seed), list[float]()

    def serve(arrival: float) -> None:
        act()
        times.append(time.monotonic() - arrival)

    with ThreadPoolExecutor(64) as servers:
        arrival = time.monotonic() + 0.05
        end = arrival + seconds
        while arrival < end:
            time.sleep(max(0.0, arrival - time.monotonic()))
            servers.submit(serve, arrival)
            arrival += rng.expovariate(rate)
    return times


def note(way: Way, spent: float, times: list[float]) -> None:
    way.rates.append(len(times) / spent)
    way.middle.append(median(times))
    way.slow.append(quantiles(times, n=100)[98] if len(times) > 1 else times[0])


def own_memory(process: str) -> int:
    """Bytes of memory that belong to this process alone."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    kilobytes = (int(line.split()[1]) for line in lines if line.startswith("Private_"))
    return sum(kilobytes) << 10


def processes() -> dict[str, str]:
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                found[entry.name] = (entry / "comm").read_text().strip()
    return found


def folder_and_memory(kind: str) -> list[str]:
    """Snapshot and restore of 10 MB of files, and what an idle worker holds for itself."""
    before = processes()
    with open_sandbox(kind, limits=Limits(memory=128 << 20)) as sandbox:
        checked(sandbox)
        fresh = [pid for pid, name in processes().items() if name.startswith("python")]
        own = [own_memory(pid) for pid in fresh if pid not in before]
        for number in range(10):
            sandbox.write(f"data/{number}", random.Random(number).randbytes(1_000_000))
        saves, restores = [], []
        for _ in range(9):
            began = time.monotonic()
            archive = sandbox.snapshot()
            saves.append(time.monotonic() - began)
            began = time.monotonic()
            sandbox.restore(archive)
            restores.append(time.monotonic() - began)
    memory = f"{sum(own) / 1e6:.1f} MB" if own else "not to be seen from here"
    return [
        f"| {kind} | {median(saves) * 1e3:.1f} ms | {median(restores) * 1e3:.1f} ms | {memory} |"
    ]


def ways(peers: bool) -> list[Way]:
    found = [
        Way("cold subprocess (isolates nothing)", subprocesses),
        Way("bubblewrap, a new one each", bubblewrap_each),
        Way(f"warm bubblewrap, {CORES} workers", warm("bubblewrap", CORES, False), "bubblewrap"),
        Way(f"warm bubblewrap, {2 * CORES} workers", warm("bubblewrap", 2 * CORES, False)),
        Way("warm bubblewrap, a worker each", warm("bubblewrap", 32, True)),
        Way(
            f"warm container, {2 * CORES} workers", warm("container", 2 * CORES, False), "container"
        ),
        Way("docker run", docker_run),
        Way("docker exec, warm", docker_exec),
    ]
    if peers:
        found += [Way(name, subprocesses) for name in PEERS]
    return found


PEERS = ("gem-llm", "gem-llm, bwrap", "skyrl-gym")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--peers", action="store_true")
    parser.add_argument("--only", default="", help="the ways whose name holds this")
    parser.add_argument("--callers", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    python = peers_python() if options.peers else Path()
    measured = [way for way in ways(options.peers) if options.only in way.name]
    for number in range(options.rounds):
        for way in measured:
            if way.missing:
                continue
            if way.name in PEERS:
                peer(way, python, options.callers, options.seconds)
            else:
                try:
                    with way.open() as act:
                        note(way, *closed_loop(act, options.callers, options.seconds))
                except SandboxError as error:
                    way.missing = str(error)
            print(
                f"round {number + 1}: {way.name}: {way.missing or f'{way.rates[-1]:.0f}'}",
                flush=True,
            )
    report(measured, options)


def report(measured: list[Way], options: argparse.Namespace) -> None:
    named = {way.name: way for way in measured if way.rates}
    ours = max(
        (w for w in named.values() if w.name.startswith("warm b")),
        key=lambda w: w.rate,
        default=None,
    )
    lines = [
        "# Sandboxes: runs a second",
        "",
        f"`python benchmarks/sandboxes.py{' --peers' if options.peers else ''}`, {date.today()}, "
        f"{CORES} cores, {platform.machine()}, Python {platform.python_version()}, Linux "
        f"{platform.release()}. The program is `{PROGRAM}`; {options.callers} callers in a closed "
        f"loop, {options.rounds} rounds of {options.seconds:g} s in turns, medians. A shared "
        "machine: ratios hold better than figures.",
        "",
        "| | runs/s | median | p99 | of warm bubblewrap |",
        "|---|--:|--:|--:|--:|",
    ]
    for way in measured:
        if way.missing:
            lines.append(f"| {way.name} | - | | | did not run: {way.missing} |")
        elif way.rates:
            times = f"{ours.rate / way.rate:.1f}x slower" if ours and ours is not way else ""
            lines.append(
                f"| {way.name} | {way.rate:.0f} | {median(way.middle) * 1e3:.1f} ms | "
                f"{median(way.slow) * 1e3:.1f} ms | {times} |"
            )
    for way in measured:
        if way.kind and way.rates:
            with way.open() as act:
                closed_loop(act, options.callers, 1.0)  # the pool has grown to what it needs
                spent = open_loop(act, way.rate / 2, 2 * options.seconds)
            cuts = quantiles(spent, n=100)
            lines += [
                "",
                f"Open arrivals, {way.name}, {way.rate / 2:.0f} a second (half of the maximum): "
                f"median {median(spent) * 1e3:.1f} ms, p99 {cuts[98] * 1e3:.1f} ms of "
                f"{len(spent)} runs.",
            ]
    kinds = [way.kind for way in measured if way.kind and way.rates]
    if kinds:
        lines += ["", "| 10 MB work folder | snapshot | restore | an idle worker's own memory |"]
        lines += ["|---|--:|--:|--:|"]
        for kind in kinds:
            lines += folder_and_memory(kind)
    text = "\n".join(lines) + "\n"
    print(text)
    if not options.only:
        OUT.parent.mkdir(exist_ok=True)
        OUT.write_text(text)


if __name__ == "__main__":
    main()
