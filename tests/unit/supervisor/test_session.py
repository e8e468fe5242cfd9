"""Sessions over real pipes and terminals, without a launcher: what is read, what is held back, how it ends."""

import array
import os
import pty
import socket

import pytest
import trio
import trio.testing

from supervisor.machine import Exit
from supervisor.session import Ends, KernelSession, exit_of


async def nothing(_signum):
    return None


@pytest.fixture
def pipes():
    """A session and the process's ends of its pipes, kept by the test as the process would."""
    ends = Ends(terminal=False, stdin=True, owner=None)
    given, ends.given = list(ends.given), ()
    yield KernelSession(ends, False, nothing), given
    for descriptor in given:
        if descriptor >= 0:
            os.close(descriptor)
    ends.close()


def close(given, *numbers):
    for number in numbers:
        os.close(given[number])
        given[number] = -1


def test_what_is_written_is_read(pipes):
    session, given = pipes

    async def main():
        os.write(given[1], b"out")
        os.write(given[2], b"err")
        assert (await session.receive(1), await session.receive(2)) == (b"out", b"err")

    trio.run(main)


def test_a_closed_stream_is_at_its_end(pipes):
    session, given = pipes
    close(given, 1)

    async def main():
        assert await session.receive(1) == b""

    trio.run(main)


def test_a_dead_process_s_last_words_are_read_though_a_child_holds_the_stream(pipes):
    session, given = pipes

    async def main():
        os.write(given[1], b"last")
        session.finish(Exit(0, None))
        assert (await session.receive(1), await session.receive(1)) == (b"last", b"")

    trio.run(main)


def test_the_end_wakes_a_reader(pipes):
    session, _ = pipes

    async def main():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.receive, 1)
            await trio.testing.wait_all_tasks_blocked()
            session.finish(Exit(0, None))

    trio.run(main)


def test_a_full_pipe_holds_the_writer(pipes):
    session, given = pipes

    async def main():
        with trio.move_on_after(0.05) as patience:
            await session.send(bytes(1 << 20))
        assert patience.cancelled_caught
        assert len(os.read(given[0], 1 << 20)) == 65_536

    trio.run(main)


def test_input_that_nobody_reads_is_broken(pipes):
    session, given = pipes
    close(given, 0)

    async def main():
        with pytest.raises(trio.BrokenResourceError):
            await session.send(b"x")

    trio.run(main)


def test_the_end_of_input_is_an_end(pipes):
    session, given = pipes

    async def main():
        await session.send(b"x")
        session.end_input()
        session.end_input()
        assert (os.read(given[0], 10), os.read(given[0], 10)) == (b"x", b"")

    trio.run(main)


def test_closing_wakes_a_reader(pipes):
    session, _ = pipes

    async def main():
        async with trio.open_nursery() as nursery:
            nursery.start_soon(session.receive, 1)
            await trio.testing.wait_all_tasks_blocked()
            session.close()

    trio.run(main)


@pytest.fixture
def terminal():
    """A session with a terminal that the process has sent, and the slave's end."""
    ends = Ends(terminal=True, stdin=True, owner=None)
    master, slave = pty.openpty()
    with socket.socket(fileno=ends.given[0]) as console:
        ends.given = ()
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [master]))]
        console.sendmsg([b"/dev/ptmx"], rights)
    os.close(master)
    ends.receive_master()
    os.set_blocking(slave, False)
    yield KernelSession(ends, True, nothing), slave
    os.close(slave)
    ends.close()


def test_a_terminal_has_one_stream_and_a_size(terminal):
    session, slave = terminal
    session.resize(40, 100)
    assert (session.streams, os.get_terminal_size(slave)) == ((1,), os.terminal_size((100, 40)))


def test_a_terminal_carries_both_ways(terminal):
    session, slave = terminal

    async def main():
        os.write(slave, b"hello\n")
        assert await session.receive(1) == b"hello\r\n"
        await session.send(b"yes\n")
        assert os.read(slave, 10) == b"yes\n"

    trio.run(main)


def test_the_end_of_input_leaves_a_terminal_open(terminal):
    session, slave = terminal

    async def main():
        session.end_input()
        os.write(slave, b"still here")
        assert await session.receive(1) == b"still here"

    trio.run(main)


def test_a_terminal_that_never_came_is_an_error():
    ends = Ends(terminal=True, stdin=True, owner=None)
    ends.hand_over()
    with pytest.raises(OSError, match="sent no terminal"):
        ends.receive_master()
    ends.close()


@pytest.mark.parametrize(
    ("code", "signum", "end"), [(3, None, Exit(3, None)), (None, 9, Exit(137, 9)), (None, None, Exit(None, None))]
)
def test_ends_as_docker_shows_them(code, signum, end):
    assert exit_of({"code": code, "signal": signum}) == end
