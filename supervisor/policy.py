"""Pure: what to do after a death. No clock, no chance: `now` and `spread` are arguments.

The rules are the app file's `restart.*` keys; intensity (`max_restarts` in `within`) counts as OTP's supervisor
does: that many restarts are allowed, the next death exhausts. Every death gets an answer that says why.
"""

from typing import TYPE_CHECKING, Literal, TypeAlias

import attrs

if TYPE_CHECKING:
    from supervisor.app_file.spec import Restart

Reason = Literal["exit", "signal", "oom", "probe", "start-error", "dependency", "request", "update", "timeout"]
KEPT = 32
"""Restart times kept where no `max_restarts` needs them: for people only."""


@attrs.frozen
class Death:
    """One run's end. `ran` is for how many seconds it had been started, 0.0 when it never was."""

    code: int | None
    reason: Reason
    ran: float


@attrs.frozen
class History:
    """What the policy remembers between deaths; it goes to disk with the container."""

    streak: int = 0
    """Restarts since the back-off was last cleared."""
    restarts: tuple[float, ...] = ()
    """When recent restarts were decided, in boottime seconds, oldest first."""


@attrs.frozen
class Again:
    """Restart `delay` seconds after the death; `history` is what to remember then."""

    delay: float
    history: History


@attrs.frozen
class Ended:
    """No restart. `state` is the lifecycle's name for it, `why` finishes the sentence "not restarted: …"."""

    state: Literal["completed", "failed", "exhausted", "stopped"]
    why: str


Decision: TypeAlias = Again | Ended


def decide(policy: "Restart", death: Death, history: History, now: float, spread: float) -> Decision:
    """Decide what follows a death at `now` (boottime seconds).

    `spread` in [0, 1) is the caller's draw: the delay is shortened by up to the fraction `policy.jitter`, so that it
    never exceeds `max_delay`.
    """
    success = death.code is not None and death.code in policy.success_codes and death.reason in ("exit", "signal")
    if death.reason == "request":
        return Ended("stopped", "it was stopped by request")
    if death.code is not None and death.code in policy.fatal_codes:
        return Ended("failed", f"code {death.code} is one of its fatal_codes")
    if policy.policy == "never":
        return Ended("completed" if success else "failed", "its restart policy is never")
    if policy.policy == "on-failure" and success:
        return Ended("completed", "it succeeded and its restart policy is on-failure")
    if policy.max_restarts is None:
        recent = history.restarts[-KEPT + 1 :]
    else:
        recent = tuple(at for at in history.restarts if at >= now - policy.within)
        if len(recent) >= policy.max_restarts:
            return Ended(
                "exhausted", f"{len(recent)} restarts in {policy.within:g} s, allowed are {policy.max_restarts}"
            )
    streak = 0 if death.ran >= policy.reset_after else history.streak
    return Again(backoff(policy, streak) * (1 - policy.jitter * spread), History(streak + 1, (*recent, now)))


def backoff(policy: "Restart", streak: int) -> float:
    """Return delay · factor^streak in seconds, at most max_delay."""
    try:
        return min(policy.delay * policy.factor**streak, policy.max_delay)
    except OverflowError:
        return policy.max_delay if policy.delay else 0.0
