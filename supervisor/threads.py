"""The one way off the event loop: blocking calls in worker threads, a bounded number at a time.

What runs there finishes even when its caller is cancelled meanwhile: a system call cannot be taken back.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import trio

T = TypeVar("T")

_KERNEL = trio.CapacityLimiter(16)
_DISK = trio.CapacityLimiter(2)
"""For the journal alone: what keeps the kernel's threads busy never holds it up."""


async def in_thread(work: Callable[..., T], *arguments: object) -> T:
    """Do work on the kernel in a worker thread; return what it returns."""
    return await trio.to_thread.run_sync(work, *arguments, limiter=_KERNEL)


async def on_disk(sync_fn: Callable[..., Any], *args: Any) -> Any:
    """Do work on the journal in a worker thread; return what it returns."""
    return await trio.to_thread.run_sync(sync_fn, *args, limiter=_DISK)
