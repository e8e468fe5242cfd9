"""The one way off the event loop: blocking calls in worker threads, a bounded number at a time."""

from collections.abc import Callable
from typing import TypeVar

import trio

T = TypeVar("T")

_LIMIT = trio.CapacityLimiter(16)


async def in_thread(work: Callable[..., T], *arguments: object) -> T:
    """Run `work` in a worker thread and return what it returns; it finishes even when this is cancelled meanwhile."""
    result: T = await trio.to_thread.run_sync(work, *arguments, limiter=_LIMIT)  # pyright: ignore[reportUnknownMemberType]
    return result
