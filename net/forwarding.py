"""The host's switch for forwarding IPv4, which egress and ports published to other machines need (ip-sysctl)."""

from pathlib import Path

_SWITCH = Path("/proc/sys/net/ipv4/ip_forward")


def enabled() -> bool:
    """Whether this network namespace forwards between interfaces. Raises OSError."""
    return _SWITCH.read_text().strip() != "0"


def enable() -> bool:
    """Switch it on if it is off. True: this call did, which turns the host into a router for its other interfaces as
    well, so that the caller tells the user. Raises OSError (EROFS where /proc/sys is read-only)."""
    if enabled():
        return False
    _SWITCH.write_text("1\n")
    return True
