"""OCI hooks: how a config's are read, how they run, and how their failures are told."""

import json
import os
import select
from pathlib import Path
from typing import Any

import pytest

from runtime import hooks
from runtime.world import World


def shell(script: str, *environment: str, timeout: float | None = None) -> hooks.Hook:
    return hooks.Hook("/bin/sh", ("sh", "-c", script), environment, timeout)


def test_each_stage_is_read_with_its_fields() -> None:
    config = {"hooks": {"prestart": [{"path": "/bin/a", "args": ["a", "b"], "env": ["X=1"], "timeout": 3}]}}
    found = hooks.read(config)
    assert found["prestart"] == (hooks.Hook("/bin/a", ("a", "b"), ("X=1",), 3),)
    assert [found[stage] for stage in hooks.STAGES[1:]] == [()] * 5


@pytest.mark.parametrize(
    ("hook", "field"),
    [
        ({}, "path"),
        ({"path": "bin/a"}, "path"),
        ({"path": "/a", "args": "x"}, "args"),
        ({"path": "/a", "env": ["X"]}, "env"),
        ({"path": "/a", "timeout": 0}, "timeout"),
        ({"path": "/a", "timeout": "3"}, "timeout"),
    ],
)
def test_a_wrong_field_is_named(hook: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=rf"hooks\.poststop\[0\]\.{field}"):
        hooks.read({"hooks": {"poststop": [hook]}})


def test_hooks_run_in_order_with_the_state_on_stdin(tmp_path: Path) -> None:
    out = tmp_path / "out"
    hooks.run("poststart", [shell(f"echo $N >>{out}", "N=1"), shell(f"cat >>{out}")], b'{"id": "x"}')
    assert out.read_text() == '1\n{"id": "x"}'


def test_a_state_larger_than_a_pipe_reaches_a_hook(tmp_path: Path) -> None:
    state = json.dumps({"annotations": {"a": "x" * 300_000}}).encode()
    hooks.run("prestart", [shell(f"cat >{tmp_path}/out")], state)
    assert (tmp_path / "out").read_bytes() == state


def test_a_hook_has_its_own_environment_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SECRET", "1")
    hooks.run("prestart", [hooks.Hook("/usr/bin/env", ("env",), ("X=1",)), shell(f"env >{tmp_path}/out", "X=1")], b"")
    assert "SECRET" not in (tmp_path / "out").read_text()


def test_a_hook_inherits_no_descriptor(tmp_path: Path) -> None:
    with (tmp_path / "kept").open("w") as kept:
        os.set_inheritable(kept.fileno(), True)
        hooks.run("prestart", [shell(f"ls /proc/self/fd/ >{tmp_path}/out", "PATH=/usr/bin:/bin")], b"")
    assert str(kept.name) and (tmp_path / "out").read_text().split() == ["0", "1", "2", "3"]  # 3 is the listing's own


def test_the_first_failure_ends_the_stage_and_quotes_the_last_words(tmp_path: Path) -> None:
    with pytest.raises(hooks.HookError, match=r"prestart hook #0 \(/bin/sh\) failed with exit status 3: no luck"):
        hooks.run("prestart", [shell("echo no luck >&2; exit 3"), shell(f"touch {tmp_path}/ran")], b"{}")
    assert not (tmp_path / "ran").exists()


def test_a_death_by_signal_is_told() -> None:
    with pytest.raises(hooks.HookError, match="signal 9"):
        hooks.run("prestart", [shell("kill -9 $$")], b"{}")


def test_a_program_that_is_missing_is_told() -> None:
    with pytest.raises(hooks.HookError, match=r"/missing.*cannot be executed: No such file or directory"):
        hooks.run("prestart", [hooks.Hook("/missing")], b"{}")


def test_a_hook_that_says_much_does_not_block_and_its_end_is_kept() -> None:
    with pytest.raises(hooks.HookError) as raised:
        hooks.run("prestart", [shell("i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; exit 1")], b"{}")
    assert str(raised.value).endswith("line 19999")
    assert len(str(raised.value)) < 2200


def test_a_late_hook_is_killed_with_its_session(tmp_path: Path) -> None:
    lives = tmp_path / "lives"
    os.mkfifo(lives)
    reader = os.open(lives, os.O_RDONLY | os.O_NONBLOCK)
    try:
        # Both hold the FIFO open for writing: its end is the end of the child of the hook, too.
        with pytest.raises(hooks.HookError, match=r"took longer than its timeout of 0\.2 s and was killed"):
            hooks.run("prestart", [shell(f"exec 3>{lives}; /bin/sleep 60 & wait", timeout=0.2)], b"{}")
        poll = select.poll()
        poll.register(reader, select.POLLIN)
        assert poll.poll(10_000)[0][1] & select.POLLHUP
    finally:
        os.close(reader)


def test_container_hooks_tell_the_state_as_pid_1_sees_it(tmp_path: Path) -> None:
    world = World(None, 1, 2)
    state = json.dumps({"id": "x", "status": "creating", "pid": 0})
    hook = tuple(shell(f"cat >{tmp_path}/out"))
    hooks.ContainerHooks("startContainer", (hook,), state).execute(world)
    told = json.loads((tmp_path / "out").read_text())
    assert told == {"id": "x", "status": "created", "pid": os.getpid()}


@pytest.mark.parametrize(("answer", "goes_on"), [(b"h", True), (b"1", False), (b"", False)])
def test_pid_1_waits_for_the_runtimes_hooks(answer: bytes, goes_on: bool) -> None:
    world = World(None, 1, 2)
    world.go, go = os.pipe()
    report, world.report = os.pipe()
    try:
        os.write(go, answer)
        os.close(go)
        if goes_on:
            hooks.RuntimeHooks().execute(world)
        else:
            with pytest.raises(OSError, match="a hook failed"):
                hooks.RuntimeHooks().execute(world)
        assert os.read(report, 100) == hooks.HOOKS
    finally:
        for descriptor in (world.go, report, world.report):
            os.close(descriptor)
