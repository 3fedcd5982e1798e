"""Give up the rights of a process that reads data of others: system calls are filtered (seccomp, Linux), files and
bytes limited.

Sources: seccomp(2), `linux/seccomp.h`, the tables of system calls of x86_64 and aarch64.
"""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys
from collections.abc import Iterator

_OPEN_FILES = 64
_EPERM, _ENOSYS = 1, 38
_CALLS = {  # x86_64, aarch64; -1: the system has no such call
    "socket": (41, 198), "connect": (42, 203), "bind": (49, 200), "sendto": (44, 206), "sendmsg": (46, 211),
    "socketpair": (53, 199), "execve": (59, 221), "execveat": (322, 281), "fork": (57, -1), "vfork": (58, -1),
    "ptrace": (101, 117), "kill": (62, 129), "tkill": (200, 130), "pidfd_open": (434, 434), "creat": (85, -1),
    "unlink": (87, -1), "unlinkat": (263, 35), "rename": (82, -1), "renameat": (264, 38), "renameat2": (316, 276),
    "link": (86, -1), "linkat": (265, 37), "symlink": (88, -1), "symlinkat": (266, 36), "truncate": (76, 45),
    "mkdir": (83, -1), "mkdirat": (258, 34), "rmdir": (84, -1), "mknod": (133, -1), "mknodat": (259, 33),
    "chmod": (90, -1), "fchmodat": (268, 53), "chown": (92, -1), "fchownat": (260, 54), "setxattr": (188, 5),
    "mount": (165, 40), "unshare": (272, 97), "setns": (308, 268), "bpf": (321, 280), "openat2": (437, 437),
    "io_uring_setup": (425, 425), "process_vm_writev": (311, 271), "process_vm_readv": (310, 270),
    "sendmmsg": (307, 269), "fchmod": (91, 52), "fchmodat2": (452, 452), "fchown": (93, 55), "lchown": (94, -1),
    "utime": (132, -1), "utimes": (235, -1), "futimesat": (261, -1), "utimensat": (280, 88), "lsetxattr": (189, 6),
    "fsetxattr": (190, 7), "removexattr": (197, 14), "lremovexattr": (198, 15), "fremovexattr": (199, 16),
    "rt_sigqueueinfo": (129, 138), "rt_tgsigqueueinfo": (297, 240), "pidfd_send_signal": (424, 424),
    "pidfd_getfd": (438, 438), "process_madvise": (440, 440), "open_by_handle_at": (304, 265), "chroot": (161, 51),
    "pivot_root": (155, 41), "umount2": (166, 39), "open_tree": (428, 428), "move_mount": (429, 429),
    "fsopen": (430, 430), "fsmount": (432, 432), "fspick": (433, 433), "mount_setattr": (442, 442),
    "init_module": (175, 105), "finit_module": (313, 273), "delete_module": (176, 106), "kexec_load": (246, 104),
    "kexec_file_load": (320, 294), "reboot": (169, 142), "swapon": (167, 224), "swapoff": (168, 225),
    "keyctl": (250, 219), "add_key": (248, 217), "request_key": (249, 218), "mq_open": (240, 180),
    "mq_unlink": (241, 181), "shmget": (29, 194), "msgget": (68, 186), "semget": (64, 190), "setpriority": (141, 140),
    "settimeofday": (164, 170), "clock_settime": (227, 112), "perf_event_open": (298, 241),
}  # fmt: skip
"""System calls that reading a file and writing to an open one needs none of."""
_ARCHITECTURES = {"x86_64": (0, 0xC000003E), "aarch64": (1, 0xC00000B7)}
_TGKILL, _PRLIMIT = (234, 131), (302, 261)
"""Allowed for the process itself: the first argument names it, by its id or by 0."""
_OPEN, _OPENAT, _CLONE, _CLONE3, _SECCOMP = (2, -1), (257, 56), (56, 220), (435, 435), (317, 277)
_CLONE_THREAD = 0x10000
_LOAD, _EQUAL, _AT_LEAST, _ANY_BIT, _RETURN = 0x20, 0x15, 0x35, 0x45, 0x06
_ALLOW, _FAIL = 0x7FFF0000, 0x00050000


def give_up_rights(file_bytes: int) -> bool:
    """Let this process do no more than read files, compute, and write to files that are open.

    Args:
        file_bytes: How large the file that it writes may become.

    Returns:
        Whether the system can do so; limits alone are set where it cannot.
    """
    try:
        import resource
    except ImportError:  # Windows
        return False
    resource.setrlimit(resource.RLIMIT_FSIZE, (file_bytes, file_bytes))
    resource.setrlimit(resource.RLIMIT_NOFILE, (_OPEN_FILES, _OPEN_FILES))
    if sys.platform != "linux" or platform.machine() not in _ARCHITECTURES:
        return False
    column, audit_architecture = _ARCHITECTURES[platform.machine()]
    rows = list(_filter_rows(column, audit_architecture))
    program = b"".join(struct.pack("<HBBI", *row) for row in rows)
    code = ctypes.create_string_buffer(program, len(program))
    pointer = struct.pack("<HxxxxxxQ", len(rows), ctypes.addressof(code))
    libc = ctypes.CDLL(None, use_errno=True)
    no_new_rights, filter_all_threads = 38, (1, 1)
    if libc.prctl(no_new_rights, 1, 0, 0, 0) != 0:
        return False
    return int(libc.syscall(_SECCOMP[column], *filter_all_threads, ctypes.create_string_buffer(pointer))) == 0


def _filter_rows(column: int, audit_architecture: int) -> Iterator[tuple[int, int, int, int]]:
    """The filter of system calls as rows of classic BPF: code, rows to skip if true, if false, value.

    `struct seccomp_data` holds the number of the call at 0, the architecture at 4, the arguments from 16 on.
    """
    refuse = (_RETURN, 0, 0, _FAIL | _EPERM)
    yield from ((_LOAD, 0, 0, 4), (_EQUAL, 1, 0, audit_architecture), refuse)
    yield (_LOAD, 0, 0, 0)
    yield from ((_AT_LEAST, 0, 1, 0x40000000), refuse)  # the calls of x32
    for numbers in _CALLS.values():
        if numbers[column] >= 0:
            yield from ((_EQUAL, 0, 1, numbers[column]), refuse)
    for numbers, own in ((_TGKILL, os.getpid()), (_PRLIMIT, 0)):
        yield from (
            (_EQUAL, 0, 4, numbers[column]),
            (_LOAD, 0, 0, 16),
            (_EQUAL, 1, 0, own),
            refuse,
            (_RETURN, 0, 0, _ALLOW),
        )
    yield from ((_EQUAL, 0, 1, _CLONE3[column]), (_RETURN, 0, 0, _FAIL | _ENOSYS))  # libc then takes `clone`
    yield from (
        (_EQUAL, 0, 4, _CLONE[column]),
        (_LOAD, 0, 0, 16),
        (_ANY_BIT, 1, 0, _CLONE_THREAD),
        refuse,
        (_RETURN, 0, 0, _ALLOW),
    )
    writes = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
    for numbers, argument in ((_OPENAT, 2), (_OPEN, 1)):
        if numbers[column] >= 0:
            yield from (
                (_EQUAL, 0, 4, numbers[column]),
                (_LOAD, 0, 0, 16 + 8 * argument),
                (_ANY_BIT, 0, 1, writes),
                refuse,
                (_RETURN, 0, 0, _ALLOW),
            )
    yield (_RETURN, 0, 0, _ALLOW)
