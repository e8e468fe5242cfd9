"""exec through a served app, with this process's own standard streams; terminals are proven in tests/system."""

import contextlib
import os
import pty
import socket
import termios
import threading

import pytest

from supervisor.commands import relay
from supervisor.commands.exec import NotExecuted, variables
from supervisor.machine import Process, StartError
from tests.unit.supervisor.scripted import Doing


@pytest.fixture
def stdin(monkeypatch):
    """Put these bytes on this process's standard input."""
    kept = os.dup(0)

    def put(data):
        reading, writing = os.pipe()
        os.dup2(reading, 0)
        os.close(reading)

        def write():
            view = memoryview(data)
            with contextlib.suppress(BrokenPipeError):  # the test is over
                while view:
                    view = view[os.write(writing, view) :]
            os.close(writing)

        threading.Thread(target=write, daemon=True).start()

    yield put
    os.dup2(kept, 0)
    os.close(kept)


def test_the_exit_status_is_the_processs(creche, serving, capfdbinary):
    app = serving()
    app.programs["prog"] = Doing(((1, b"out\n"), (2, b"err\n")), code=3)
    assert creche("exec", "web", "prog").code == 3
    assert capfdbinary.readouterr() == (b"out\n", b"err\n")


def test_options_after_the_command_belong_to_it(creche, serving, capfdbinary):
    app = serving()
    creche("exec", "-u", "5", "-w", "/srv", "-e", "A=1", "shop/web", "prog", "-t", "--env", "x", "--", "-h")
    (call,) = app.calls
    arguments = ("prog", "-t", "--env", "x", "--", "-h")
    assert call == ("exec", "web", Process(arguments, {"A": "1"}, "5", "/srv"))


def test_input_goes_through_byte_for_byte(creche, serving, stdin, capfdbinary):
    app = serving()
    app.programs["cat"] = Doing(echoes=True)
    data = bytes(range(256)) * 4096
    stdin(data)
    assert creche("exec", "-i", "web", "cat").code == 0
    assert capfdbinary.readouterr().out == data


def test_without_i_no_input_is_passed(creche, serving, stdin, capfdbinary):
    app = serving()
    stdin(b"secret")
    creche("exec", "web", "prog")
    assert app.sessions[0].taken == b""


@pytest.mark.parametrize("detach", [False, True])
@pytest.mark.parametrize("code", [126, 127])
def test_a_program_that_cannot_be_executed(creche, serving, capfdbinary, code, detach):
    app = serving()
    app.programs["prog"] = StartError("web", "exec", "prog cannot be executed", exit_code=code)
    result = creche("exec", *(["-d"] if detach else []), "web", "prog")
    assert result.code == code
    assert "prog cannot be executed" in result.err + capfdbinary.readouterr().err.decode()


def test_a_detached_one_returns_when_it_runs(creche, serving):
    app = serving()
    app.programs["prog"] = Doing(lasts=1e6)
    assert creche("exec", "-d", "web", "prog").code == 0
    assert app.sessions[0].end is None


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["web", "prog"], "web is paused"),
        (["nope", "prog"], "No such container"),
        (["gone/web", "prog"], "no supervisor of gone runs"),
        (["-it", "web", "prog"], "needs a terminal"),
        (["-e", "=1", "web", "prog"], "has no name"),
    ],
)
def test_what_comes_to_nothing_is_125(creche, serving, arguments, words):
    serving().change("web", state="paused")
    result = creche("exec", *arguments)
    assert (result.code, result.out) == (125, "")
    assert words in result.err


@pytest.mark.parametrize("arguments", [[], ["web"], ["--nope", "web", "prog"]])
def test_what_is_wrong_is_2(creche, serving, arguments):
    assert creche("exec", *arguments).code == 2


def test_variables():
    assert variables(("A=1", "B", "C"), {"B": "2"}) == ["A=1", "B=2"]
    with pytest.raises(NotExecuted):
        variables(("=1",), {})


def frame(stream, data):
    return bytes((stream, 0, 0, 0)) + len(data).to_bytes(4, "big") + data


@pytest.mark.parametrize("step", [1, 3, 8, 1000])
def test_frames_are_put_together_whatever_their_pieces(capfdbinary, step):
    raw = frame(1, b"one") + frame(2, b"two") + frame(1, b"") + frame(1, b"three")
    frames = relay.Frames()
    for start in range(0, len(raw), step):
        frames.take(raw[start : start + step])
    assert capfdbinary.readouterr() == (b"onethree", b"two")


def test_input_nobody_takes_any_more_ends_nothing(stdin, capfdbinary):
    ours, theirs = socket.socketpair()
    stdin(bytes(1 << 20))
    theirs.shutdown(socket.SHUT_RD)
    theirs.send(frame(1, b"still here"))
    theirs.shutdown(socket.SHUT_WR)
    with ours, theirs:
        relay.relay(ours, b"", stdin=True, terminal=False, resized=print)
    assert capfdbinary.readouterr().out == b"still here"


@pytest.fixture
def terminal():
    master, slave = pty.openpty()
    yield master, slave
    os.close(master)
    os.close(slave)


class Bug(Exception):
    """Something that nobody expected."""


@pytest.mark.parametrize("error", [Bug, SystemExit, KeyboardInterrupt])
def test_a_terminal_is_itself_again_whatever_happens(terminal, error):
    _, slave = terminal
    before = termios.tcgetattr(slave)
    with pytest.raises(error), relay.raw(slave):
        assert termios.tcgetattr(slave) != before
        raise error
    assert termios.tcgetattr(slave) == before


def test_sizes(terminal):
    _, slave = terminal
    assert relay.size_of(slave) is None
    termios.tcsetwinsize(slave, (40, 100))
    assert relay.size_of(slave) == (40, 100)
