"""Attempts to talk to somebody: by TCP, UDP, raw packets, and sockets of this machine."""

from __future__ import annotations

import contextlib
import json
import socket

from ..core import ExecResult
from .scene import Attack, Scene, blind, nothing

_HEARD = "the owner's listener receives the attempt's mark"


def _talk(family: str, address: str, kind: str = "STREAM") -> str:
    return f"""
address = {address}
peer = attempt(socket.socket, socket.{family}, socket.SOCK_{kind}) if address else None
if peer is not None:
    peer.settimeout(1)
    attempt(lambda: (peer.connect(address), peer.sendall(MARK.encode()), time.sleep(0.1)))
"""


def _docker(scene: Scene, result: ExecResult) -> str:
    """The engine's own number, asked for by the owner, was printed by the program."""
    for path in ("/var/run/docker.sock", "/run/podman/podman.sock"):
        with (
            contextlib.suppress(OSError, ValueError, KeyError),
            socket.socket(socket.AF_UNIX) as peer,
        ):
            peer.settimeout(2)
            peer.connect(path)
            peer.sendall(b"GET /info HTTP/1.0\r\n\r\n")
            reply = b""
            while part := peer.recv(1 << 16):
                reply += part
            number = json.loads(reply.partition(b"\r\n\r\n")[2])["ID"]
            if number and number in result.stdout:
                return f"it talked to {path}"
    return ""


ATTACKS = (
    Attack("tcp", "network", _HEARD, nothing, _talk("AF_INET", 'ADDRESSES.get("tcp")')),
    Attack("tcp6", "network", _HEARD, nothing, _talk("AF_INET6", 'ADDRESSES.get("tcp6")')),
    Attack(
        "tcp_to_the_bridge",
        "network",
        f"{_HEARD} at the address that containers see",
        nothing,
        _talk("AF_INET", 'ADDRESSES.get("bridge")'),
    ),
    Attack("udp", "network", _HEARD, nothing, _talk("AF_INET", 'ADDRESSES.get("udp")', "DGRAM")),
    Attack(
        "dns",
        "network",
        "a query for a name made of the attempt's mark reaches the owner's name server",
        nothing,
        """
question = bytes([0, 7, 1, 0, 0, 1, 0, 0, 0, 0, 0, 0, len(MARK)]) + MARK.encode()
question += bytes([0, 0, 1, 0, 1])
peer = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
attempt(peer.sendto, question, ADDRESSES["dns"])
time.sleep(0.1)
""",
    ),
    Attack(
        "raw_packets",
        "network",
        "a packet made by hand reaches the owner's listener",
        nothing,
        """
import struct
peer = attempt(socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
packet = struct.pack("!HHHH", 9, ADDRESSES["udp"][1], 8 + len(MARK), 0) + MARK.encode()
if peer: attempt(peer.sendto, packet, ("127.0.0.1", 0)); time.sleep(0.1)
""",
    ),
    Attack(
        "vsock",
        "network",
        "the host sees sockets of virtual machines, which network namespaces do not divide",
        lambda scene, result: (
            f"it holds {scene.peak.sockets} sockets" if scene.peak.sockets >= 60 else blind(scene)
        ),
        """
kept = [attempt(socket.socket, socket.AF_VSOCK, socket.SOCK_STREAM) for _ in range(80)]
time.sleep(0.4)
""",
        deep=True,
    ),
    Attack("unix_socket", "network", _HEARD, nothing, _talk("AF_UNIX", 'f"{FOLDER}/docker.sock"')),
    Attack("abstract_socket", "network", _HEARD, nothing, _talk("AF_UNIX", '"\\0" + ABSTRACT')),
    Attack(
        "abstract_datagram",
        "network",
        _HEARD,
        nothing,
        _talk("AF_UNIX", '"\\0" + ABSTRACT + "-d"', "DGRAM"),
    ),
    Attack(
        "docker_socket",
        "network",
        "the number of the host's container engine is printed, which only its users can ask for",
        _docker,
        """
import glob
for path in ["/var/run/docker.sock", "/run/podman/podman.sock", *glob.glob("/run/user/*/*/*.sock")]:
    peer = socket.socket(socket.AF_UNIX); peer.settimeout(1)
    try:
        peer.connect(path); peer.sendall(b"GET /info HTTP/1.0\\r\\n\\r\\n")
        for _ in range(20): print(peer.recv(4096))
    except OSError: pass
""",
    ),
    Attack(
        "enter_the_host_network",
        "network",
        f"{_HEARD} after the program entered the owner's namespaces",
        nothing,
        """
for pid in (OWNER, 1, DECOY):
    for kind in ("user", "net", "mnt", "pid"):
        space = attempt(os.open, f"/proc/{pid}/ns/{kind}", os.O_RDONLY)
        if space is not None: kernel("setns", space, 0)
"""
        + _talk("AF_INET", 'ADDRESSES.get("tcp")')
        + 'attempt(show, f"{FOLDER}/gold")',
    ),
)
