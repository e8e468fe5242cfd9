"""The commands of creche-oci, each a few lines over the modules that do the work."""

import argparse
import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from runtime.launch.failures import NOT_EXECUTABLE, NOT_FOUND, StartFailure
from runtime.oci import boot, command_line
from runtime.oci.log import Log, OciError
from runtime.oci.state import Directory, listed, opened, status

_EXEC_FAILED = 255  # what `runc exec` exits with where the program did not run


def main() -> None:
    """Run the command line of `sys.argv` and exit without taking the interpreter apart, which takes milliseconds."""
    _three_streams()
    code = 1
    try:
        code = _logged(sys.argv[1:])
    except BrokenPipeError:
        code = code or 1  # nobody reads it
    sys.stderr.flush()
    os._exit(code)


def _logged(arguments: list[str]) -> int:
    log = Log()
    try:
        code = _main(arguments, log)
        sys.stdout.flush()
        return code
    except OciError as error:
        return log.fail(error)
    except BrokenPipeError:
        raise
    except OSError as error:
        return log.fail(OciError(f"cannot write the output: {error.strerror}"))
    except SystemExit as ended:  # of --help
        return ended.code if isinstance(ended.code, int) else 0


def _three_streams() -> None:
    """Make sure that 0, 1 and 2 are open: what is opened later must not become a container's stream."""
    while True:
        descriptor = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        if descriptor > 2:
            os.close(descriptor)
            return
        os.set_inheritable(descriptor, True)


def _main(arguments: list[str], log: Log) -> int:
    refused = next((each for each in arguments if not each.startswith("-")), None)
    if refused in command_line.REFUSED:
        raise OciError(command_line.REFUSED[refused])
    options = command_line.parse(arguments)
    log.path, log.form, log.verbose = options.log, options.log_format, options.debug
    if options.version:
        print(boot.version())
        return 0
    _refuse(options)
    if options.command is None:
        raise OciError("no command given; see creche-oci --help")
    try:
        return _COMMANDS[options.command](options, log)
    except StartFailure as failure:
        text = f"unable to start container process: {told(failure)}"
        if options.command == "exec":
            raise OciError(f"exec failed: {text}", _EXEC_FAILED) from failure
        raise OciError(text) from failure
    except OciError as error:
        if options.command == "exec" and error.code == 1:
            raise OciError(f"exec failed: {error}", _EXEC_FAILED) from error
        raise
    except (OSError, ValueError) as error:
        raise OciError(f"{options.command}: {_plainly(error)}") from error


def _plainly(error: OSError | ValueError) -> str:
    if not isinstance(error, OSError):
        return str(error)
    text = error.strerror or str(error)
    advice: str | None = getattr(error, "advice", None)
    where = f": {error.filename}" if error.filename and str(error.filename) not in text else ""
    return f"{text}{where}{f'; {advice}' if advice else ''}"


def told(failure: StartFailure) -> str:
    """Return a failure in one line; a program that cannot be executed in the words that dockerd looks for."""
    fields = failure.fields
    text = f"{fields['operation']}: {fields['message']}"
    if fields["path"] and fields["path"] not in text:
        text += f" ({fields['path']})"
    if fields["exit_code"] == NOT_FOUND:
        text += ": executable file not found in $PATH: no such file or directory"
    elif fields["exit_code"] == NOT_EXECUTABLE:
        text += ": permission denied"
    return f"{text}; {fields['advice']}" if fields["advice"] else text


def _refuse(options: argparse.Namespace) -> None:
    if options.systemd_cgroup or options.cgroup_manager == "systemd":
        raise OciError("the systemd cgroup manager is not supported: creche-oci works with cgroupfs alone")
    if options.cgroup_manager != "cgroupfs":
        raise OciError(f"the cgroup manager {options.cgroup_manager!r} is not supported: cgroupfs is the one there is")
    if options.criu is not None:
        raise OciError("--criu is not supported: creche-oci does not drive CRIU")
    if options.rootless not in ("auto", "false"):
        raise OciError("--rootless is not supported: run creche-oci as root, with user namespaces in the config")
    rootful = options.command not in (None, "features", "spec")
    if rootful and os.geteuid() != 0:
        raise OciError("creche-oci needs root: it makes mounts, namespaces and cgroups")


def _root(options: argparse.Namespace) -> Path:
    return Path(os.path.abspath(options.root))


@contextlib.contextmanager
def _cleaning() -> Generator[None]:
    """Turn a signal that would end this process into an exception, so that what is half made is taken down."""

    def stop(number: int, _: object) -> None:
        raise OciError(f"interrupted by {signal.Signals(number).name}", 128 + number)

    chosen = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
    before = [signal.signal(number, stop) for number in chosen]
    try:
        yield
    finally:
        for number, handler in zip(chosen, before, strict=True):
            signal.signal(number, handler)


def _create(options: argparse.Namespace, log: Log) -> int:
    from runtime.oci import bundle, creation, foreground

    given = bundle.load(options.bundle)
    _check_console(bool(given.config["process"].get("terminal")), options.console_socket, True)
    with _cleaning(), contextlib.ExitStack() as closing:
        console: int | None = None
        if options.console_socket is not None:
            console = closing.enter_context(foreground.connect(options.console_socket)).fileno()
        creation.create(_root(options), options.id, given, _how(options, console), log)
    return 0


def _how(options: argparse.Namespace, console: int | None) -> Any:
    from runtime.oci import creation

    return creation.How(
        console,
        options.pid_file,
        options.preserve_fds,
        not getattr(options, "no_pivot", False),
        not getattr(options, "no_new_keyring", False),
    )


def _check_console(terminal: bool, path: str | None, detached: bool) -> None:
    if terminal and detached and path is None:
        raise OciError("cannot allocate tty if creche-oci will detach without setting console socket")
    if path is not None and not (terminal and detached):
        raise OciError("cannot use console socket if creche-oci will not detach or allocate tty")


def _start(options: argparse.Namespace, log: Log) -> int:
    from runtime.oci import starting

    with opened(_root(options), options.id) as directory:
        starting.start(directory, directory.record(), log)
    return 0


def _run(options: argparse.Namespace, log: Log) -> int:
    from runtime import syscalls
    from runtime.oci import bundle, control, creation, foreground, starting

    given = bundle.load(options.bundle)
    terminal = bool(given.config["process"].get("terminal"))
    _check_console(terminal, options.console_socket, options.detach)
    with contextlib.ExitStack() as closing:
        ours: foreground.Terminal | None = None
        console: int | None = None
        if options.console_socket is not None:
            console = closing.enter_context(foreground.connect(options.console_socket)).fileno()
        elif terminal:
            ours = foreground.Terminal()
            closing.callback(ours.close)
            console = ours.theirs.fileno()
        if not options.no_subreaper:
            syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        with _cleaning():
            made = creation.create(_root(options), options.id, given, _how(options, console), log)
            closing.callback(made.directory.unlock)
            try:
                master = None if ours is None else ours.master()
                if options.detach:
                    starting.start(made.directory, made.record, log)
                    return 0
                front = foreground.Foreground()
                closing.callback(front.close)
                starting.start(made.directory, made.record, log)
            except BaseException:
                control.destroy(made.directory, made.record, log)
                raise
            made.directory.unlock()
        code = front.wait(made.child.pid, made.child.pidfd, master)
        if not options.keep:
            control.delete(_root(options), options.id, True, log)
        return code


def _exec(options: argparse.Namespace, log: Log) -> int:
    from runtime.oci import creation, execution, foreground

    with contextlib.ExitStack() as closing:
        directory = closing.enter_context(opened(_root(options), options.id))
        process = execution.process_of(directory.config(), options)
        terminal = bool(process.get("terminal"))
        _check_console(terminal, options.console_socket, options.detach)
        ours: foreground.Terminal | None = None
        console: int | None = None
        if options.console_socket is not None:
            console = closing.enter_context(foreground.connect(options.console_socket)).fileno()
        elif terminal:
            ours = foreground.Terminal()
            closing.callback(ours.close)
            console = ours.theirs.fileno()
        how = creation.How(console, options.pid_file, options.preserve_fds)
        front = None
        if not options.detach:
            front = foreground.Foreground()
            closing.callback(front.close)
        child = execution.begin(directory, process, how, options, log)
        directory.unlock()
        if front is None:
            return 0
        master = None if ours is None else ours.master()
        return front.wait(child.pid, child.pidfd, master)


def _state(options: argparse.Namespace, _: Log) -> int:
    directory = Directory(_root(options), options.id)
    record = directory.record()
    print(json.dumps(listed(record, status(directory, record)), indent=2))
    return 0


def _kill(options: argparse.Namespace, _: Log) -> int:
    from runtime.oci import control

    number = control.signal_number(options.signal)
    with opened(_root(options), options.id) as directory:
        control.kill(directory, number, options.all)
    return 0


def _delete(options: argparse.Namespace, log: Log) -> int:
    from runtime.oci import control

    control.delete(_root(options), options.id, options.force, log)
    return 0


def _list(options: argparse.Namespace, _: Log) -> int:
    from runtime.oci import control

    found = control.containers(_root(options))
    if options.quiet:
        sys.stdout.write("".join(f"{record.id}\n" for record, _ in found))
    elif options.format == "json":
        print(json.dumps([listed(record, state) for record, state in found]))
    else:
        rows = [("ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER")]
        for record, state in found:
            about = listed(record, state)
            rows.append((record.id, str(about["pid"]), state, record.bundle, record.created, record.owner))
        sys.stdout.write(control.table([tuple(row) for row in rows]))
    return 0


def _ps(options: argparse.Namespace, _: Log) -> int:
    from runtime.oci import control

    control.processes(_root(options), options.id, options.format, options.options)
    return 0


def _pause(options: argparse.Namespace, _: Log) -> int:
    from runtime.oci import control

    with opened(_root(options), options.id) as directory:
        control.pause(directory)
    return 0


def _resume(options: argparse.Namespace, _: Log) -> int:
    from runtime.oci import control

    with opened(_root(options), options.id) as directory:
        control.resume(directory)
    return 0


def _update(options: argparse.Namespace, log: Log) -> int:
    from runtime.oci import control

    with opened(_root(options), options.id) as directory:
        control.update(directory, options, log)
    return 0


def _events(options: argparse.Namespace, _: Log) -> int:
    from runtime.oci import usage

    directory = Directory(_root(options), options.id)
    record = directory.record()
    if status(directory, record) in ("stopped", "creating"):
        raise OciError(f"container with id {record.id} is not running")
    if options.stats:
        usage.once(record)
    else:
        usage.follow(record, options.interval)
    return 0


def _spec(options: argparse.Namespace, _: Log) -> int:
    from runtime.oci import spec

    if options.without_root:
        raise OciError("spec --rootless is not supported: creche-oci runs as root")
    path = Path(options.bundle) / "config.json"
    try:
        with path.open("x") as file:
            file.write(f"{json.dumps(spec.example(), indent=1)}\n")
    except FileExistsError as error:
        raise OciError(f"file {path} exists. Remove it first") from error
    return 0


def _features(_: argparse.Namespace, __: Log) -> int:
    from runtime.oci import spec

    print(json.dumps(spec.features(), indent=4))
    return 0


_COMMANDS: dict[str, Callable[[argparse.Namespace, Log], int]] = {
    "create": _create,
    "start": _start,
    "run": _run,
    "exec": _exec,
    "state": _state,
    "kill": _kill,
    "delete": _delete,
    "list": _list,
    "ps": _ps,
    "pause": _pause,
    "resume": _resume,
    "update": _update,
    "events": _events,
    "spec": _spec,
    "features": _features,
}
