"""Broken files: exactly these problems, all at once, each at its line and key."""

import textwrap

import pytest

from supervisor.app_file.read import AppFileError, parse

NAME_RULE = 'must be a name of lower-case letters, digits, "-" and "_", at most 63 long'
LINK_RULE = 'must be "name[:alias]", "app/name[:alias]" or { to = "name", as = "alias", wait = false }'
PORT_RULE = 'must be "[ip:]host:container[/tcp or /udp]"'
MOUNT_RULE = 'must be "name-or-path:/target[:ro]" or "tmpfs:/target[:size=64M]"'
SIZE_RULE = 'must be a size like "64K", "512M" or "2G", more than 0'
TIME_RULE = 'must be a duration like "100ms", "10s" or "1h30m"'
ABC = "[containers.a]\nrootfs = '/'\n"

CASES: dict[str, tuple[str, list[str]]] = {
    "no TOML": ("a = 1\nb = = 2\n", ["2: is no valid TOML at column 5: invalid value"]),
    "no end": ("[containers.a]\nx = [1,\n", ["2: is no valid TOML: invalid value"]),
    "a key twice": ("a = 1\na = 2\n", ["2: is no valid TOML at column 6: cannot overwrite a value"]),
    "empty": ("", [" has no container; [containers.NAME] makes one"]),
    "unknown at the top": (
        f"nam = 'x'\nzzz = 1\n{ABC}",
        [
            '1: nam: unknown key; did you mean "name"?',
            "2: zzz: unknown key; allowed here: name, containers, groups, group, volumes, secrets, network, include, "
            "defaults",
        ],
    ),
    "unknown in a container": (f'{ABC}link = ["b"]\n', ['3: containers.a.link: unknown key; did you mean "links"?']),
    "unknown in a dotted table": (
        f"{ABC}stop.singal = 'INT'\n",
        ['3: containers.a.stop.singal: unknown key; did you mean "signal"?'],
    ),
    "unknown in an empty table": (
        f"{ABC}volumes = ['v:/v']\n[volumes.v]\ndriver = 'x'\n",
        ["5: volumes.v.driver: unknown key; none is allowed here"],
    ),
    "an unquoted name with a space": (
        "[containers.'A b']\nrootfs = '/'\n",
        [f'1: containers."A b": {NAME_RULE}, found "A b"'],
    ),
    "wrong types": (
        f"""\
        {ABC}command = 5
        env = 1
        init = "yes"
        replicas = "two"
        limits = [1]
        ports = "80:80"
        after = "b"
        egress = "no"
        """,
        [
            "3: containers.a.command: must be a list, or a string that a shell would split, found 5",
            '4: containers.a.env: must be a table NAME → value, or a list of "NAME=value", found 1',
            '5: containers.a.init: must be true or false, found "yes"',
            '6: containers.a.replicas: must be a whole number from 0 to 10000, found "two"',
            "7: containers.a.limits: must be a table, found a list",
            '8: containers.a.ports: must be a list of "[ip:]host:container[/tcp or /udp]", found "80:80"',
            '9: containers.a.after: must be a list of names, or a table name → condition, found "b"',
            '10: containers.a.egress: must be true, false or a list of networks, found "no"',
        ],
    ),
    "a container that is no table": (
        "[containers]\na = 1\nb.rootfs = '/'\n",
        ["2: containers.a: must be a table, found 1"],
    ),
    "containers that are no table": (
        "containers = ['a']\n",
        ["1: containers: must be a table name → container, found a list"],
    ),
    "bool is no number": (
        f"{ABC}limits.pids = true\n",
        ["3: containers.a.limits.pids: must be a whole number of at least 1, found true"],
    ),
    "bad quantities": (
        f"""\
        {ABC}limits.memory = "12X"
        limits.cpus = 0
        stop.timeout = 10
        restart = {{ delay = "1s1s", factor = 0.5, jitter = nan }}
        """,
        [
            f'3: containers.a.limits.memory: {SIZE_RULE}, found "12X"',
            "4: containers.a.limits.cpus: must be a number of processors, more than 0, found 0",
            f"5: containers.a.stop.timeout: {TIME_RULE}, found 10",
            f'6: containers.a.restart.delay: {TIME_RULE}, found "1s1s"',
            "6: containers.a.restart.factor: must be a number of at least 1, found 0.5",
            "6: containers.a.restart.jitter: must be a fraction from 0 to 1, found nan",
        ],
    ),
    "a near miss of a word": (
        f"{ABC}restart = 'on-falure'\nsecurity.userns = 'auo'\n",
        [
            '3: containers.a.restart: must be "always", "on-failure", "unless-stopped" or "never", found "on-falure"; '
            'did you mean "on-failure"?',
            '4: containers.a.security.userns: must be "auto", "required" or "host", found "auo"; did you mean "auto"?',
        ],
    ),
    "bad lists": (
        f"""\
        {ABC}ports = [
          "80:80",
          "x",
          "1.2.3:1:1",
          "0:80",
          "81-82:81",
          "9-8:9-8",
          "83:83/sctp",
        ]
        volumes = ["data", "data:rel", "a/b:/c", "tmpfs:/t:size=0", "v:/d:rx"]
        """,
        [
            f'5: containers.a.ports[1]: {PORT_RULE}, found "x"',
            '6: containers.a.ports[2]: the host address must be an IP address, found "1.2.3:1:1"',
            '7: containers.a.ports[3]: a port is a number from 1 to 65535, found "0:80"',
            '8: containers.a.ports[4]: both ranges must be equally long, found "81-82:81"',
            '9: containers.a.ports[5]: a range must not end before it begins, found "9-8:9-8"',
            '10: containers.a.ports[6]: the protocol must be tcp or udp, found "83:83/sctp"',
            f'12: containers.a.volumes[0]: {MOUNT_RULE}, found "data"',
            '12: containers.a.volumes[1]: the target must be an absolute path in the container, found "data:rel"',
            '12: containers.a.volumes[2]: a volume\'s name must be a name of letters, digits, "-", "_" and "." that '
            'begins with a letter or digit; write a path with ./ in front, found "a/b:/c"',
            '12: containers.a.volumes[3]: the size must be like "64M", more than 0, found "tmpfs:/t:size=0"',
            '12: containers.a.volumes[4]: the options must be "ro", found "v:/d:rx"',
        ],
    ),
    "good elements beside bad ones are checked": (
        f"""\
        {ABC}links = ["a b",
          "c", "d"]
        ports = ["x", "80-81:80-81",
          "81:1"]
        """,
        [
            f'3: containers.a.links[0]: "a b" {NAME_RULE}, found "a b"',
            '4: containers.a.links[1]: there is no container "c"',
            '4: containers.a.links[2]: there is no container "d"',
            f'5: containers.a.ports[0]: {PORT_RULE}, found "x"',
            "6: containers.a.ports[2]: 127.0.0.1:81/tcp is published by this container already",
        ],
    ),
    "roots": (
        "[containers.a]\ncommand = 'x'\n[containers.b]\nrootfs = '/'\nimage = 'x'\n",
        [
            "1: containers.a: needs one of image, build, rootfs",
            "5: containers.b.image: images are not yet supported; use rootfs",
        ],
    ),
    "a mistyped root is not missed as well": (
        "[containers.a]\nrotfs = '/'\n",
        ['2: containers.a.rotfs: unknown key; did you mean "rootfs"?'],
    ),
    "links": (
        """\
        [containers.api]
        rootfs = "/"
        links = ["dv", "api", "db:localhost", "db:x", { to = "db", as = "X" }, { too = "db" }, 5]
        after = { bd = "ready", api = "ready", db = "up" }
        [containers.db]
        rootfs = "/"
        """,
        [
            '3: containers.api.links[0]: there is no container "dv"; did you mean "db"?',
            "3: containers.api.links[1]: a container cannot link to itself",
            '3: containers.api.links[2]: the name "localhost" already means this container itself',
            '3: containers.api.links[4]: the name "X" already means db',
            '3: containers.api.links[5]: needs the key "to"',
            '3: containers.api.links[5].too: unknown key; did you mean "to"?',
            f"3: containers.api.links[6]: {LINK_RULE}, found 5",
            "4: containers.api.after.api: a container cannot wait for itself",
            '4: containers.api.after.bd: there is no container "bd"; did you mean "db"?',
            '4: containers.api.after.db: must be "started", "ready" or "completed", found "up"',
        ],
    ),
    "circles": (
        """\
        [defaults]
        rootfs = "/"
        [containers.a]
        links = ["b"]
        [containers.b]
        after = ["c"]
        [containers.c]
        links = ["d",
          "a"]
        [containers.d]
        links = [{ to = "c", wait = false }]
        [containers.e]
        links = ["f"]
        [containers.f]
        links = ["e"]
        """,
        [
            "4: containers.a.links[0]: none of these can start first: a → b → c → a; a link with wait = false does "
            "not wait",
            "13: containers.e.links[0]: none of these can start first: e → f → e; a link with wait = false does not "
            "wait",
        ],
    ),
    "ports of two containers": (
        """\
        [defaults]
        rootfs = "/"
        [containers.a]
        ports = ["8080:80", "127.0.0.2:8081:80", "0.0.0.0:9000-9002:1-3", "[::1]:1:1"]
        [containers.b]
        ports = [
          "8081:80",
          "8080:80",
          "9002:80",
        ]
        """,
        [
            "4: containers.a.ports[3]: [::1] cannot be published; use 127.0.0.1",
            "8: containers.b.ports[1]: 127.0.0.1:8080/tcp is published by containers.a too",
            "9: containers.b.ports[2]: 127.0.0.1:9002/tcp is published by containers.a too",
        ],
    ),
    "volumes": (
        f"{ABC}volumes = ['d:/x', 'e:/x/', 'd:/', 'd:/proc/x', 'd:/a/../b']\n[volumes.dd]\n",
        [
            "3: containers.a.volumes[1]: /x/ is another volume's target already",
            "3: containers.a.volumes[2]: nothing can be mounted at /; choose another target",
            "3: containers.a.volumes[3]: nothing can be mounted at /proc/x; choose another target",
            '3: containers.a.volumes[4]: the target must be an absolute path without .., found "/a/../b"',
            '4: volumes.dd: has no effect: no container mounts it; did you mean "d"?',
        ],
    ),
    "groups": (
        f"""\
        {ABC}group = "backnd"
        [groups.backend]
        parent = "outr"
        [groups.outer]
        [groups.x]
        parent = "y"
        [groups.y]
        parent = "x"
        [group]
        parent = "x"
        within = "2m"
        """,
        [
            '3: containers.a.group: there is no group "backnd"; did you mean "backend"?',
            "4: groups.backend: has no effect: no container and no group is in it",
            '5: groups.backend.parent: there is no group "outr"; did you mean "outer"?',
            "6: groups.outer: has no effect: no container and no group is in it",
            "8: groups.x.parent: these groups are in each other: x → y → x",
            "12: group.parent: has no effect on the root group",
            "13: group.within: limits on a group's restarts are not yet supported",
        ],
    ),
    "no effect": (
        f"""\
        {ABC}pull = "never"
        schedule = "0 3 * * *"
        timeout = "1m"
        restart = {{ policy = "never", factor = 3, max_restarts = 2 }}
        limits.swap = "1M"
        read_only = true
        writable = "tmpfs:1M"
        logs = {{ max_files = 0, max_size = "1M" }}
        [containers.b]
        rootfs = "/"
        network = "none"
        ports = ["1:1"]
        links = ["a"]
        restart.within = "2m"
        """,
        [
            "3: containers.a.pull: asking a registry is not yet supported",
            "4: containers.a.schedule: jobs are not yet supported",
            "5: containers.a.timeout: jobs are not yet supported",
            '6: containers.a.restart.factor: has no effect with restart.policy = "never"',
            '6: containers.a.restart.max_restarts: has no effect with restart.policy = "never"',
            "7: containers.a.limits.swap: has no effect without limits.memory",
            "9: containers.a.writable: has no effect with read_only = true",
            "10: containers.a.logs.max_size: has no effect with logs.max_files = 0",
            '14: containers.b.ports: has no effect with network = "none"',
            '15: containers.b.links: has no effect with network = "none"; after orders without reach',
            "16: containers.b.restart.within: has no effect without restart.max_restarts",
        ],
    ),
    "values that contradict": (
        f"""\
        {ABC}restart = {{ delay = "1m", success_codes = [0, 3], fatal_codes = [3] }}
        ulimits = {{ nofile = {{ soft = 2, hard = 1 }} }}
        limits.cpuset = "3-1"
        [containers.b]
        rootfs = "/"
        ulimits.nofiles = 3
        """,
        [
            "3: containers.a.restart.delay: must not be longer than restart.max_delay",
            "3: containers.a.restart.fatal_codes: 3 is one of restart.success_codes too",
            "4: containers.a.ulimits.nofile: soft must not be more than hard",
            '5: containers.a.limits.cpuset: a range must not end before it begins, found "3-1"',
            '8: containers.b.ulimits.nofiles: must be "as", "core", "cpu", "data", "fsize", "locks", "memlock", '
            '"msgqueue", "nice", "nofile", "nproc", "rss", "rtprio", "rttime", "sigpending" or "stack", '
            'found "nofiles"; did you mean "nofile"?',
        ],
    ),
    "defaults are told once, where they stand": (
        """\
        [defaults]
        rootfs = "/"
        restart = { dely = "1s", jitter = 2 }
        ports = ["80:80"]
        tty = true
        name = "x"
        [containers.a]
        [containers.b]
        """,
        [
            '3: defaults.restart.dely: unknown key; did you mean "delay"?',
            "3: defaults.restart.jitter: must be a fraction from 0 to 1, found 2",
            "4: defaults.ports[0]: 127.0.0.1:80/tcp is published by containers.a too",
            "5: defaults.tty: terminals are not yet supported",
            '6: defaults.name: unknown key; did you mean "hostname"?',
        ],
    ),
    "defaults of which some are a container's own": (
        """\
        [defaults]
        rootfs = "/"
        restart = { delay = "1s", max_delay = "500ms" }
        [containers.a]
        [containers.b]
        restart = { delay = "2s" }
        """,
        [
            "3: defaults.restart.delay: must not be longer than restart.max_delay",
            "6: containers.b.restart.delay: must not be longer than restart.max_delay",
        ],
    ),
    "probes": (
        f"""\
        {ABC}readiness = {{ interval = "1s", prot = 80 }}
        liveness = {{ tcp = 80, http = "/" }}
        startup = {{ tcp = 0, interval = "0s", scheme = "http" }}
        """,
        [
            "3: containers.a.readiness: needs one of the keys exec, http, tcp, grpc, notify, log",
            '3: containers.a.readiness.prot: unknown key; did you mean "port"?',
            "4: containers.a.liveness: must have only one of the keys tcp, http",
            f'5: containers.a.startup.interval: {TIME_RULE}, more than 0, found "0s"',
            "5: containers.a.startup.scheme: unknown key; allowed here: interval, timeout, retries, successes, delay, "
            "tcp",
            "5: containers.a.startup.tcp: must be a whole number from 1 to 65535, found 0",
        ],
    ),
    "variables": (
        f"name = '${{NONE}}'\n{ABC}command = ['x',\n '${{ALSO:?give it}}']\n",
        [
            "1: name: the variable NONE is not set; ${NONE:-default} gives it a default",
            "5: containers.a.command[1]: the variable ALSO is not set: give it",
        ],
    ),
    "the name": (
        f"name = 'My App'\n{ABC}",
        ['1: name: must be a name of lower-case letters, digits and "-", at most 31 long, found "My App"'],
    ),
    "network": (
        f"""\
        {ABC}network = "container:b"
        [containers.b]
        rootfs = "/"
        network = "bridge"
        [network]
        subnet = "10.0.0.1/8"
        """,
        [
            "3: containers.a.network: another container's network is not yet supported",
            '6: containers.b.network: must be "group", "host", "none" or "container:NAME", found "bridge"',
            '8: network.subnet: must be an IP network like "10.1.0.0/16", found "10.0.0.1/8"',
        ],
    ),
    "secrets": (
        f"{ABC}secrets = ['pass']\n[secrets.passw]\nfile = 'x'\nenv = 'Y'\n",
        [
            "3: containers.a.secrets: secrets are not yet supported",
            '3: containers.a.secrets[0]: there is no secret "pass"; did you mean "passw"?',
            "4: secrets: secrets are not yet supported",
            "4: secrets.passw: needs exactly one of file, env",
            '4: secrets.passw: has no effect: no container uses it; did you mean "pass"?',
        ],
    ),
    "capabilities": (
        f"{ABC}security.capabilities.add = ['NET_ADMN', 'cap_kill']\n",
        [
            '3: containers.a.security.capabilities.add[0]: must be a capability like "NET_ADMIN", or "ALL", found '
            '"NET_ADMN"; did you mean "NET_ADMIN"?',
        ],
    ),
    "a missing env_file": (
        f"{ABC}env_file = ['/does/not/exist']\n",
        ["3: containers.a.env_file[0]: /does/not/exist cannot be read: No such file or directory"],
    ),
}


def broken(text: str, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(AppFileError) as error:
        parse(text, file="/somewhere/shop.toml", environ=environ or {})
    return [str(problem).removeprefix("/somewhere/shop.toml:") for problem in error.value.problems]


@pytest.mark.parametrize("case", CASES)
def test_all_problems_of_a_broken_file(case: str) -> None:
    text, problems = CASES[case]
    assert (
        broken(textwrap.dedent(text.replace(ABC, ABC.replace("\n", "\n        ")) if "        " in text else text))
        == problems
    )


def test_the_error_itself_is_one_line_a_problem() -> None:
    with pytest.raises(AppFileError) as error:
        parse(f"nam = 'x'\n{ABC}link = []\n", file="shop.toml", environ={})
    assert str(error.value) == (
        'shop.toml:1: nam: unknown key; did you mean "name"?\n'
        'shop.toml:4: containers.a.link: unknown key; did you mean "links"?'
    )
    first = error.value.problems[0]
    assert (first.file, first.line, first.key, first.message) == ("shop.toml", 1, "nam", "unknown key")
