"""What a config's process asks for, as steps: the same for a container's first process and for one that enters it.

Pure. Field by field after config.md, "Process", with what config-linux.md says about processes.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

from runtime import capabilities, fields, labels, scheduling, seccomp
from runtime.fields import PlanError
from runtime.identity import (
    PERSONALITIES,
    RLIMITS,
    UNLIMITED,
    Credentials,
    Identify,
    Limit,
    NoNewPrivileges,
    Personality,
    Seccomp,
)
from runtime.terminal import Terminal
from runtime.world import Operation

CONSOLE = "console"
"""The key of the socket that a terminal's master is sent over."""
PROPERTIES = (
    "user args env cwd capabilities noNewPrivileges rlimits terminal consoleSize oomScoreAdj ioPriority scheduler "
    "execCPUAffinity apparmorProfile selinuxLabel"
)
"""The properties of `process`; `commandLine` is Windows'."""
_MAX_ID = (1 << 32) - 2
_HIGHEST_SIZE = 0xFFFF


class Steps(NamedTuple):
    """A process's steps in two parts, and its program."""

    early: list[Operation]  # what writes to /proc: before a pivot
    steps: list[Operation]
    program: dict[str, Any]
    warnings: list[str]


def steps(process: Mapping[str, Any], linux: Mapping[str, Any], *, last: int, init: bool, oci: bool) -> Steps:
    """Return the steps of the container's first process; raise PlanError naming the field.

    `last` is the highest capability; with `oci` the config is a bundle's, taken to the letter, and else an app's,
    whose user may have a name.
    """
    return _steps(process, linux, last=last, init=init, oci=oci, entering=False)


def entering(process: Mapping[str, Any], linux: Mapping[str, Any], *, last: int, oci: bool) -> Steps:
    """Return the steps of one more process in a running container."""
    return _steps(process, linux, last=last, init=False, oci=oci, entering=True)


def _steps(
    process: Mapping[str, Any], linux: Mapping[str, Any], *, last: int, init: bool, oci: bool, entering: bool
) -> Steps:
    if not oci:
        fields.only(process, "process.", PROPERTIES.split())
    warnings: list[str] = []
    made: list[Operation] = [_identify(process, oci)]
    terminal = _terminal(process, own_node=not entering)
    if terminal is not None:
        made.append(terminal)
    made += _persona(linux)
    made += _scheduling(process, entering)
    made += _labels(process)
    made += _limits(process)
    made += _last(process, linux, last, oci, warnings)
    return Steps(_early(process), made, _program(process, init, oci), warnings)


def _early(process: Mapping[str, Any]) -> list[Operation]:
    if process.get("oomScoreAdj") is None:
        return []
    return [scheduling.OomScore(fields.number(process, "process.", "oomScoreAdj", -1000, 1000))]


def _identify(process: Mapping[str, Any], oci: bool) -> Identify:
    user = fields.table(process, "process.", "user")
    if not oci:
        fields.only(user, "process.user.", {"uid", "gid", "umask", "additionalGids", "username"})
    ids = [fields.number(user, "process.user.", key, 0, _MAX_ID, 0) for key in ("uid", "gid")]
    name = fields.text(user, "process.user.", "username") if not oci else ""  # in OCI it is for Windows
    if not oci:  # an app's groups may have names
        return Identify(name or f"{ids[0]}:{ids[1]}", tuple(str(each) for each in user.get("additionalGids") or ()))
    groups = fields.numbers(user, "process.user.", "additionalGids", 0, _MAX_ID)
    return Identify(f"{ids[0]}:{ids[1]}", tuple(map(str, groups)))


def _terminal(process: Mapping[str, Any], *, own_node: bool) -> Terminal | None:
    size = fields.table(process, "process.", "consoleSize")
    rows, columns = (
        fields.number(size, "process.consoleSize.", key, 0, _HIGHEST_SIZE, 0) for key in ("height", "width")
    )
    if not fields.flag(process, "process.", "terminal"):
        return None  # and the size "MUST" be ignored (config.md)
    return Terminal(rows, columns, CONSOLE, own_node)


def _persona(linux: Mapping[str, Any]) -> list[Operation]:
    asked = fields.table(linux, "linux.", "personality")
    if not asked:
        return []
    domain = fields.text(asked, "linux.personality.", "domain")
    if domain not in PERSONALITIES:
        raise PlanError(f"linux.personality.domain: {domain!r} is none of {', '.join(PERSONALITIES)}")
    if flags := fields.texts(asked, "linux.personality.", "flags"):
        raise PlanError(f"linux.personality.flags: {flags[0]!r}: the specification knows no flags; leave them out")
    return [Personality(domain, ())]


def _scheduling(process: Mapping[str, Any], entering: bool) -> list[Operation]:
    made: list[Operation] = []
    try:
        if priority := fields.table(process, "process.", "ioPriority"):
            made.append(scheduling.IoPriority.parse(priority))
        if scheduler := fields.table(process, "process.", "scheduler"):
            made.append(scheduling.Scheduler.parse(scheduler))
    except PlanError:
        raise
    except ValueError as error:
        raise PlanError(str(error)) from error
    affinity = fields.table(process, "process.", "execCPUAffinity")
    for key in ("initial", "final"):
        text = fields.text(affinity, "process.execCPUAffinity.", key)
        if not text:
            continue
        try:
            scheduling.cpus(text)
        except ValueError as error:
            raise PlanError(f"process.execCPUAffinity.{key}: {error}") from error
        # `initial` is for the time before the process is in the container's cgroup; here it is born there. Both are
        # for exec, not for the container's first process (config.md).
        if key == "final" and entering:
            made.append(scheduling.Affinity(text))
    return made


def _labels(process: Mapping[str, Any]) -> list[Operation]:
    made: list[Operation] = []
    if profile := fields.text(process, "process.", "apparmorProfile"):
        made.append(labels.AppArmor(profile))
    if label := fields.text(process, "process.", "selinuxLabel"):
        made.append(labels.Selinux(label))
    return made


def _limits(process: Mapping[str, Any]) -> list[Operation]:
    made: list[Operation] = []
    seen: set[str] = set()
    for where, limit in fields.tables(process, "process.", "rlimits"):
        kind = fields.text(limit, f"{where}.", "type")
        if kind not in RLIMITS:
            raise PlanError(f"{where}: Linux has no limit {kind!r}")
        if kind in seen:
            raise PlanError(f"{where}: {kind} is there twice; name it once")
        seen.add(kind)
        soft, hard = (fields.number(limit, f"{where}.", key, -1, UNLIMITED) for key in ("soft", "hard"))
        soft, hard = (UNLIMITED if each == -1 else each for each in (soft, hard))
        if soft > hard:
            raise PlanError(f"{where}: the soft limit {soft} is above the hard one, {hard}")
        made.append(Limit(kind, soft, hard))
    return made


def _last(
    process: Mapping[str, Any], linux: Mapping[str, Any], last: int, oci: bool, warnings: list[str]
) -> list[Operation]:
    """Return what makes the process less than root, in the order that the kernel allows."""
    sets = fields.table(process, "process.", "capabilities")
    masks: dict[str, int] = {}
    for key in ("bounding", "permitted", "effective", "inheritable", "ambient"):
        names = fields.texts(sets, "process.capabilities.", key)
        if oci:
            given, unknown = capabilities.beyond(names, (1 << (last + 1)) - 1)
            warnings += [f"process.capabilities.{key}: this kernel has no {name}: it is left out" for name in unknown]
            names = tuple(given)
        try:
            masks[key] = capabilities.mask(names)
        except ValueError as error:
            raise PlanError(f"process.capabilities.{key}: {error}") from error
    credentials = Credentials(**masks, last=last, root_only=not oci)
    profile = fields.table(linux, "linux.", "seccomp")
    filters: list[Operation] = []
    if profile:
        try:
            filters.append(Seccomp("seccomp", seccomp.flags_of(profile)))
        except ValueError as error:
            raise PlanError(f"linux.{error}") from error
        listener = "a filter that asks another process is easily raced; allow the calls, or refuse them"
        fields.refuse(profile, "linux.seccomp.", {"listenerPath": listener, "listenerMetadata": listener})
    if fields.flag(process, "process.", "noNewPrivileges"):
        return [NoNewPrivileges(), credentials, *filters]
    # Without no_new_privs only CAP_SYS_ADMIN may load a filter (seccomp(2)), and the credentials give that up.
    return [*filters, credentials]


def _program(process: Mapping[str, Any], init: bool, oci: bool) -> dict[str, Any]:
    """Return the program as runtime.launch.program has it, `init` still a truth value."""
    arguments = fields.texts(process, "process.", "args")
    if not arguments or not arguments[0]:
        raise PlanError("process.args: there is no program to run; give the container a command (a rootfs brings none)")
    environment: dict[str, str] = {}
    for number, entry in enumerate(fields.texts(process, "process.", "env")):
        name, equals, value = entry.partition("=")
        if not name or not equals:
            raise PlanError(f"process.env[{number}]: {entry!r} is not NAME=value")
        environment[name] = value
    directory = fields.text(process, "process.", "cwd", "" if oci else "/")
    if not directory.startswith("/"):
        raise PlanError(f"process.cwd: {directory!r} is not an absolute path")
    program: dict[str, Any] = {
        "arguments": list(arguments),
        "environment": environment,
        "directory": directory,
        "init": init,
    }
    user = fields.table(process, "process.", "user")
    if user.get("umask") is not None:
        program["umask"] = fields.number(user, "process.user.", "umask", 0, 0o777)
    if oci:  # what is not asked for stays as the runtime has it
        program["soft_files"] = None
    return program
