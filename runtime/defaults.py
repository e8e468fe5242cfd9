"""The secure OCI config that every container starts from (runtime-spec, config.md and config-linux.md).

Pure: a dict with the spec's own field names. Each loosening is a change that its caller makes on purpose.
"""

from typing import Any

from runtime.capabilities import DEFAULT

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
SHM_SIZE = 64 << 20  # bytes, as Docker has it

MASKED_PATHS = (
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
)
READ_ONLY_PATHS = ("/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger")


def mounts(shm_size: int = SHM_SIZE) -> list[dict[str, Any]]:
    """Return the filesystems that every Linux container has (config-linux.md, "Default Filesystems")."""
    quiet = ["nosuid", "noexec", "nodev"]
    return [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": quiet},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "noexec", "mode=755", "size=65536k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {
            "destination": "/dev/shm",
            "type": "tmpfs",
            "source": "shm",
            "options": [*quiet, "mode=1777", f"size={shm_size}"],
        },
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": quiet},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*quiet, "ro"]},
        {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup", "options": [*quiet, "relatime", "ro"]},
    ]


def config() -> dict[str, Any]:
    """Return the default config of a container: nothing of the host in reach, nothing more allowed than most need."""
    names = sorted(f"CAP_{name.removeprefix('CAP_')}" for name in DEFAULT)
    return {
        "ociVersion": "1.2.0",
        "process": {
            "user": {"uid": 0, "gid": 0},
            "args": ["sh"],
            "env": [f"PATH={PATH}"],
            "cwd": "/",
            "capabilities": {
                "bounding": names,
                "effective": names,
                "permitted": names,
                "inheritable": [],
                "ambient": [],
            },
            "noNewPrivileges": True,
            "rlimits": [],
        },
        "root": {"path": "/", "readonly": False},
        "hostname": "localhost",
        "mounts": mounts(),
        "linux": {
            "namespaces": [{"type": kind} for kind in ("user", "network", "pid", "mount", "uts", "ipc", "cgroup")],
            "uidMappings": [],
            "gidMappings": [],
            "resources": {},
            "maskedPaths": list(MASKED_PATHS),
            "readonlyPaths": list(READ_ONLY_PATHS),
        },
    }
