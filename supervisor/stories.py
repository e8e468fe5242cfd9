"""Pure: deaths, endings, delays and signals in words."""

import signal

from supervisor.machine import Exit
from supervisor.policy import Ended


def told(end: Exit) -> str:
    """Return how a run ended, as the clause after "it"."""
    if end.oom:
        return "was killed by the OOM killer" if end.signal == signal.SIGKILL else "ran out of memory"
    if end.signal is not None:
        return f"was ended by {signal_name(end.signal)}"
    return "ended, and nobody saw how" if end.code is None else f"exited with code {end.code}"


def seconds(delay: float) -> str:
    """Return a delay as short as a person wants it."""
    return f"{delay:.1f}" if delay >= 0.05 else f"{delay:.2g}"


def ending(decision: Ended, story: str) -> str:
    """Return why there is no restart, as the clause after the container's name; `story` is its last death's."""
    match decision.state:
        case "completed":
            return f"completed: it {story}"
        case "exhausted":
            return f"is exhausted: {decision.why}; the last time it {story}"
        case _:
            return f"{decision.state} for good: it {story}, and {decision.why}"


def signal_number(name: str) -> int:
    """Return the number of `SIGTERM`, `SIGRTMIN+3` or `SIGRTMAX-3`."""
    base, _, _ = name.replace("-", "+").partition("+")
    return int(signal.Signals[base]) + int(name[len(base) :] or 0)


def signal_name(number: int) -> str:
    """Return `SIGKILL`, or `signal 41` for one without a name."""
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"
