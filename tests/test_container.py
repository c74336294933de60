"""The container kind, on a real engine: what it isolates, and who is blamed when it breaks.

`bash .ci/docker start` starts an engine and builds the image. What every kind promises is tested
in the shared contract test; here is what only a container can do or suffer.
"""

import contextlib
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from palaestra.sandboxes import reaper
from palaestra.sandboxes.container import IMAGE, Attached, Container, read_state
from palaestra.sandboxes.core import MIB, Limits, SandboxError
from palaestra.sandboxes.engine import connect
from palaestra.sandboxes.pool import Pool
from palaestra.sandboxes.protocol import LinkDown, LinkSilent

SMALL = Limits(wall=5, memory=64 * MIB, disk=8 * MIB, processes=16)


@pytest.fixture
def engine():
    """The engine's client; the test is skipped where none answers or our image is missing."""
    pytest.importorskip("docker", exc_type=ImportError)
    from docker.errors import ImageNotFound

    try:
        client = connect(30)
    except SandboxError as error:
        pytest.skip(str(error))
    with contextlib.closing(client):
        try:
            client.api.inspect_image(IMAGE)
        except ImageNotFound:
            pytest.skip(f"no image {IMAGE}: bash .ci/docker start")
        yield client


def ours(engine):
    return engine.api.containers(all=True, filters={"label": reaper.OWNER_LABEL})


def soon(true, seconds=10.0):
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it never came true"
        time.sleep(0.02)


@contextlib.contextmanager
def running(sandbox, program="import time; time.sleep(30)"):
    """A program that runs while the block does; yields a list that gets its result."""
    results = []
    thread = threading.Thread(target=lambda: results.append(sandbox.run(python=program)))
    thread.start()
    time.sleep(0.3)
    yield results
    thread.join(20)
    assert results, "the call hangs"


@pytest.mark.docker
def test_a_program_has_no_rights_no_network_and_nothing_to_write_but_its_folders(engine):
    program = """
import os, socket
print(os.getuid() > 60000, os.getgid() > 60000, [name for _, name in socket.if_nameindex()])
rights = [line.split()[1] for line in open('/proc/self/status') if line.startswith('Cap')]
print(set(map(int, rights)), 'NoNewPrivs:\\t1' in open('/proc/self/status').read())
def writable(path):
    try: return bool(open(path + '/x', 'w'))
    except OSError: return False
print([path for path in '/ /etc /usr /var/tmp /run /work /tmp'.split() if writable(path)])
print(os.path.exists('/var/run/docker.sock'))
"""
    with Container(SMALL) as sandbox:
        result = sandbox.run(python=program)
        assert result.stdout.splitlines() == [
            "True True ['lo']",
            "{0} True",
            "['/work', '/tmp']",
            "False",
        ], result
        facts = engine.api.inspect_container(sandbox._box.id)
        assert facts["Mounts"] == []  # so an engine on another machine will do
        assert facts["HostConfig"]["Memory"] < 200 * MIB
        assert facts["HostConfig"]["PidsLimit"] <= 24
    assert not [c for c in ours(engine) if c["Labels"][reaper.OWNER_LABEL] == reaper.mark()]


@pytest.mark.docker
def test_the_worker_is_process_1_and_no_signal_from_inside_ends_it(engine):
    program = """
import os
for number in range(1, 65):
    try: os.kill(1, number)
    except OSError: pass
"""
    with Container(SMALL) as sandbox:
        before = sandbox._box.id
        assert sandbox.run(python=program).valid
        assert sandbox.run(python="print(6 * 7)").stdout == "42\n"
        assert sandbox._box.id == before


@pytest.mark.docker
def test_a_program_that_takes_all_memory_is_killed_for_it(engine):
    program = """
import os, time
for _ in range(8):
    if os.fork() == 0:
        hog = bytearray(40 << 20)
        time.sleep(20)
time.sleep(20)
"""
    with Container(SMALL) as sandbox:
        result = sandbox.run(["python3", "-c", program])
        assert result.valid
        assert result.out_of_memory, result
        assert sandbox.run(python="print(1)").ok


@pytest.mark.docker
def test_a_fork_bomb_does_not_take_a_siblings_processes(engine):
    bomb = "import os, time\nfor _ in range(99):\n    if not os.fork(): time.sleep(30)"
    fork = "import os\nprint(all(os.fork() or os._exit(0) for _ in range(10)))"
    with Container(SMALL) as sandbox, Container(SMALL) as sibling:
        uids = {box.run(["id", "-u"]).stdout for box in (sandbox, sibling)}
        assert len(uids) == 2
        with running(sandbox, bomb + "\ntime.sleep(30)"):
            assert sibling.run(python=fork).stdout == "True\n"
            sandbox.close()


@pytest.mark.docker
def test_network_true_gives_a_bridge(engine):
    with Container(SMALL, network=True) as sandbox:
        names = sandbox.run(python="import socket; print(len(socket.if_nameindex()))")
        assert names.stdout == "2\n"


@pytest.mark.docker
def test_a_container_killed_from_outside_is_not_the_programs_fault(engine):
    with Container(SMALL) as sandbox, Container(SMALL) as sibling:
        sandbox.write("notes", "kept?")
        with running(sandbox) as results:
            engine.api.kill(sandbox._box.id)
        assert not results[0].valid
        assert "killed from outside" in results[0].culprit
        # The files are gone: no program may be judged in an empty folder.
        assert not sandbox.alive()
        assert not sandbox.run(python="print(1)").valid
        with pytest.raises(SandboxError, match="killed from outside"):
            sandbox.read("notes")
        assert sibling.run(python="print(1)").ok
        sandbox.clear()
        assert sandbox.run(python="print(1)").ok
        assert sandbox.list() == ()


@pytest.mark.docker
def test_a_container_removed_by_somebody_else_is_named(engine):
    with Container(SMALL) as sandbox:
        with running(sandbox) as results:
            engine.api.remove_container(sandbox._box.id, force=True)
        assert not results[0].valid
        # What the engine says while it removes is a matter of milliseconds.
        assert re.search("removed by somebody else|killed from outside", results[0].culprit)


@pytest.mark.docker
def test_closing_ends_a_call_in_another_thread(engine):
    sandbox = Container(SMALL)
    with running(sandbox) as results:
        began = time.monotonic()
        sandbox.close()
        assert time.monotonic() - began < 4
    assert not results[0].valid
    sandbox.close()


@pytest.mark.docker
def test_a_missing_image_says_how_to_get_it(engine, monkeypatch):
    with pytest.raises(SandboxError, match="no image 'palaestra-nothing:1'; get it: docker pull"):
        Container(SMALL, image="palaestra-nothing:1")
    monkeypatch.setattr("palaestra.sandboxes.container.IMAGE", "palaestra-nothing")
    with pytest.raises(SandboxError, match=r"build it: sudo bash sandboxes/images/build\.sh"):
        Container(SMALL)


@pytest.fixture
def image(engine):
    """Makes an image for a test from a tar, or from ours with changes; removes it after."""
    name = f"palaestra-test-{os.getpid()}"

    def make(changes):
        made = engine.api.create_container(IMAGE, ["true"])
        engine.api.commit(made["Id"], repository=name, changes=changes)
        engine.api.remove_container(made["Id"])
        return name

    yield make
    with contextlib.suppress(Exception):
        engine.api.remove_image(name, force=True)


@pytest.mark.docker
def test_a_task_image_keeps_its_variables_and_its_entrypoint_is_not_run(image):
    name = image(["ENV FLAVOUR=salty", 'ENTRYPOINT ["false"]'])
    with Container(SMALL, image=name) as sandbox:
        result = sandbox.run(["sh", "-c", "echo $FLAVOUR"])
        assert result.stdout == "salty\n"


@pytest.mark.docker
def test_an_image_without_python_is_refused_in_a_sentence(image):
    name = image(["ENV PATH=/nowhere"])
    with pytest.raises(SandboxError, match="has no python3"):
        Container(SMALL, image=name)


@pytest.mark.docker
def test_without_an_engine_the_error_says_what_to_do(monkeypatch):
    pytest.importorskip("docker", exc_type=ImportError)
    monkeypatch.setenv("DOCKER_HOST", "unix:///nowhere/docker.sock")
    began = time.monotonic()
    with pytest.raises(SandboxError, match=r"no container engine answers .* start Docker"):
        Container(SMALL)
    assert time.monotonic() - began < 10


@pytest.mark.docker
def test_a_pool_replaces_a_container_that_was_killed(engine):
    with Pool(lambda: Container(SMALL), 2) as pool:
        with pool.lease() as sandbox, running(sandbox) as results:
            engine.api.kill(sandbox._sandbox._box.id)
        assert not results[0].valid
        with pool.lease() as sandbox:
            assert sandbox.run(python="print(1)").ok


@pytest.mark.docker
def test_the_reaper_removes_what_a_killed_owner_left_and_nothing_else(engine):
    owner = """
import sys
from palaestra.sandboxes.container import Container
from palaestra.sandboxes.core import Limits
sandbox = Container(Limits(wall=60))
print(sandbox._box.id, flush=True)
sandbox.run(python="import time; time.sleep(60)")
"""
    with Container(SMALL) as mine:
        command = [sys.executable, "-c", owner]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            left = process.stdout.readline().strip()
            time.sleep(0.3)
            process.send_signal(signal.SIGKILL)
        # The worker ends by itself, in the midst of the program, because its owner's end closed.
        soon(lambda: not engine.api.inspect_container(left)["State"]["Running"])
        assert left[:12] in " ".join(reaper.prune(dry_run=True))
        assert engine.api.inspect_container(left)
        assert left[:12] in " ".join(reaper.prune())
        assert left not in [container["Id"] for container in ours(engine)]
        assert mine.run(python="print(1)").ok


@pytest.mark.docker
@pytest.mark.slow
def test_an_engine_that_dies_in_the_midst_of_a_run_is_the_culprit(engine, tmp_path, monkeypatch):
    """On an engine of its own: the others' is not the test's to kill."""
    if os.geteuid() != 0:
        pytest.skip("starting a second engine needs root")
    with second_engine(engine, tmp_path) as (address, daemon):
        monkeypatch.setenv("DOCKER_HOST", address)
        with Container(SMALL) as sandbox:
            assert sandbox.run(python="print(1)").ok
            with running(sandbox) as results:
                daemon.kill()
            assert not results[0].valid
            assert "engine" in results[0].culprit
            assert "engine" in sandbox.run(python="print(1)").culprit
            with pytest.raises(SandboxError, match="no container engine answers"):
                sandbox.clear()


@contextlib.contextmanager
def second_engine(engine, folder):
    """A dockerd of this test, without network, with our image in it."""
    address = f"unix://{folder}/docker.sock"
    options = (
        f"--data-root {folder}/data --exec-root {folder}/run --pidfile {folder}/pid -H {address}"
    )
    # In a network of its own: `--bridge none` would remove the bridge of the machine's engine.
    command = f"unshare --net dockerd --bridge none --iptables=false {options}".split()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    daemon = subprocess.Popen(command, **quiet)
    try:
        soon(lambda: answers(address), 30)
        saved = subprocess.Popen(["docker", "save", IMAGE], stdout=subprocess.PIPE)
        subprocess.run(
            ["docker", "-H", address, "load"],
            stdin=saved.stdout,
            stdout=subprocess.DEVNULL,
            check=True,
            timeout=100,
        )
        saved.wait(10)
        saved.stdout.close()
        yield address, daemon
    finally:
        daemon.terminate()
        daemon.wait(30)
        # A killed engine leaves its containerd, shims and mounts.
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                if entry.name.isdigit() and str(folder) in (entry / "cmdline").read_text():
                    os.kill(int(entry.name), signal.SIGKILL)
        mounts = [line.split()[1] for line in Path("/proc/self/mounts").read_text().splitlines()]
        for point in reversed([point for point in mounts if point.startswith(f"{folder}/")]):
            subprocess.run(["umount", "--lazy", point], timeout=10)
        shutil.rmtree(folder / "data", ignore_errors=True)  # pytest would keep the image


def answers(address):
    command = ["docker", "-H", address, "version"]
    try:
        return subprocess.run(command, capture_output=True, timeout=5).returncode == 0
    except subprocess.TimeoutExpired:
        return False


def frame(source, data):
    return struct.pack(">BxxxI", source, len(data)) + data


def test_frames_may_come_in_any_pieces_and_stderr_is_kept_apart():
    here, there = socket.socketpair()
    wire = Attached(here)
    sent = frame(1, b"ab") + frame(2, b"oops") + frame(1, b"") + frame(1, b"cdef") + frame(2, b"!")
    with there:
        for byte in sent + frame(1, b"g"):
            there.send(bytes([byte]))
        assert wire.receive(7, time.monotonic() + 5) == b"abcdefg"
        assert wire.log == b"oops!"
        with pytest.raises(LinkSilent):
            wire.receive(1, time.monotonic() + 0.05)
        there.shutdown(socket.SHUT_WR)
        with pytest.raises(LinkDown):
            wire.receive(1, time.monotonic() + 5)
    wire.close()


def test_what_does_not_fit_into_the_wire_waits_with_a_limit():
    here, there = socket.socketpair()
    wire = Attached(here)
    with there, pytest.raises(LinkSilent):
        wire.send(bytes(10 * MIB), time.monotonic() + 0.1)
    wire.close()


@pytest.mark.parametrize(
    ("state", "by", "said"),
    [
        ({}, "outside", "removed"),
        ({"Running": True, "Paused": True}, "outside", "paused"),
        ({"Running": True}, "outside", "connection"),
        ({"Running": False, "ExitCode": 137, "OOMKilled": True}, "memory", "out of memory"),
        ({"Running": False, "ExitCode": 137}, "outside", "killed from outside"),
        ({"Running": False, "ExitCode": 1}, "outside", "exit code 1: no such module"),
    ],
)
def test_who_ended_a_worker_is_read_from_the_engines_words(state, by, said):
    ending = read_state(state, False, True, "trace\nno such module", LinkDown("closed"))
    assert ending.by == by
    assert said in ending.said


def test_a_worker_that_falls_silent_while_a_program_runs_is_the_programs_doing():
    state = {"Running": True}
    assert read_state(state, False, True, "", LinkSilent()).by == "self"
    assert read_state(state, False, False, "", LinkSilent()).by == "outside"
