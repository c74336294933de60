"""Nothing left: many runs, a tenth of them hostile, then a look at what remains.

    python benchmarks/soak.py bubblewrap --runs 10000
    python benchmarks/soak.py container --runs 1000

Runs go through four sandboxes at once. Printed: descriptors and memory of the owner along the way,
what stands after closing, and what `prune` finds after an owner was killed with -9 in mid-run.
Exits 1 when anything remains or a run was blamed on the sandbox.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from palaestra.sandboxes import Limits, open_sandbox
from palaestra.sandboxes.reaper import prune

MIB = 1 << 20
LIMITS = Limits(wall=1.0, cpu=1.0, memory=64 * MIB, disk=8 * MIB, processes=16)
HOSTILE = (
    "import os\nwhile True: os.fork()",
    "x = bytearray(1 << 30)",
    "open('f', 'wb').write(b'x' * (1 << 26))",
    "while True: print('x' * 65536)",
    "import os, time\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(600)",
    "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\ntime.sleep(600)",
    "import os, signal\nos.kill(os.getppid(), signal.SIGKILL)",
    "import os\nfor i in range(100000): open(f'f{i}', 'w')",
)
OWNER = """
import sys, time
from palaestra.sandboxes import open_sandbox
boxes = [open_sandbox(sys.argv[1]) for _ in range(3)]
print("ready", flush=True)
boxes[0].run(python="import time; time.sleep(60)", timeout=8)
"""


def soak(kind: str, runs: int, callers: int = 4) -> dict[str, Any]:
    """`runs` runs, every tenth hostile; returns what was seen."""
    prune()  # what others left is not ours to count
    seen: list[tuple[int, int]] = []
    invalid: list[str] = []
    with open_sandbox(kind, LIMITS) as box:
        box.run(python="")  # what the first one loads stays
    before = owner()
    started = time.monotonic()

    def work(caller: int) -> None:
        with open_sandbox(kind, LIMITS) as box:
            for number in range(caller, runs, callers):
                hostile = number % 10 == 9
                source = HOSTILE[number // 10 % len(HOSTILE)] if hostile else "print(6 * 7)"
                result = box.run(python=source)
                if not result.valid or (not hostile and result.stdout != "42\n"):
                    invalid.append(f"run {number}: {result.culprit or result}"[:200])
                if hostile:
                    box.clear()
                if number % (runs // 5) == 0:
                    seen.append(owner())

    with ThreadPoolExecutor(callers) as threads:
        list(threads.map(work, range(callers)))
    seconds = time.monotonic() - started
    return {
        "kind": kind,
        "runs": runs,
        "seconds": round(seconds, 1),
        "owner_before_and_after": [before, owner()],
        "owner_descriptors": [each[0] for each in seen],
        "owner_mib": [each[1] for each in seen],
        "invalid": invalid,
        "left": prune(dry_run=True),
        "left_by_a_killed_owner": killed_owner(kind),
    }


def owner() -> tuple[int, int]:
    """Open descriptors, and resident MiB, of this process."""
    resident = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    return len(os.listdir("/proc/self/fd")), resident // MIB


def killed_owner(kind: str) -> dict[str, Any]:
    """Kill an owner with -9 in mid-run; what `prune` removes, and what it finds afterwards."""
    process = subprocess.Popen([sys.executable, "-c", OWNER, kind], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    time.sleep(0.3)
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    time.sleep(1.0)
    return {"removed": len(prune()), "remains": prune(dry_run=True)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("kind", choices=("bubblewrap", "container"))
    parser.add_argument("--runs", type=int, default=1000)
    arguments = parser.parse_args()
    report = soak(arguments.kind, arguments.runs)
    print(json.dumps(report, indent=2))
    remains = report["left"] or report["left_by_a_killed_owner"]["remains"]
    sys.exit(1 if report["invalid"] or remains else 0)


if __name__ == "__main__":
    main()
