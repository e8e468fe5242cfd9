"""The configs that creche-oci itself writes and says: `spec` and `features`."""

import os
from typing import Any

from runtime import capabilities, defaults, mount_options, seccomp
from runtime.hooks import STAGES
from runtime.namespaces import KINDS
from runtime.oci.boot import SPEC


def example() -> dict[str, Any]:
    """Return a config to begin with: creche's defaults, a terminal, a read-only root, ids as the host's.

    Its three capabilities are runc's; the rest is as strict as an app's containers.
    """
    config = defaults.config()
    names = ["CAP_AUDIT_WRITE", "CAP_KILL", "CAP_NET_BIND_SERVICE"]
    process = config["process"]
    process["terminal"] = True
    process["env"] = [*process["env"], "TERM=xterm"]
    process["capabilities"] = {"bounding": names, "effective": names, "permitted": names}
    process["rlimits"] = [{"type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024}]
    config["root"] = {"path": "rootfs", "readonly": True}
    config["hostname"] = "creche"
    linux = config["linux"]
    del linux["uidMappings"], linux["gidMappings"]
    linux["namespaces"] = [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")]
    linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}]}
    return config


def features() -> dict[str, Any]:
    """Return the runtime's features (runtime-spec, features.md, features-linux.md)."""
    known = seccomp.known()
    security = "/sys/module/apparmor/parameters/enabled", "/sys/fs/selinux"
    return {
        "ociVersionMin": "1.0.0",
        "ociVersionMax": SPEC,
        "hooks": list(STAGES),
        "mountOptions": mount_options.words(),
        "linux": {
            "namespaces": sorted(KINDS),
            "capabilities": list(capabilities.NAMES),
            "cgroup": {"v1": True, "v2": True, "systemd": False, "systemdUser": False, "rdma": True},
            "seccomp": {"enabled": True, **known, "supportedFlags": known["knownFlags"]},
            "apparmor": {"enabled": os.path.exists(security[0])},
            "selinux": {"enabled": os.path.exists(security[1])},
            "intelRdt": {"enabled": False},
            "mountExtensions": {"idmap": {"enabled": True}},
        },
        "annotations": {},
        "potentiallyUnsafeConfigAnnotations": [],
    }
