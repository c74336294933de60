"""Attempts to change what the next call finds: interpreter, folders, memory of the worker."""

from __future__ import annotations

import json
import time

from ..core import ExecResult
from .scene import Attack, Judge, Scene, nothing

_STATE = """
import builtins, hashlib, json, os, resource, signal, sys, tempfile, threading
def listing(path):
    try: return sorted(os.listdir(path))
    except OSError as error: return str(error)
mask = os.umask(0); os.umask(mask)
home = os.path.expanduser("~")
print(json.dumps({
    "builtins": sorted(map(str, vars(builtins))),
    "changed builtins": [k for k in ("print", "open", "len", "__import__", "exec", "compile")
        if type(getattr(builtins, k)).__name__ != "builtin_function_or_method"],
    "environment": dict(os.environ), "argv": sys.argv, "path": sys.path, "folder": os.getcwd(),
    "modules": sorted(m for m in sys.modules if "pa_" in m or m == "antigravity"), "mask": mask,
    "hooks": [sys.excepthook is sys.__excepthook__, sys.gettrace() is None, len(sys.path_hooks),
        len(sys.meta_path), sys.getrecursionlimit(), sys.displayhook is sys.__displayhook__],
    "stdlib": [json.dumps.__module__, os.path.join.__module__, hashlib.sha256(b"x").hexdigest()],
    "streams": [sys.stdout.encoding, sys.stdout.errors, type(sys.stdout).__name__],
    "signals": [str(signal.getsignal(n)) for n in (1, 2, 10, 12, 13, 14, 15, 17)],
    "blocked": sorted(map(int, signal.pthread_sigmask(signal.SIG_BLOCK, []))),
    "limits": [resource.getrlimit(n) for n in range(10)], "nice": os.nice(0),
    "threads": threading.active_count(), "tmp": listing("/tmp"), "var": listing("/var/tmp"),
    "shm": listing("/dev/shm"), "home": listing(home) if home != os.getcwd() else "",
    "temp": tempfile.gettempdir(), "affinity": sorted(os.sched_getaffinity(0)),
}))
"""


def _state(scene: Scene) -> dict[str, object]:
    found: dict[str, object] = json.loads(scene.honest(_STATE))
    for name in ("tmp", "var", "shm"):  # on a shared machine others come and go in these
        if isinstance(entries := found[name], list):
            found[name] = [each for each in entries if scene.mark in each]
    return found


def _compared(scene: Scene) -> ExecResult:
    """The same owner's program before and after the hostile call must find the same state."""
    before = _state(scene)
    result = scene.strike()
    try:
        after = _state(scene)
    except ValueError:
        scene.notes.append("the next call's output is not what its program printed")
        return result
    if different := [name for name, value in before.items() if after[name] != value]:
        scene.notes.append(f"the next call finds another {', '.join(different)}")
    return result


def _poisoned(*programs: str, write: dict[str, str] | None = None) -> Judge:
    """The owner's next calls must not run what the program left for them."""

    def judge(scene: Scene, result: ExecResult) -> str:
        for name, text in (write or {}).items():
            scene.sandbox.write(name, text.replace("TOKEN", scene.token))
        for program in programs:
            text = program.replace("TOKEN", scene.token)
            answer = scene.sandbox.run(python=text)
            if scene.mark in answer.stdout + answer.stderr or any(
                scene.mark in name for name in scene.sandbox.list()
            ):
                return "the next call ran what the program had left for it"
            if scene.token not in answer.stdout:
                return f"the next call said {answer.stdout[-80:]!r} {answer.stderr[-200:]!r}"
        return ""

    return judge


def _startup_files(scene: Scene, result: ExecResult) -> str:
    with scene.sandbox.shell() as shell:
        answer = shell.run(f"echo {scene.token}", timeout=2)
    with scene.sandbox.python() as session:
        other = session.run(f"print({scene.token!r})", timeout=2)
    if scene.mark in answer.stdout + answer.stderr + other.stdout + other.stderr or any(
        scene.mark in name for name in scene.sandbox.list()
    ):
        return "a new session ran what the program had left for it"
    return ""


def after_clear(scene: Scene, result: ExecResult) -> str:
    """The next owner's call, after `clear`, finds nothing of the last owner's."""
    started = time.monotonic()
    scene.sandbox.clear()
    if (spent := time.monotonic() - started) > 5:
        return f"clearing took {spent:.1f} s"
    if names := scene.sandbox.list():
        return f"{len(names)} files are left, {names[0][:40]!r} first"
    found = scene.honest(scene.source(_SEARCH))
    return "the next owner finds what was left" if f"found-{scene.mark}" in found else ""


_SEARCH = """
left = ("left-" + MARK).encode()
if os.listdir("."): print("found-" + MARK)
for place in ("/tmp", "/var/tmp", "/dev/shm", os.path.expanduser("~"), "/run", "/run/lock"):
    try: names = os.listdir(place)
    except OSError: continue
    if any(MARK in name for name in names): print("found-" + MARK)
for pid in filter(str.isdecimal, os.listdir("/proc")):
    if not APART or int(pid) == os.getpid(): continue
    try:
        maps = open(f"/proc/{pid}/maps").read().splitlines()
        with open(f"/proc/{pid}/mem", "rb", 0) as file:
            for line in maps:
                if " rw" not in line: continue
                start, end = (int(x, 16) for x in line.split()[0].split("-"))
                file.seek(start)
                if left in file.read(min(end - start, 32 << 20)): print("found-" + MARK)
    except (OSError, ValueError, OverflowError): pass
"""


def _remembered(scene: Scene) -> ExecResult:
    """An earlier owner's call used a secret; the program searches for it after `clear`."""
    before = scene.sandbox.run(
        python=f"# {scene.owner.secret}\nimport sys; text = sys.stdin.read(); print(len(text))",
        stdin=scene.owner.secret,
        env={"EARLIER": scene.owner.secret},
    )
    if not before.valid:
        scene.notes.append(f"the first call failed: {before.culprit}")
    scene.sandbox.clear()
    return scene.strike()


def _sessions(scene: Scene) -> ExecResult:
    """One session changes what it can; another one, and an ordinary call, must not notice."""
    with scene.sandbox.python() as session:
        text = scene.source(scene.attack.program)
        result = scene.watched(lambda: session.run(text, timeout=2), 2)
        if scene.token not in scene.honest(f"print(len([1, 2]) == 2 and {scene.token!r})"):
            scene.notes.append("an ordinary call notices what a session changed")
        with scene.sandbox.python() as other:
            answer = other.run(f"print(len([1, 2]) == 2 and {scene.token!r})", timeout=2)
            if scene.token not in answer.stdout:
                scene.notes.append("another session notices what a session changed")
    return result


_PATCH = """
import builtins, json, io
sys.modules["json"] = None; sys.modules["antigravity"] = sys
builtins.len = lambda *a: 0
builtins.print = lambda *a, **k: os.write(1, b"forged\\n")
builtins.open = builtins.__import__ = builtins.compile = builtins.exec = lambda *a, **k: None
io.StringIO = io.BytesIO = None
"""


_LEAVE = "f\"import os\\nos.write(1, b'{MARK}\\\\n')\\nopen('{MARK}', 'w').close()\\n\""


ATTACKS = (
    Attack(
        "sitecustomize",
        "next call",
        "the next call runs a module that the program left for the interpreter's start",
        _poisoned("print('TOKEN')", "import json; print('TOKEN')"),
        f"""
import site, sysconfig
places = [".", site.getusersitepackages(), sysconfig.get_path("purelib"), os.path.expanduser("~")]
for place in places:
    for name in ("sitecustomize.py", "usercustomize.py"):
        if APART or place == ".":
            attempt(os.makedirs, place, 0o777, True)
            attempt(put, f"{{place}}/{{name}}", {_LEAVE})
""",
    ),
    Attack(
        "path_file",
        "next call",
        "the next call runs a line of a .pth file that the program left",
        _poisoned("print('TOKEN')"),
        """
import site, sysconfig
for place in (site.getusersitepackages(), sysconfig.get_path("purelib"), "."):
    if APART or place == "." or os.path.realpath(place).startswith(os.getcwd()):
        attempt(os.makedirs, place, 0o777, True)
        attempt(put, f"{place}/x.pth", f"import os; os.write(1, b'{MARK}')\\n")
""",
    ),
    Attack(
        "shadowed_library",
        "next call",
        "the owner's next program imports the program's file instead of the standard library",
        _poisoned(
            "import json, random, string, tempfile, unittest, traceback; print('TOKEN')",
            "try: raise ValueError\nexcept ValueError: import traceback; print('TOKEN')",
        ),
        f"""
names = "json random string tempfile unittest traceback encodings linecache tokenize ast"
for name in names.split(): put(f"{{name}}.py", {_LEAVE})
""",
    ),
    Attack(
        "poisoned_cache",
        "next call",
        "a compiled file that the program left is run instead of what the owner wrote",
        _poisoned(
            "import sys; sys.path.insert(0, '.'); import helper; print(helper.answer)",
            write={"helper.py": "answer = 'TOKEN'\n"},
        ),
        """
import importlib.util, marshal
code = compile(f"answer = '{MARK}'", "helper.py", "exec")
os.makedirs("__pycache__")
data = importlib.util.MAGIC_NUMBER + bytes([1]) + bytes(11) + marshal.dumps(code)
with open(f"__pycache__/helper.{sys.implementation.cache_tag}.pyc", "wb") as file: file.write(data)
""",
    ),
    Attack(
        "startup_files_of_shells",
        "next call",
        "a new session runs what the program left for its start",
        _startup_files,
        """
text = f"echo {MARK}; touch {MARK}\\n"
for place in {".", os.path.expanduser("~") if APART else "."}:
    for name in ("bashrc", "profile", "bash_profile", "bash_login", "inputrc", "env", "pythonrc"):
        attempt(put, f"{place}/.{name}", text)
""",
    ),
    Attack(
        "patched_builtins",
        "next call",
        "the owner's next program finds other functions, modules or output",
        nothing,
        _PATCH,
        stage=_compared,
    ),
    Attack(
        "patched_state",
        "next call",
        "the owner's next program finds another environment, mask, path, limit or signal handler",
        nothing,
        """
import resource, threading, builtins
os.environ.update(PATH="/nowhere", PYTHONPATH=".", LD_PRELOAD="x.so", PYTHONSTARTUP="x.py")
library().setenv(b"EVIL", b"1", 1)
sys.path[:] = ["."]; sys.setrecursionlimit(50); builtins.extra = 1
for number in (1, 2, 10, 12, 14, 15): signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, [10, 12, 14])
sys.meta_path.insert(0, None); sys.path_hooks.clear()
resource.setrlimit(resource.RLIMIT_NOFILE, (20, 20))
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
os.nice(5); os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])
sys.excepthook = sys.displayhook = print; sys.stdout = sys.stderr
os.mkdir("gone"); os.chdir("gone"); os.rmdir("../gone")
os.umask(0o777)
""",
        stage=_compared,
    ),
    Attack(
        "files_left_in_tmp",
        "next call",
        "the owner's next program finds files in /tmp, /var/tmp, /dev/shm or at home",
        nothing,
        """
import tempfile
for place in {"/tmp", "/var/tmp", "/dev/shm", tempfile.gettempdir()}:
    attempt(os.mkdir, f"{place}/{MARK}"); attempt(put, f"{place}/{MARK}/x")
    attempt(os.chmod, f"{place}/{MARK}", 0); attempt(put, f"{place}/{MARK}y")
if os.path.realpath(os.path.expanduser("~")) != os.getcwd() and APART:
    attempt(lambda: open(os.path.expanduser(f"~/{MARK}"), "w").close())
""",
        stage=_compared,
    ),
    Attack(
        "session_leaks",
        "next call",
        "what one session changed is noticed by another, or by an ordinary call",
        nothing,
        """
import builtins
builtins.len = lambda *a: 0
builtins.print = lambda *a: None
os.chdir("/")
""",
        stage=_sessions,
    ),
    Attack(
        "seeded_random",
        "next call",
        "the owner's next program gets the random numbers that the program chose",
        lambda scene, result: (
            "it got the chosen number"
            if scene.honest("import random; print(random.random())").startswith(
                "0.3238327648331623"
            )
            else ""
        ),
        "import random\nrandom.seed(7)",
    ),
    Attack(
        "left_after_clear",
        "next call",
        "files with odd rights, or processes, are found by the next owner after `clear`",
        after_clear,
        """
secret = "left-" + MARK
os.makedirs("a/b/c"); put("a/b/c/file", secret)
for path in ("a/b/c/file", "a/b/c", "a/b", "a"): os.chmod(path, 0)
os.mkfifo("pipe"); os.symlink("/", "root"); put(".hidden")
attempt(os.chmod, ".", 0o500)
for place in ("/tmp", "/dev/shm", "/var/tmp"):
    attempt(os.mkdir, f"{place}/{MARK}"); attempt(put, f"{place}/{MARK}/{MARK}", secret)
    attempt(os.chmod, f"{place}/{MARK}", 0)
""",
    ),
    Attack(
        "memory_of_the_worker",
        "next call",
        "a secret of an earlier owner is found in the memory of what starts the programs",
        nothing,
        """
for pid in pids() if APART else ():
    try:
        maps = open(f"/proc/{pid}/maps").read().splitlines()
        with open(f"/proc/{pid}/mem", "rb", 0) as file:
            for line in maps:
                start, end = (int(x, 16) for x in line.split()[0].split("-"))
                if " rw" not in line: continue
                file.seek(start)
                data = file.read(min(end - start, 32 << 20))
                for part in data.split(b"palaestra-")[1:]: print(b"palaestra-" + part[:30])
    except (OSError, ValueError, OverflowError) as error: print(error)
print(dict(os.environ))
""",
        stage=_remembered,
    ),
)
