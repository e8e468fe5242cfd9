"""The execs: further processes in running containers, as confined as pid 1 and never outliving it.

The launcher is their parent, too. Their end is told to whoever asked for them, and to nobody where that one is gone.
With a container's pid 1 the kernel kills all that is in its pid namespace, and it does not let pid 1 go before these
are reaped.
"""

import contextlib
import errno
import os
import select
import signal
from typing import Any

from runtime.launch import birth
from runtime.launch.connection import Reply
from runtime.launch.holding import Held, Run
from runtime.launch.messages import Message, ProtocolError, letter
from runtime.launch.program import Program
from runtime.operations import unpack
from runtime.world import World

_LONGEST_ID = 128  # characters
_SAID = 1 << 16  # bytes read of a report at once; it is one line


class Exec:
    """One process beside pid 1."""

    __slots__ = ("child", "held", "identity", "phase", "reply", "said")

    def __init__(self, held: Held, identity: str, child: birth.Child, reply: Reply) -> None:
        self.held = held
        self.identity = identity
        self.child = child
        self.reply = reply
        self.phase = "creating"  # creating → starting → running
        self.said = b""


class Execs:
    """Those of all containers, on the launcher's epoll."""

    def __init__(self, epoll: select.epoll) -> None:
        self._epoll = epoll
        self._all: dict[tuple[str, str], Exec] = {}
        self._pidfds: dict[int, Exec] = {}
        self._reports: dict[int, Exec] = {}

    def __contains__(self, descriptor: int) -> bool:
        return descriptor in self._pidfds or descriptor in self._reports

    def serve(self, descriptor: int) -> None:
        """Do what epoll says of a descriptor that is one of these."""
        if descriptor in self._reports:
            self._hear(self._reports[descriptor])
        else:
            self._reap(self._pidfds[descriptor])

    def start(self, reply: Reply, held: Held, message: Message, descriptors: tuple[int, ...]) -> None:
        """Bring a process into a container that runs; answered when its program does (or could not).

        Descriptors: the plan, the filter where there is one, then the console socket or the three streams.
        """
        identity, run = message["exec"], held.run
        if not isinstance(identity, str) or not 0 < len(identity) <= _LONGEST_ID:
            raise ProtocolError(f"an exec's id has 1 to {_LONGEST_ID} characters")
        if (held.name, identity) in self._all:
            raise ProtocolError(f"exec {identity} of {held.name} runs already")
        if run is None or run.phase != "running":
            raise ProtocolError(f"{held.name} does not run: it is {run.phase if run else 'not created'}")
        if run.leaf.frozen():
            raise _paused(held.name)
        plan, seccomp, streams = _sort(message, descriptors)
        child = self._enter(held, run, letter(plan), seccomp, streams)
        made = Exec(held, identity, child, reply)
        self._all[held.name, identity] = made
        self._pidfds[child.pidfd] = self._reports[child.report] = made
        self._epoll.register(child.pidfd, select.EPOLLIN)
        self._epoll.register(child.report, select.EPOLLIN)

    @staticmethod
    def _enter(
        held: Held, run: Run, plan: dict[str, Any], seccomp: int | None, streams: tuple[int, ...]
    ) -> birth.Child:
        with contextlib.ExitStack() as opened:
            null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
            opened.callback(os.close, null)
            stdin, stdout, stderr = streams if len(streams) == 3 else (null, null, null)
            world = World(held.namespaces.user, stdout, stderr, stdin)
            opened.callback(world.close)
            if len(streams) == 1:
                world.keep("console", os.dup(streams[0]))
            if seccomp is not None:
                world.keep("seccomp", os.dup(seccomp))
            way = run.leaf.open()
            opened.callback(way.close)
            steps = tuple(map(unpack, plan["enter"]))
            program = Program.planned(plan["program"], None, False)
            return birth.enter(
                birth.Entry(
                    steps, program, world, run.child.pidfd, held.namespaces.entered().kinds(), way.unified, way.tasks
                )
            )

    def signal(self, message: Message) -> None:
        """Send a signal to an exec; one that is dead, or was never there, needs none."""
        found = self._all.get((message["name"], message["exec"]))
        if found is None:
            return
        with contextlib.suppress(ProcessLookupError):
            signal.pidfd_send_signal(found.child.pidfd, message["signal"])
        if message["signal"] == signal.SIGKILL:
            found.held.thaw()

    def end(self) -> None:
        """Kill and reap all of them, telling nobody."""
        for each in self._all.values():
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(each.child.pidfd, signal.SIGKILL)
        for each in self._all.values():
            os.waitid(os.P_PIDFD, each.child.pidfd, os.WEXITED)
        self._all.clear()

    def _hear(self, each: Exec) -> None:
        """Read a report: that it waits for its word, an error, or the end."""
        try:
            said = os.read(each.child.report, _SAID)
        except BlockingIOError:
            return
        each.said += said
        if each.said.startswith(birth.CREATED):
            each.phase, each.said = "starting", each.said.removeprefix(birth.CREATED)
            with contextlib.suppress(BrokenPipeError):  # it died waiting: the end of its report says so
                os.write(each.child.go, b"1")
        if said:
            return
        self._close_report(each)
        if each.phase == "starting" and not each.said:
            each.phase = "running"
            each.reply.ok({"pid": each.child.pid})

    def _close_report(self, each: Exec) -> None:
        del self._reports[each.child.report]
        self._epoll.unregister(each.child.report)
        os.close(each.child.report)

    def _reap(self, each: Exec) -> None:
        """Take a dead process's status and tell it, or why it never ran."""
        child = each.child
        ended = os.waitid(os.P_PIDFD, child.pidfd, os.WEXITED | os.WNOHANG)
        if ended is None:
            return
        while self._reports.get(child.report) is each:  # its last words first; the number may be another one's by now
            self._hear(each)
        del self._all[each.held.name, each.identity], self._pidfds[child.pidfd]
        self._epoll.unregister(child.pidfd)
        os.close(child.pidfd)
        os.close(child.go)
        if each.phase != "running":
            each.reply.refuse(birth.failure_from(each.said).fields)
            return
        killed = ended.si_code in (os.CLD_KILLED, os.CLD_DUMPED)
        code, number = (None, ended.si_status) if killed else (ended.si_status, None)
        event = {"event": "exec-exited", "name": each.held.name, "exec": each.identity, "code": code, "signal": number}
        each.reply.connection.send(event)


def _sort(message: Message, descriptors: tuple[int, ...]) -> tuple[int, int | None, tuple[int, ...]]:
    """Return the plan, the filter and the streams or the console among a message's descriptors."""
    seccomp, terminal = bool(message.get("seccomp")), bool(message.get("terminal"))
    expected = 1 + seccomp + (1 if terminal else 3)
    if len(descriptors) != expected:
        raise ProtocolError(f"an exec came with {len(descriptors)} descriptors instead of {expected}")
    return descriptors[0], descriptors[1] if seccomp else None, descriptors[1 + seccomp :]


def _paused(name: str) -> birth.StartFailure:
    advice = "unpause it first"
    return birth.StartFailure("exec", errno.EBUSY, f"{name} is paused", None, advice, birth.CANNOT_START)
