"""The static init that a container's pid 1 can be: found on the host, read once into a sealed memfd."""

import os
import struct

from runtime.launch.messages import memory_file

CANDIDATES = (
    "/usr/bin/catatonit",
    "/usr/libexec/podman/catatonit",
    "/usr/bin/tini-static",
    "/usr/bin/docker-init",
    "/usr/libexec/docker/docker-init",
)
_PT_INTERP = 3


def is_static(program: bytes) -> bool:
    """Return whether these bytes are a whole 64-bit little-endian ELF program that asks for no loader (elf(5))."""
    if program[:6] != b"\x7fELF\x02\x01":
        return False
    try:
        offset: int = struct.unpack_from("<Q", program, 32)[0]
        size, count = struct.unpack_from("<HH", program, 54)
        headers = [struct.unpack_from("<I", program, offset + index * size)[0] for index in range(count)]
    except struct.error:
        return False
    return len(program) >= offset + count * size and _PT_INTERP not in headers


def find(candidates: tuple[str, ...] = CANDIDATES) -> tuple[str, int] | None:
    """Return the first static init of this host as its path and a sealed memfd, None where there is none.

    The container executes the memfd: the host's file cannot be reached through /proc/1/exe (CVE-2019-5736).
    """
    for path in candidates:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                program = os.read(descriptor, 16 << 20)
            finally:
                os.close(descriptor)
        except OSError:
            continue
        if is_static(program):
            return path, memory_file("creche-init", program, executable=True)
    return None
