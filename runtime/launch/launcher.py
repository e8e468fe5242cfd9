"""The launcher: a small, warm, single-threaded process that clones containers, holds them and reaps them.

It is the containers' parent and outlives its supervisor: it keeps namespaces, log pipes, pidfds, reserved ports, and
every exit status until that container's next run. It imports nothing at run time, parses nothing but its own messages,
and one epoll loop (`Launcher.run`) is all it does. Started by runtime.launch.client as `python -I -S`.
"""

import contextlib
import errno
import gc
import os
import resource
import select
import signal
import socket
import sys
import time
from collections.abc import Callable

from runtime import syscalls
from runtime.cgroups.group import Leaf, remove_tree
from runtime.cgroups.hierarchy import find
from runtime.launch import birth, helper, inits
from runtime.launch.connection import Connection, Reply
from runtime.launch.doors import Doors
from runtime.launch.execs import Execs
from runtime.launch.failures import complain
from runtime.launch.holding import Held, Run, make
from runtime.launch.log_keeper import LogKeeper
from runtime.launch.messages import VERSION, Message, Packet, ProtocolError, letter
from runtime.operations import unpack
from runtime.world import World

_MOST_FLUSHES = 1024  # that may wait for the logger at once
_UNTIDY, _MESSY = 20, 200  # turns of the loop
_QUIET = 0.2  # seconds
_REMOVAL_PAUSE = 0.01  # seconds between two tries to remove a cgroup whose last process is still leaving


Request = Callable[[Reply, Message, tuple[int, ...]], None]


class Launcher:
    """The loop and its state; nothing here blocks but the kernel itself."""

    def __init__(self, listener: socket.socket, controller: socket.socket) -> None:
        self.layout = find()
        found = inits.find()
        self.init_path, self.init = found if found else (None, None)
        self.embedded = False
        self.ending = False
        self.turns = 0  # since it was tidy
        self.held: dict[str, Held] = {}
        self.ports: dict[str, int] = {}
        self.pidfds: dict[int, Held] = {}
        self.reports: dict[int, Held] = {}
        self.flushes: dict[str, list[Reply]] = {}
        self.forgets: dict[str, Reply] = {}
        self.leaves: list[Leaf] = []  # of dead runs, to be removed
        # Once: the interpreter remembers each name that an attribute was looked up by.
        names = [name for name in dir(self) if name.startswith("do_")]
        self.requests: dict[str, Request] = {name[3:].replace("_", "-"): getattr(self, name) for name in names}
        self.epoll = select.epoll()
        self.doors = Doors(self.epoll, listener, self._answer, self._parted)
        self.doors.welcome(controller)
        self.logs = LogKeeper(self.epoll)
        self.execs = Execs(self.epoll)

    def run(self) -> None:
        """Serve until there is nothing left to hold."""
        while not self.ending:
            happened = self.epoll.poll(self._patience())
            self._tidy(quiet=not happened)
            for descriptor, events in happened:
                if self.ending:
                    break
                if descriptor in self.doors:
                    self.doors.serve(descriptor, events)
                elif descriptor in self.pidfds:
                    self._reap(self.pidfds[descriptor])
                elif descriptor in self.reports:
                    self._hear(self.reports[descriptor])
                elif descriptor in self.execs:
                    self.execs.serve(descriptor)
                elif descriptor == self.logs.fileno():
                    self._hear_logger()
            self.doors.go_on()
            if self.logs.due is not None and self.logs.due <= time.monotonic() and not self.ending:
                self._start_logger()
            self.leaves = [leaf for leaf in self.leaves if not _removed(leaf)]

    def _patience(self) -> float:
        """Return how many seconds to wait at most; -1 for ever."""
        if self.doors.unread:
            return 0
        if self.leaves:
            return _REMOVAL_PAUSE
        if self.logs.due is not None:
            return max(0.0, self.logs.due - time.monotonic())
        return _QUIET if self.turns > _UNTIDY else -1

    def _tidy(self, *, quiet: bool) -> None:
        """Give back what work has left behind, once it is quiet; where it never is, now and then.

        The collector rests, so that nobody waits for it: the interpreter keeps every small tuple that was ever freed,
        and failures are cycles.
        """
        self.turns += 1
        if self.turns > (_UNTIDY if quiet else _MESSY):
            self.turns = 0
            gc.collect()
            syscalls.give_memory_back()

    # --- connections ---

    def _parted(self, connection: Connection) -> None:
        if connection.was_cut:
            self.turns = _MESSY
        unused = not self.held and not self.doors.connections  # its supervisor left before it had made anything
        if unused or (connection.control and self.embedded):
            self._end()

    def _answer(self, connection: Connection, packet: Packet) -> None:
        message = packet.message
        number = message.get("id")
        reply = Reply(connection, number if isinstance(number, int) else 0)
        try:
            operation = message.get("op")
            if not isinstance(operation, str) or operation not in self.requests:
                raise ProtocolError(f"the launcher knows no {operation!r}; it is of protocol {VERSION}")
            self.requests[operation](reply, message, packet.descriptors)
        except birth.StartFailure as error:
            reply.refuse(error.fields)
        except OSError as error:
            advice: str | None = getattr(error, "advice", None)
            said = error.strerror or str(error)
            reply.refuse(_fields(str(message.get("op")), error.errno, said, error.filename, advice))
        except Exception as error:  # noqa: BLE001 -- a defect in one request must not take every container's parent away
            reply.refuse(_fields(str(message.get("op")), None, repr(error), None, None))
        finally:
            packet.close()

    # --- requests ---

    def do_hello(self, reply: Reply, message: Message, _: tuple[int, ...]) -> None:
        """Say what is held; with `control` this connection gets the events, with `embedded` its end ends everything."""
        if message["version"] != VERSION:
            raise ProtocolError(f"protocol {message['version']} meets a launcher of protocol {VERSION}")
        if message.get("control"):
            for connection in self.doors.connections.values():
                connection.control = False
            reply.connection.control = True
            self.embedded = bool(message.get("embedded"))
        held = {name: each.snapshot() for name, each in self.held.items()}
        reply.ok({"pid": os.getpid(), "held": held, "ports": list(self.ports), "init": self.init_path})

    def do_hold(self, reply: Reply, message: Message, _: tuple[int, ...]) -> None:
        """Make what a container has for life, or find it; hand out its network namespace and a socket inside."""
        name: str = message["name"]
        held = self.held.get(name)
        if held is not None:
            inner = helper.visit(held.namespaces)
        else:
            held, inner = make(self.layout, name, message, self.logs.add)
            self.held[name] = held
        try:
            mapped = held.namespaces.user is not None
            reply.ok({"warnings": held.warnings, "mapped": mapped}, (held.namespaces.net, inner))
        finally:
            os.close(inner)

    def do_create(self, reply: Reply, message: Message, descriptors: tuple[int, ...]) -> None:
        """Bring a pid 1 to the point before exec; answered when it is there (or failed)."""
        self._create(reply, message, descriptors, at_once=False)

    def do_run(self, reply: Reply, message: Message, descriptors: tuple[int, ...]) -> None:
        """Create and start in one; answered when the program runs (or could not)."""
        self._create(reply, message, descriptors, at_once=True)

    def _create(self, reply: Reply, message: Message, descriptors: tuple[int, ...], *, at_once: bool) -> None:
        held = self.held[message["name"]]
        if held.run is not None and held.run.phase != "exited":
            raise ProtocolError(f"run {held.run.number} of {held.name} is still {held.run.phase}")
        plan = letter(descriptors[0])
        world = World(held.namespaces.user, held.pipes[1], held.pipes[5])
        leaf = held.group.leaf(message["run"])
        try:
            for operation in map(unpack, plan["prepare"]):
                try:
                    operation.execute(world)
                except OSError as error:
                    raise birth.failure(operation, error) from error
            if len(descriptors) > 1:
                world.keep("seccomp", os.dup(descriptors[1]))
            entry = leaf.open()
            try:
                made = birth.Birth(
                    tuple(map(unpack, plan["enter"])),
                    self._program(plan["program"]),
                    world,
                    held.namespaces.entered(),
                    entry.unified,
                    entry.tasks,
                )
                running = at_once and birth.can_run_at_once(made)
                child = birth.deliver_running(made) if running else birth.deliver(made)
            finally:
                entry.close()
        except BaseException:
            self.leaves.append(leaf)
            raise
        finally:
            world.close()
        held.run = Run(message["run"], child, leaf, reply, at_once=at_once)
        self.pidfds[child.pidfd] = held
        self.epoll.register(child.pidfd, select.EPOLLIN)
        if running:
            held.run.runs()
            reply.ok(held.run.about())
        else:
            self.reports[child.report] = held
            self.epoll.register(child.report, select.EPOLLIN)

    def _program(self, program: Message) -> birth.Program:
        with_init: bool = program["init"]
        return birth.Program.planned(program, self.init if with_init else None, with_init and self.init is None)

    def do_start(self, reply: Reply, message: Message, _: tuple[int, ...]) -> None:
        """Let a created run exec; answered when the program runs (or could not)."""
        run = self._run(message)
        if run.phase != "created":
            raise ProtocolError(f"run {run.number} of {message['name']} is {run.phase}, not created")
        run.go(reply)

    def do_signal(self, reply: Reply, message: Message, _: tuple[int, ...]) -> None:
        """Send a signal to pid 1; a run that is dead needs none."""
        run = self._run(message)
        if run.phase != "exited":
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(run.child.pidfd, message["signal"])
            if message["signal"] == signal.SIGKILL:
                self.held[message["name"]].thaw()
        reply.ok()

    def do_kill(self, reply: Reply, message: Message, _: tuple[int, ...]) -> None:
        """SIGKILL pid 1, and with it all of its pid namespace; its leaf is emptied when it is reaped."""
        self._run(message)
        self.held[message["name"]].kill()
        reply.ok()

    def do_exec(self, reply: Reply, message: Message, descriptors: tuple[int, ...]) -> None:
        """Run one more process in a container; answered when its program runs, its end is told as `exec-exited`."""
        self.execs.start(reply, self.held[message["name"]], message, descriptors)

    def do_exec_signal(self, reply: Reply, message: Message, _: tuple[int, ...]) -> None:
        """Send a signal to an exec; one that is dead needs none."""
        self.execs.signal(message)
        reply.ok()

    def do_flush(self, reply: Reply, message: Message, _: tuple[int, ...]) -> None:
        """Answer when everything that a container has written by now is on disk."""
        name: str = message["name"]
        if name not in self.held:
            reply.ok()
            return
        if sum(map(len, self.flushes.values())) >= _MOST_FLUSHES:
            raise OSError(errno.EBUSY, f"{_MOST_FLUSHES} flushes wait for the logger already")
        self.flushes.setdefault(name, []).append(reply)
        self.logs.flush(name)

    def do_forget(self, reply: Reply, message: Message, _: tuple[int, ...]) -> None:
        """Let go of a container: what runs of it is killed, its log drained; then its namespaces and cgroup end."""
        held = self.held.get(message["name"])
        if held is None:
            reply.ok()
            return
        if held.name in self.forgets:
            raise ProtocolError(f"{held.name} is being forgotten already")
        self.forgets[held.name] = reply
        if held.living() is not None:
            held.kill()  # `_reap` goes on
        else:
            self.logs.remove(held.name)

    def do_reserve(self, reply: Reply, message: Message, descriptors: tuple[int, ...]) -> None:
        """Hold bound sockets, one for each name in `ports`, so that nobody else takes them."""
        for key, descriptor in zip(message["ports"], descriptors, strict=True):
            if key in self.ports:
                os.close(self.ports[key])
            self.ports[key] = os.dup(descriptor)
        reply.ok()

    def do_release(self, reply: Reply, message: Message, _: tuple[int, ...]) -> None:
        """Let go of reserved ports."""
        for key in message["ports"]:
            if key in self.ports:
                os.close(self.ports.pop(key))
        reply.ok()

    def do_end(self, reply: Reply, message: Message, _: tuple[int, ...]) -> None:
        """Kill what runs, remove every cgroup and end."""
        self._end()
        reply.ok()

    def _run(self, message: Message) -> Run:
        held = self.held.get(message["name"])
        if held is None or held.run is None or message.get("run", held.run.number) != held.run.number:
            raise ProtocolError(f"{message['name']} has no run {message.get('run', '')}")
        return held.run

    # --- processes ---

    def _hear(self, held: Held) -> None:
        """Read a report pipe: `created`, an error, or its end."""
        run = held.run
        assert run is not None
        try:
            said = os.read(run.child.report, 65536)
        except BlockingIOError:
            return
        run.said += said
        if run.phase == "creating" and run.said.startswith(birth.CREATED):
            run.phase, run.said = "created", run.said.removeprefix(birth.CREATED)
            if run.at_once and run.creator:
                run.go(run.creator)
            elif run.creator:
                run.creator.ok(run.about())
            run.creator = None
        if said:
            return
        self._close_report(run)
        if run.phase == "starting" and not run.said:
            if run.starter:
                run.starter.ok(run.about())
            run.runs()
        # Else it failed: `_reap` says so when it is gone, so that whoever hears of it may try again at once.

    def _close_report(self, run: Run) -> None:
        del self.reports[run.child.report]
        self.epoll.unregister(run.child.report)
        os.close(run.child.report)

    def _reap(self, held: Held) -> None:
        """Take a dead pid 1's status, tell it, and have its leaf removed."""
        run = held.run
        assert run is not None
        pidfd = run.child.pidfd
        ended = os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOHANG)
        if ended is None:
            return
        while self.reports.get(run.child.report) is held:  # its last words first
            self._hear(held)
        del self.pidfds[pidfd]
        self.epoll.unregister(pidfd)
        os.close(pidfd)
        if run.child.go >= 0:
            os.close(run.child.go)
        killed = ended.si_code in (os.CLD_KILLED, os.CLD_DUMPED)
        run.phase = "exited"
        run.exit = {
            "code": None if killed else ended.si_status,
            "signal": ended.si_status if killed else None,
            "oom": _oom(run.leaf),
        }
        waiting = run.creator or run.starter
        if waiting:
            waiting.refuse(birth.failure_from(run.said).fields)
        self.doors.tell({"event": "exited", "name": held.name, "run": run.number, **run.exit})
        if run.exit["signal"] == signal.SIGKILL:
            held.thaw()  # on v2 the dead may have been paused, and its next run would be born so
        self.leaves.append(run.leaf)
        if held.name in self.forgets:
            self.logs.remove(held.name)

    def _end(self) -> None:
        """Kill and reap everything, remove the cgroups, stop the loop; raise CgroupError for what cannot be removed."""
        self.ending = self.doors.closed = True
        self.reports.clear()  # what epoll still has to say about them is over
        self.pidfds.clear()
        for held in self.held.values():
            held.kill()
        self.execs.end()  # the kernel keeps a pid 1 until all others of its pid namespace are reaped
        for held in self.held.values():
            if (run := held.living()) is not None:
                os.waitid(os.P_PIDFD, run.child.pidfd, os.WEXITED)
        self.logs.end()
        for held in self.held.values():
            remove_tree(self.layout, held.group.path)

    # --- the logger ---

    def _hear_logger(self) -> None:
        for said in self.logs.hear():
            if "flushed" in said:
                for reply in self.flushes.pop(said["flushed"], ()):
                    reply.ok()
            elif "removed" in said:
                self._forget(said["removed"])
            elif "error" in said and said.get("name") in self.flushes:
                for reply in self.flushes.pop(said["name"]):
                    reply.ok({"incomplete": said["error"]})
            elif "error" in said and said.get("name") in self.forgets:  # it never had its log: nothing is to be drained
                self._forget(said["name"])
            elif "added" not in said:
                self.doors.tell({"event": "logger", **said})

    def _start_logger(self) -> None:
        """The logger died: the pipes are all here, the next one goes on where the files end."""
        self.logs.start(self.held.values())
        for name in self.flushes:
            self.logs.flush(name)
        for name in self.forgets:
            if self.held[name].living() is None:
                self.logs.remove(name)

    def _forget(self, name: str) -> None:
        held, reply = self.held.pop(name), self.forgets.pop(name)
        held.close()
        self.leaves = [leaf for leaf in self.leaves if not leaf.path.startswith(f"{held.group.path}/")]
        for waiting in self.flushes.pop(name, ()):
            waiting.ok()
        try:
            remove_tree(self.layout, held.group.path)
        except OSError as error:  # what hangs in the kernel is no reason to take the other containers' parent away
            advice: str | None = getattr(error, "advice", None)
            reply.refuse(_fields("forget", error.errno, error.strerror or str(error), error.filename, advice))
        else:
            reply.ok()


def _oom(leaf: Leaf) -> bool:
    try:
        return leaf.oom_kills() > 0
    except OSError as error:  # somebody removed the cgroup: no reason to take the other containers' parent away
        complain(f"whether the OOM killer struck in {leaf.path} is not known: {error}")
        return False


def _removed(leaf: Leaf) -> bool:
    try:
        return leaf.remove()
    except OSError as error:  # as above
        complain(f"the cgroup {leaf.path} cannot be removed: {error}")
        return True


def _fields(operation: str, number: int | None, message: str, path: str | None, advice: str | None) -> Message:
    return birth.StartFailure(operation, number, message, path, advice, birth.CANNOT_START).fields


def main(listener: int, controller: int) -> None:
    """Be the launcher on two inherited sockets: one that listens and one that is connected to the supervisor."""
    syscalls.default_signals()  # whatever the supervisor's own parents ignored
    for number in birth.IGNORED:  # Ctrl-C and its like are the supervisor's to answer
        signal.signal(number, signal.SIG_IGN)
    os.umask(0)
    files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files[1], files[1]))  # about a dozen descriptors a container
    syscalls.set_name("creche-launcher")
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)  # its children are clones of it: nobody looks into them before exec
    sockets = [socket.socket(fileno=number) for number in (listener, controller)]
    for each in sockets:
        each.set_inheritable(False)
    sockets[0].setblocking(False)
    birth.leave_imports()
    launcher = Launcher(*sockets)
    gc.collect()
    syscalls.give_memory_back()
    gc.freeze()
    gc.disable()
    launcher.run()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
