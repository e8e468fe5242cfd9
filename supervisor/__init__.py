"""Decides and waits: the supervision tree, the app file, the control socket and the commands."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from supervisor.actor import NotRunning as NotRunning
    from supervisor.app import App as App
    from supervisor.app import Handle as Handle
    from supervisor.app_file.problems import AppFileError as AppFileError
    from supervisor.app_file.spec import AppSpec as AppSpec
    from supervisor.app_file.spec import Container as Container
    from supervisor.app_file.spec import Exec as Exec
    from supervisor.app_file.spec import Group as Group
    from supervisor.app_file.spec import Grpc as Grpc
    from supervisor.app_file.spec import Http as Http
    from supervisor.app_file.spec import Limits as Limits
    from supervisor.app_file.spec import Log as Log
    from supervisor.app_file.spec import Notify as Notify
    from supervisor.app_file.spec import Restart as Restart
    from supervisor.app_file.spec import Stop as Stop
    from supervisor.app_file.spec import Tcp as Tcp
    from supervisor.events import Event as Event
    from supervisor.failures import AppError as AppError
    from supervisor.failures import AppFailed as AppFailed
    from supervisor.failures import AppHeld as AppHeld
    from supervisor.failures import ContainerFailed as ContainerFailed
    from supervisor.failures import JournalError as JournalError
    from supervisor.machine import StartError as StartError
    from supervisor.status import Status as Status

DISTRIBUTION = "creche"

_PLACES = {
    "actor": ("NotRunning",),
    "app": ("App", "Handle"),
    "app_file.problems": ("AppFileError",),
    "app_file.spec": (
        "AppSpec", "Container", "Exec", "Group", "Grpc", "Http", "Limits", "Log", "Notify", "Restart", "Stop", "Tcp",
    ),
    "events": ("Event",),
    "failures": ("AppError", "AppFailed", "AppHeld", "ContainerFailed", "JournalError"),
    "machine": ("StartError",),
    "status": ("Status",),
}  # fmt: skip
_WHERE = {name: module for module, names in _PLACES.items() for name in names}

__all__ = ["DISTRIBUTION", *_WHERE]  # pyright: ignore[reportUnsupportedDunderAll]


def __getattr__(name: str) -> Any:
    """Import a public name when it is first asked for, so that commands pay only for what they use."""
    from importlib import import_module

    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    found = getattr(import_module(f"{__name__}.{_WHERE[name]}"), name)
    globals()[name] = found
    return found
