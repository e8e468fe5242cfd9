"""Stats, top and update in Docker's shapes, and creche's own figures: pure, and over the served fake app."""

import json

import pytest

from runtime.cgroups.stats import Cpu, Io, IoEntry, Memory, Pids, Stats
from supervisor.control.creche_usage import figures
from supervisor.control.docker_usage import chosen_columns, resources_asked, shaped
from supervisor.control.exchange import Refused
from supervisor.machine import Traffic, Usage

GIB = 1 << 30


def usage(at=100.0, cpu=0, *, host=0, limit=None, fields=None, traffic=None, memory=64 << 20):
    stats = Stats(
        cpu=Cpu(cpu, cpu // 2, cpu - cpu // 2, 10, 2, 3000),
        memory=Memory(memory, limit, fields=fields or {}),
        pids=Pids(3, 100),
        io=Io((IoEntry(8, 0, 4096, 512, 2, 1),)),
    )
    return Usage(at, stats, traffic, host, 2, 4 * GIB)


def docker_percent(shown):
    """What `docker stats` computes (docker/cli, cli/command/container/stats_helpers.go)."""
    cpu, before = shown["cpu_stats"], shown["precpu_stats"]
    spent = cpu["cpu_usage"]["total_usage"] - before["cpu_usage"]["total_usage"]
    passed = cpu["system_cpu_usage"] - before.get("system_cpu_usage", 0)
    return spent / passed * cpu["online_cpus"] * 100


def test_dockers_client_computes_the_load():
    """Half of one of two processors for a second."""
    before, now = usage(), usage(101.0, 500_000_000, host=2_000_000_000)
    assert docker_percent(shaped(now, before)) == pytest.approx(50.0)


def test_without_a_limit_memory_is_the_hosts():
    assert shaped(usage(), None)["memory_stats"]["limit"] == 4 * GIB


def test_a_limit_above_the_hosts_memory_is_the_hosts():
    assert shaped(usage(limit=64 * GIB), None)["memory_stats"]["limit"] == 4 * GIB


def test_block_traffic_is_an_entry_a_direction():
    assert shaped(usage(), None)["blkio_stats"]["io_service_bytes_recursive"] == [
        {"major": 8, "minor": 0, "op": "read", "value": 4096},
        {"major": 8, "minor": 0, "op": "write", "value": 512},
    ]


def test_networks_are_left_out_where_there_is_none():
    assert "networks" not in shaped(usage(), None)
    seen = shaped(usage(traffic=Traffic((1, 2, 3, 4), (5, 6, 7, 8))), None)["networks"]["eth0"]
    assert (seen["rx_bytes"], seen["rx_dropped"], seen["tx_bytes"], seen["tx_errors"]) == (1, 4, 5, 7)


def test_figures_are_per_cent_of_one_processor():
    found = figures("shop", "web", usage(102.0, 3_000_000_000), usage())
    assert found["cpu_percent"] == 150.0


def test_a_counter_that_began_anew_is_no_negative_load():
    assert figures("shop", "web", usage(101.0, 5), usage(100.0, 10**9))["cpu_percent"] == 0.0


@pytest.mark.parametrize("key", ["inactive_file", "total_inactive_file"])
def test_cold_page_cache_is_no_memory_in_use(key):
    assert figures("shop", "web", usage(fields={key: 4 << 20}), None)["memory"] == 60 << 20


def test_more_cold_cache_than_usage_is_not_subtracted():
    assert figures("shop", "web", usage(memory=10, fields={"inactive_file": 20}), None)["memory"] == 10


@pytest.fixture
def ask(served):
    def go(target, method="GET", document=None):
        answers = []

        async def body(connect):
            stream = await connect()
            data = json.dumps(document).encode() if document is not None else b""
            head = f"{method} {target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: {len(data)}\r\n\r\n"
            await stream.send_all(head.encode() + data)
            raw = b""
            while piece := await stream.receive_some(65536):
                raw += piece
            head, _, text = raw.partition(b"\r\n\r\n")
            answers.append((int(head.split()[1]), text))

        served(body)
        return answers[0]

    return go


def test_one_sample_has_the_second_before_it(ask, app):
    app.usages = [usage(), usage(101.0, 10**9, host=2 * 10**9)]
    status, text = ask("/containers/web/stats?stream=0")
    shown = json.loads(text)
    assert (status, shown["name"], docker_percent(shown)) == (200, "/web", pytest.approx(100.0))


def test_one_shot_has_none(ask, app):
    app.usages = [usage()]
    shown = json.loads(ask("/containers/web/stats?stream=false&one-shot=1")[1])
    assert shown["precpu_stats"]["cpu_usage"]["total_usage"] == 0


def test_a_stream_ends_with_its_container(ask, app):
    app.change("web", state="completed")
    status, text = ask("/containers/web/stats")
    assert (status, text.count(b'"memory_stats":{}')) == (200, 1)


def test_creche_stats_are_one_round(ask, app):
    app.usages = [usage(), usage(100.5, 10**8)]
    text = ask("/creche/stats?name=web&stream=0")[1]
    assert b'"cpu_percent":20.0' in text


def test_creche_stats_of_what_does_not_run(ask, app):
    app.change("web", state="stopped")
    assert ask("/creche/stats?name=web&stream=0")[0] == 409


def test_creche_top_leaves_out_what_does_not_run(ask, app):
    app.change("db", state="stopped")
    found = json.loads(ask("/creche/top")[1])
    assert [(each["container"], each["pid"], each["inner_pid"]) for each in found] == [("web", 4242, 1)]


def test_top_is_ps_ef(ask):
    found = json.loads(ask("/containers/web/top")[1])
    assert found["Titles"] == ["UID", "PID", "PPID", "C", "STIME", "TTY", "TIME", "CMD"]
    row = dict(zip(found["Titles"], found["Processes"][0], strict=True))
    assert (row["UID"], row["PID"], row["TTY"], row["TIME"], row["CMD"]) == (
        "root",
        "4242",
        "pts/3",
        "00:01:01",
        "sleep 1",
    )


@pytest.mark.parametrize(
    ("arguments", "columns"),
    [("-o pid,comm", ["pid", "comm"]), ("-eo pid -o %cpu", ["pid", "pcpu"]), ("o pid", ["pid"])],
)
def test_columns_are_chosen(arguments, columns):
    assert list(chosen_columns(arguments)) == columns


@pytest.mark.parametrize("arguments", ["-o", "-o pid,nope", "-x", "-o pid;ls"])
def test_other_columns_are_refused(arguments):
    with pytest.raises(Refused):
        chosen_columns(arguments)


def test_an_update_is_ocis(ask, app):
    asked = {"Memory": 1 << 20, "MemorySwap": 2 << 20, "NanoCpus": 1_500_000_000, "PidsLimit": 9, "CpuShares": 0}
    assert json.loads(ask("/containers/web/update", "POST", asked)[1]) == {"Warnings": ["a warning"]}
    resources = {
        "memory": {"limit": 1 << 20, "swap": 2 << 20},
        "cpu": {"quota": 150_000, "period": 100_000},
        "pids": {"limit": 9},
    }
    assert app.calls == [("update", "web", resources)]


@pytest.mark.parametrize(
    "asked", [{}, {"Memory": 0, "CpusetCpus": "", "BlkioDeviceReadBps": None, "RestartPolicy": {"Name": ""}}]
)
def test_an_update_of_nothing(asked):
    assert resources_asked(asked) == {}


@pytest.mark.parametrize(
    "asked", [{"RestartPolicy": {"Name": "always"}}, {"Memory": "1g"}, {"CpusetCpus": 1}, {"KernelMemory": 5}]
)
def test_what_no_update_can_change(asked):
    with pytest.raises(Refused):
        resources_asked(asked)
