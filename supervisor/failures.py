"""What can go wrong with an app as a whole. Every `str()` says what happened and what to do."""

from pathlib import Path
from typing import Any


class AppError(Exception):
    """Something about an app as a whole."""


class NotAllowed(AppError):
    """creche may not do here what the app needs."""


class NoApp(AppError):
    """There is no app of that name under that root."""


class Foreign(AppError):
    """The app of that name belongs to another file."""


class Closing(AppError):
    """The app ends and takes no more requests."""


class JournalError(AppError):
    """A file of the journal is not what this version wrote."""


class UnknownContainer(AppError, LookupError):
    """The app has no container of that name."""


class AppHeld(AppError):
    """Another process supervises this app; `pid` is its own, None when it has not said so yet."""

    def __init__(self, app: str, pid: int | None, path: Path) -> None:
        who = "another process" if pid is None else f"process {pid}"
        super().__init__(f"{who} supervises the app {app} already (it holds {path}); creche down {app} ends it")
        self.pid = pid


class ContainerFailed(Exception):
    """One container that failed or is exhausted: its `name`, its `state`, and the story of its end."""

    def __init__(self, name: str, state: str, story: str) -> None:
        super().__init__(story)
        self.name = name
        self.state = state


class AppFailed(ExceptionGroup[ContainerFailed]):
    """An app that cannot become ready: one ContainerFailed for each that ended for good, all told in its message."""

    def __str__(self) -> str:
        return self.message

    def derive(self, excs: Any, /) -> Any:
        return AppFailed(self.message, excs)
