"""The system calls that a program in a sandbox is refused, as a seccomp filter.

Written by hand, so that nothing needs to be installed: classic BPF for x86-64 and AArch64 in one
program, which looks at the architecture first. It closes doors that an unprivileged program has no
use for (namespaces, mounts, keyrings, tracing, io_uring, ...) and the few ways to reach the worker,
which has the same user: limits, priorities and CPUs of another process. It allows what it does not
name; the namespaces are the wall, this is the fence before it.

System V IPC and POSIX message queues are "not implemented": they would outlive a call.
"""

from __future__ import annotations

import errno
import functools
import struct

# name: its number on x86-64, on AArch64 (None: there is none)
REFUSED: dict[str, tuple[int | None, int | None]] = {
    "ptrace": (101, 117),
    "process_vm_readv": (310, 270),
    "process_vm_writev": (311, 271),
    "process_madvise": (440, 440),
    "pidfd_getfd": (438, 438),
    "kcmp": (312, 272),
    "mount": (165, 40),
    "umount2": (166, 39),
    "pivot_root": (155, 41),
    "chroot": (161, 51),
    "open_tree": (428, 428),
    "move_mount": (429, 429),
    "fsopen": (430, 430),
    "fsconfig": (431, 431),
    "fsmount": (432, 432),
    "fspick": (433, 433),
    "mount_setattr": (442, 442),
    "unshare": (272, 97),
    "setns": (308, 268),
    "bpf": (321, 280),
    "keyctl": (250, 219),
    "add_key": (248, 217),
    "request_key": (249, 218),
    "io_uring_setup": (425, 425),
    "io_uring_enter": (426, 426),
    "io_uring_register": (427, 427),
    "userfaultfd": (323, 282),
    "perf_event_open": (298, 241),
    "fanotify_init": (300, 262),
    "memfd_secret": (447, 447),
    "kexec_load": (246, 104),
    "kexec_file_load": (320, 294),
    "open_by_handle_at": (304, 265),
    "name_to_handle_at": (303, 264),
    "init_module": (175, 105),
    "finit_module": (313, 273),
    "delete_module": (176, 106),
    "reboot": (169, 142),
    "swapon": (167, 224),
    "swapoff": (168, 225),
    "acct": (163, 89),
    "quotactl": (179, 60),
    "quotactl_fd": (443, 443),
    "settimeofday": (164, 170),
    "clock_settime": (227, 112),
    "clock_adjtime": (305, 266),
    "adjtimex": (159, 171),
    "sethostname": (170, 161),
    "setdomainname": (171, 162),
    "syslog": (103, 116),
    "vhangup": (153, 58),
    "personality": (135, 92),
    "move_pages": (279, 239),
    "migrate_pages": (256, 238),
    "lookup_dcookie": (212, 18),
    "iopl": (172, None),
    "ioperm": (173, None),
    "modify_ldt": (154, None),
    "uselib": (134, None),
}
ABSENT: dict[str, tuple[int, int]] = {
    # clone3 hides its flags behind a pointer; the C library then falls back to clone.
    "clone3": (435, 435),
    "shmget": (29, 194),
    "semget": (64, 190),
    "msgget": (68, 186),
    "mq_open": (240, 180),
}
# The argument that names a process, 0 being the caller: any other value is refused.
ONLY_ONESELF: dict[str, tuple[int, int, int]] = {
    "sched_setaffinity": (203, 122, 0),
    "sched_setscheduler": (144, 119, 0),
    "sched_setparam": (142, 118, 0),
    "sched_setattr": (314, 274, 0),
    "setpriority": (141, 140, 1),
    "ioprio_set": (251, 30, 1),
}
CLONE, PRLIMIT, SOCKET, SOCKETPAIR, IOCTL = (56, 220), (302, 261), (41, 198), (53, 199), (16, 29)
NAMESPACES = 0x7E020000  # CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET
FAMILIES = (1, 2, 10, 16)  # unix, IPv4, IPv6, netlink; vsock is in no namespace
TERMINAL_INJECTION = (0x5412, 0x541C)  # TIOCSTI, TIOCLINUX
X86_64, AARCH64 = 0xC000003E, 0xC00000B7
X32 = 0x40000000

ALLOW, ERRNO = 0x7FFF0000, 0x00050000
LOAD, EQUAL, AT_LEAST, ANY_BIT, JUMP, RETURN = 0x20, 0x15, 0x35, 0x45, 0x05, 0x06

Step = tuple[int, int, int, int]  # code, jump if true, jump if false, value


def _refuse(number: int = errno.EPERM) -> Step:
    return (RETURN, 0, 0, ERRNO | number)


def _argument(index: int, half: int = 0) -> Step:
    """Load 32 bits of an argument; both architectures are little endian."""
    return (LOAD, 0, 0, 16 + 8 * index + 4 * half)


def _when(number: int | None, *block: Step) -> list[Step]:
    """For one system call, a block that ends in a return."""
    return [] if number is None else [(EQUAL, 0, len(block), number), *block]


def _rules(arch: int) -> list[Step]:
    """All rules of one architecture (0 or 1), the number of the call being loaded."""
    steps: list[Step] = []
    allow: Step = (RETURN, 0, 0, ALLOW)
    for numbers in REFUSED.values():
        steps += _when(numbers[arch], _refuse())
    for absent in ABSENT.values():
        steps += _when(absent[arch], _refuse(errno.ENOSYS))
    for entry in ONLY_ONESELF.values():
        steps += _when(entry[arch], _argument(entry[2]), (EQUAL, 0, 1, 0), allow, _refuse())
    steps += _when(CLONE[arch], _argument(0), (ANY_BIT, 1, 0, NAMESPACES), allow, _refuse())
    # prlimit: of oneself, or only to read (no new limit).
    steps += _when(
        PRLIMIT[arch],
        _argument(0),
        (EQUAL, 4, 0, 0),
        _argument(2),
        (EQUAL, 0, 3, 0),
        _argument(2, 1),
        (EQUAL, 0, 1, 0),
        allow,
        _refuse(),
    )
    for call in (SOCKET, SOCKETPAIR):
        tests: list[Step] = [
            (EQUAL, len(FAMILIES) - at, 0, family) for at, family in enumerate(FAMILIES)
        ]
        steps += _when(call[arch], _argument(0), *tests, _refuse(errno.EAFNOSUPPORT), allow)
    steps += _when(
        IOCTL[arch],
        _argument(1),
        (EQUAL, 2, 0, TERMINAL_INJECTION[0]),
        (EQUAL, 1, 0, TERMINAL_INJECTION[1]),
        allow,
        _refuse(),
    )
    return [*steps, allow]


@functools.cache
def program() -> bytes:
    """The filter, as an array of `struct sock_filter`."""
    intel = [
        (LOAD, 0, 0, 0),
        (AT_LEAST, 0, 1, X32),
        _refuse(errno.ENOSYS),
        *_rules(0),
    ]
    arm = [(LOAD, 0, 0, 0), *_rules(1)]
    steps: list[Step] = [
        (LOAD, 0, 0, 4),
        (EQUAL, 2, 0, X86_64),
        (EQUAL, 0, 2, AARCH64),
        (JUMP, 0, 0, len(intel) + 2),
        (JUMP, 0, 0, 1),
        _refuse(errno.ENOSYS),  # another architecture: 32-bit calls
        *intel,
        *arm,
    ]
    return b"".join(struct.pack("<HBBI", *step) for step in steps)
