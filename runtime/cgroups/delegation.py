"""Whether the cgroup v2 subtree that this process lives in was delegated to it (systemd's CGROUP_DELEGATION.md). Pure.

systemd marks the directory of a unit with `Delegate=yes` by the extended attribute `trusted.delegate` (or
`user.delegate`) = "1": below it, it touches nothing. There, and only there, creche is the one that may write; above it
the tree belongs to systemd. A cgroup that holds processes cannot pass controllers on ("no internal processes",
cgroup-v2.rst), so the unit's own processes have to sit one level deeper: `DelegateSubgroup=` of systemd 254, or
`group.step_aside`.
"""

from collections.abc import Callable
from typing import NamedTuple

ATTRIBUTES = ("trusted.delegate", "user.delegate")
"""Extended attributes of a delegated directory; the second one since systemd 251, readable by everybody."""
SUBGROUP = "creche-self"
"""Where creche's own processes go in a delegated cgroup that they would keep from passing controllers on."""

Mark = Callable[[str], str | None]
"""Returns a directory's value of `ATTRIBUTES`."""


class Verdict(NamedTuple):
    """What `creche doctor` says: whether controllers can be passed down, a sentence, and what to do otherwise."""

    good: bool
    words: str
    advice: str | None = None


def subtree(mount: str, root: str, own: str, mark: Mark) -> str:
    """Return the nearest delegated cgroup at or above `own`, as a path below `mount`; empty where there is none.

    `root` is the part of the hierarchy that `mount` shows (proc_pid_mountinfo(5)), `own` a line of /proc/self/cgroup.
    """
    path = shown(root, own)
    while path:
        if mark(f"{mount}{path}") == "1":
            return path
        path = path.rpartition("/")[0]
    return ""


def judge(
    mount: str, root: str, own: str, mark: Mark, processes: Callable[[str], int], *, whole: bool = True
) -> Verdict:
    """Say where creche's groups go and whether the kernel lets them have controllers.

    `processes` returns how many processes a directory's `cgroup.procs` lists. Only the hierarchy's real root may hold
    processes and pass controllers on; every other cgroup on the way to the groups must hold none. `whole` tells
    whether the mount shows that root: inside a cgroup namespace, a part of the tree calls itself `/`, too.
    """
    base = subtree(mount, root, own, mark)
    if base:
        if held := processes(f"{mount}{base}"):
            return Verdict(
                False,
                f"the cgroup {base} is delegated to creche, but holds {held} processes itself",
                "start creche alone in it, then it makes room, or set DelegateSubgroup= (systemd 254 and later)",
            )
        return Verdict(True, f"the cgroup {base} is delegated; containers go below it")
    if not whole:
        # The mount shows a part: of a container, most often, whose processes sit at the top of what it shows.
        if held := processes(mount):
            return Verdict(
                False,
                f"{mount} shows a part of the hierarchy ({root}) whose top holds {held} processes",
                "have the processes of this container one level deeper, before creche starts",
            )
        return Verdict(True, f"{mount} shows a part of the hierarchy ({root}); containers go to its top")
    if own not in ("", "/"):
        return Verdict(
            True,
            f"the own cgroup {own} is not delegated; containers go to the top of {mount}",
            "where systemd manages this machine, run creche in a unit with Delegate=yes: the top belongs to systemd",
        )
    return Verdict(True, f"no cgroup is delegated and none has to be; containers go to the top of {mount}")


def shown(root: str, own: str) -> str:
    """Return `own` as a path below the mount that shows `root`: empty for its top or what it does not show."""
    if root in ("", "/"):
        return "" if own == "/" else own
    return own[len(root) :] if own.startswith(f"{root}/") else ""
