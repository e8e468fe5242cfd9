"""What a process becomes, step by step, on the real kernel: ids, capabilities, limits, persona, scheduling, labels."""

import errno
import resource

import pytest

from runtime import capabilities, syscalls
from tests.kernel.runtime.inside import BASE, NAMESPACES, inside

HOST = NAMESPACES & ~syscalls.CLONE_NEWUSER
LAST = capabilities.last()
ALL = (1 << LAST + 1) - 1


def credentials(
    bounding: int = 0,
    permitted: int = 0,
    effective: int = 0,
    inheritable: int = 0,
    ambient: int = 0,
    *,
    account: tuple[int, int, tuple[int, ...]] = (0, 0, ()),
    root_only: bool = False,
) -> str:
    uid, gid, groups = account
    return (
        f"world.account = Account({uid}, {gid}, {groups}, '/')\n"
        f"identity.Credentials({bounding}, {permitted}, {effective}, {inheritable}, {ambient}, {LAST}, {root_only})"
        ".execute(world)\n"
    )


SETS = """
names = ("CapBnd", "CapPrm", "CapEff", "CapInh", "CapAmb")
say([int(status()[name][0], 16) for name in names])
"""
KILL, NET_RAW, SYS_ADMIN, CHOWN = 1 << 5, 1 << 13, 1 << 21, 1 << 0


@pytest.mark.parametrize("uid", [0, 1000])
@pytest.mark.parametrize(
    "sets",
    [
        (0, 0, 0, 0, 0),
        (CHOWN | KILL, CHOWN | KILL, CHOWN | KILL, 0, 0),
        (CHOWN | KILL, CHOWN | KILL, CHOWN, 0, 0),
        (CHOWN | KILL, KILL, 0, KILL, 0),
        (CHOWN | KILL, CHOWN | KILL, KILL, CHOWN | KILL, CHOWN),
        (CHOWN, CHOWN | NET_RAW, NET_RAW, NET_RAW, NET_RAW),
        (CHOWN, CHOWN, CHOWN, NET_RAW, 0),
        (ALL, ALL, ALL, ALL, ALL),
    ],
)
def test_the_five_sets_are_as_written(sets: tuple[int, ...], uid: int) -> None:
    assert inside(credentials(*sets, account=(uid, uid, ())) + SETS) == list(sets)


SHOW = """
program = '/^CapEff/ {printf "%c%s%c", 34, $2, 34}'
os.execv("/usr/bin/awk", ["awk", program, "/proc/self/status"])
"""


def test_ambient_ones_reach_a_users_program() -> None:
    code = credentials(KILL, KILL, KILL, KILL, KILL, account=(1000, 1000, ()))
    assert int(inside(code + SHOW), 16) == KILL


def test_a_users_program_has_none_else() -> None:
    code = credentials(KILL, KILL, KILL, account=(1000, 1000, ()))
    assert int(inside(code + SHOW), 16) == 0


def test_a_user_gets_the_bounding_set_alone_where_only_root_has_more() -> None:
    code = credentials(KILL, KILL, KILL, account=(1000, 1000, ()), root_only=True)
    assert inside(code + SETS) == [KILL, 0, 0, 0, 0]


def test_what_the_runtime_itself_has_not_is_left_out() -> None:
    first = f"syscalls.capset({ALL & ~NET_RAW}, {ALL & ~NET_RAW}, 0)\n"
    both = CHOWN | NET_RAW
    assert inside(first + credentials(both, both, both, both, both) + SETS) == [both, CHOWN, CHOWN, both, CHOWN]


def test_ids_and_groups() -> None:
    code = credentials(account=(1000, 100, (7, 8)))
    ids = 'found = status(); say([found["Uid"], found["Gid"], found["Groups"]])'
    assert inside(code + ids) == [["1000"] * 4, ["100"] * 4, ["7", "8"]]


@pytest.mark.parametrize("account", [(-1, 0, ()), (0, -1, ()), (0, 0, (-1,)), ((1 << 32) - 1, 0, ()), (1 << 32, 0, ())])
def test_an_overflowing_id_is_refused(account: tuple[int, int, tuple[int, ...]]) -> None:
    with pytest.raises(OSError, match=r"[ug]id overflow") as caught:
        inside(credentials(account=account))
    assert caught.value.errno == errno.EOVERFLOW


def test_the_kernel_would_have_taken_minus_one_for_no_change() -> None:
    """The negative control: root stays root."""
    assert inside("os.setresuid(-1, -1, -1); say(os.getuid())") == 0


@pytest.mark.parametrize(
    ("account", "words"),
    [
        ((70000, 0, ()), "the uid is not mapped in the user namespace: 'uid 70000'"),
        ((0, 70000, ()), "the gid is not mapped in the user namespace: 'gid 70000'"),
        ((0, 0, (5, 70000)), "a group is not mapped in the user namespace: 'groups 5 70000'"),
    ],
)
def test_an_unmapped_id_is_refused(account: tuple[int, int, tuple[int, ...]], words: str) -> None:
    with pytest.raises(OSError, match=words):
        inside(credentials(account=account))


DENIED = (("uid_map", f"0 {BASE} 1"), ("setgroups", "deny"), ("gid_map", f"0 {BASE} 1"))


def test_denied_groups_are_an_error_for_who_wants_some() -> None:
    with pytest.raises(OSError, match="denies setgroups, so there can be no additional groups") as caught:
        inside(credentials(account=(0, 0, (7,))), maps=DENIED)
    assert caught.value.errno == errno.EACCES


def test_denied_groups_are_no_error_for_who_wants_none() -> None:
    assert inside(credentials() + "say(os.getuid())", maps=DENIED) == 0


IDENTIFY = """
read, write = os.pipe()
file = os.memfd_create("file")
for stream in (write, file):
    os.fchown(stream, 0, 0)
world.stdout, world.stderr = write, file
identity.Identify("1000:100", ()).execute(world)
say([os.fstat(write).st_uid, os.fstat(write).st_gid, os.fstat(file).st_uid])
"""


def test_a_pipe_becomes_the_users_and_a_file_stays_the_callers() -> None:
    assert inside(IDENTIFY) == [1000, 100, 0]


def test_a_pipe_of_the_hosts_root_stays_its() -> None:
    code = """
identity.Identify("1000:100", ()).execute(world)
say([world.account.uid, os.fstat(1).st_uid])
"""
    assert inside(code) == [1000, 65534]


@pytest.mark.parametrize("flags", [HOST, NAMESPACES])
def test_the_names_of_the_uts_namespace(flags: int) -> None:
    code = """
identity.Hostname("shop").execute(world)
identity.Domainname("example.org").execute(world)
say([os.uname().nodename, Path("/proc/sys/kernel/domainname").read_text().strip()])
"""
    assert inside(code, flags=flags) == ["shop", "example.org"]


@pytest.mark.parametrize(("domain", "machine"), [("LINUX", "x86_64"), ("LINUX32", "i686")])
def test_personality(domain: str, machine: str) -> None:
    assert inside(f'identity.Personality("{domain}", ()).execute(world); say(os.uname().machine)') == machine


@pytest.mark.parametrize("arguments", ['"LINUX", ("ADDR_NO_RANDOMIZE",)', '"BSD", ()'])
def test_an_unknown_personality_is_refused(arguments: str) -> None:
    with pytest.raises(OSError, match="is no personality of the OCI specification"):
        inside(f"identity.Personality({arguments}).execute(world)")


NAMES = "CPU FSIZE DATA STACK CORE RSS NPROC NOFILE MEMLOCK AS LOCKS SIGPENDING MSGQUEUE NICE RTPRIO RTTIME"


@pytest.mark.parametrize("name", NAMES.split())
def test_every_limit(name: str) -> None:
    """What /proc says, not what setrlimit returned."""
    number = NAMES.split().index(name)
    hard = resource.getrlimit(number)[1]
    soft = 1 << 40 if name in ("AS", "DATA", "STACK") else 0 if hard == 0 else 700
    soft = soft if hard == resource.RLIM_INFINITY else min(soft, hard)
    words = {"CPU": "cpu time", "FSIZE": "file size", "DATA": "data size", "STACK": "stack size", "CORE": "core file",
             "RSS": "resident set", "NPROC": "processes", "NOFILE": "open files", "MEMLOCK": "locked memory",
             "AS": "address space", "LOCKS": "file locks", "SIGPENDING": "pending signals", "MSGQUEUE": "msgqueue",
             "NICE": "nice priority", "RTPRIO": "realtime priority", "RTTIME": "realtime timeout"}[name]  # fmt: skip
    code = f"""
identity.Limit("RLIMIT_{name}", {soft}, {hard}).execute(world)
lines = Path("/proc/self/limits").read_text().splitlines()
say(next(line[26:].split()[0] for line in lines if line.lower().startswith("max {words}")))
"""
    assert inside(code) == str(soft)


@pytest.mark.parametrize("value", [-1, (1 << 64) - 1])
def test_no_limit(value: int) -> None:
    code = f'identity.Limit("RLIMIT_CPU", {value}, {value}).execute(world); say(resource.getrlimit(0))'
    assert inside(code) == [-1, -1]


def test_the_largest_limit_is_one() -> None:
    code = f"""
identity.Limit("RLIMIT_LOCKS", 7, {(1 << 64) - 2}).execute(world)
say(Path("/proc/self/limits").read_text().split("Max file locks")[1].split()[:2])
"""
    assert inside(code) == ["7", str((1 << 64) - 2)]


@pytest.mark.parametrize(
    "limit", [("RLIMIT_CPU", 9, 8), ("RLIMIT_CPU", -2, 8), ("RLIMIT_CPU", 0, 1 << 64), ("RLIMIT_NONSENSE", 0, 0)]
)
def test_a_limit_that_is_none_is_refused(limit: tuple[str, int, int]) -> None:
    with pytest.raises(OSError, match=limit[0]) as caught:
        inside(f"identity.Limit(*{limit}).execute(world)")
    assert caught.value.errno == errno.EINVAL


def test_a_hard_limit_cannot_be_raised_in_a_user_namespace() -> None:
    code = 'resource.setrlimit(0, (5, 5)); identity.Limit("RLIMIT_CPU", 5, 6).execute(world)'
    with pytest.raises(OSError, match="RLIMIT_CPU 5:6") as caught:
        inside(code)
    assert caught.value.errno == errno.EPERM


def test_sysctls_reach_their_namespaces() -> None:
    values = {
        "net.ipv4.ip_default_ttl": "42",
        "kernel.shmmni": "99",
        "fs.mqueue.msg_max": "11",
        "kernel.sem": "1 2 3 4",
    }
    code = f"""
sysctls.Sysctls(sysctls.check({values!r}, {{"network", "ipc"}})).execute(world)
proc = procfs.of(world)
say([" ".join(procfs.read(proc, "sys/" + name.replace(".", "/")).split()) for name in {list(values)!r}])
"""
    assert inside(code) == list(values.values())


def test_an_unknown_sysctl_is_named() -> None:
    with pytest.raises(FileNotFoundError, match="/proc/sys/net/ipv4/no_such"):
        inside('sysctls.Sysctls((("net/ipv4/no_such", "1"),)).execute(world)')


def test_the_oom_score_of_a_process_that_is_still_the_hosts() -> None:
    code = """
scheduling.OomScore(300).early()
scheduling.OomScore(300).execute(world)
say(int(Path("/proc/self/oom_score_adj").read_text()))
"""
    assert inside(code, flags=HOST) == 300


def test_an_inherited_oom_score_needs_no_right() -> None:
    """A container's root may not write it, being not dumpable; nor need it where the cloning process has."""
    assert inside("scheduling.OomScore(0).execute(world); say(True)") is True
    with pytest.raises(PermissionError, match="/proc/self/oom_score_adj"):
        inside("scheduling.OomScore(1).execute(world)")


def test_lowering_the_oom_score_without_the_right_says_so() -> None:
    drop = f"syscalls.capset({ALL & ~(1 << 24)} & syscalls.capget()[1], {ALL & ~(1 << 24)} & syscalls.capget()[1], 0)"
    with pytest.raises(PermissionError, match="cannot write '-5'"):
        inside(f"{drop}\nscheduling.OomScore(-5).execute(world)", flags=HOST)


@pytest.mark.parametrize(("io_class", "priority", "value"), [("BE", 7, 0x4007), ("IDLE", 0, 0x6000), ("RT", 3, 0x2003)])
def test_io_priority(io_class: str, priority: int, value: int) -> None:
    code = f'scheduling.IoPriority("IOPRIO_CLASS_{io_class}", {priority}).execute(world); say(syscalls.ioprio_get())'
    assert inside(code, flags=HOST) == value


def test_an_io_priority_is_inherited_into_a_user_namespace() -> None:
    code = """
step = scheduling.IoPriority("IOPRIO_CLASS_RT", 3)
step.early()
syscalls.unshare(syscalls.CLONE_NEWUSER)
step.execute(world)
say(syscalls.ioprio_get())
"""
    assert inside(code, flags=HOST) == 0x2003


def test_a_real_time_io_priority_in_a_user_namespace_is_refused() -> None:
    with pytest.raises(PermissionError):
        inside('scheduling.IoPriority("IOPRIO_CLASS_RT", 3).execute(world)')


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"policy": "SCHED_OTHER", "nice": 7}, [0, 0, 7, 0, [0, 0, 0]]),
        ({"policy": "SCHED_BATCH", "nice": 3}, [3, 0, 3, 0, [0, 0, 0]]),
        ({"policy": "SCHED_IDLE"}, [5, 0, 0, 0, [0, 0, 0]]),
        ({"policy": "SCHED_OTHER", "flags": ["SCHED_FLAG_RESET_ON_FORK"]}, [0, 1, 0, 0, [0, 0, 0]]),
    ],
)
def test_scheduling(fields: dict[str, object], found: list[object]) -> None:
    code = f"scheduling.Scheduler.parse({fields!r}).execute(world); say(syscalls.sched_getattr())"
    answer = inside(code)
    assert [*answer[:4], [0, 0, 0]] == found


@pytest.mark.parametrize("policy", ["SCHED_FIFO", "SCHED_RR"])
def test_real_time_in_a_user_namespace_is_refused(policy: str) -> None:
    with pytest.raises(PermissionError, match=policy):
        inside(f'scheduling.Scheduler.parse({{"policy": "{policy}", "priority": 3}}).execute(world)')


def test_a_policy_that_no_kernel_has_is_refused() -> None:
    with pytest.raises(OSError, match="SCHED_ISO") as caught:
        inside('scheduling.Scheduler.parse({"policy": "SCHED_ISO"}).execute(world)')
    assert caught.value.errno == errno.EINVAL


def test_affinity() -> None:
    assert inside('scheduling.Affinity("0").execute(world); say(list(os.sched_getaffinity(0)))') == [0]


def test_cpus_that_are_not_there_are_named() -> None:
    with pytest.raises(OSError, match="7000-7001") as caught:
        inside('scheduling.Affinity("7000-7001").execute(world)')
    assert caught.value.errno == errno.EINVAL


@pytest.mark.parametrize("step", ['labels.AppArmor("")', 'labels.Selinux("")'])
def test_no_label_is_nothing_to_do(step: str) -> None:
    assert inside(f"{step}.execute(world); say(True)") is True


def test_a_label_that_no_kernel_takes_is_refused() -> None:
    with pytest.raises(OSError, match="is no name of an AppArmor profile"):
        inside('labels.AppArmor("a\\nexec b").execute(world)')


WITHOUT_A_MODULE = """
def absent(proc, path, limit=4096):
    raise OSError(errno.ENOENT, os.strerror(errno.ENOENT), "/proc/" + path)
procfs.read = absent
"""


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ('labels.AppArmor("docker-default")', "this kernel has no AppArmor"),
        ('labels.Selinux("system_u:system_r:container_t:s0")', "this kernel has no SELinux with a policy"),
    ],
)
def test_a_label_without_its_module_is_an_error(step: str, words: str) -> None:
    with pytest.raises(OSError, match=words) as caught:
        inside(f"{WITHOUT_A_MODULE}\n{step}.execute(world)")
    assert caught.value.errno == errno.EOPNOTSUPP


def test_unconfined_is_what_everything_is_without_apparmor() -> None:
    assert inside(f'{WITHOUT_A_MODULE}\nlabels.AppArmor("unconfined").execute(world); say(True)') is True
