"""Procfs and sysfs as they look, a hostile process's name included, read into numbers."""

import pytest

from supervisor.machine import Traffic
from supervisor.usage import NOBODY, boot_time, host_cpu, host_memory, inside, member, members, traffic

STAT = "cpu  100 5 50 800 20 0 10 5 7 0\ncpu0 1 1 1 1\nbtime 1700000000\n"
PROCESS = "4242 (a ) R 1 (x) S 4000 1 1 34819 1 0 0 0 0 0 150 50 0 0 20 0 1 0 12345 0 512 0\n"
STATUS = "Name:\ta\nNSpid:\t4242\t7\nUid:\t100005\t100005\t100005\t100005\n"
MAP = "         0     100000      65536\n"


def test_host_cpu_leaves_guests_out():
    assert host_cpu(STAT) == 990 * 10_000_000


def test_host_memory():
    assert host_memory("MemFree: 1 kB\nMemTotal:        2048 kB\n") == 2 << 20


def test_boot_time():
    assert boot_time(STAT) == 1_700_000_000.0


def test_a_name_full_of_parentheses_moves_no_field():
    found = member(4242, PROCESS, STATUS, b"", MAP, 1000.0)
    assert (found.name, found.state, found.parent, found.cpu, found.started) == ("a ) R 1 (x", "S", 4000, 2.0, 1123.45)


def test_ids_and_pids_are_the_containers():
    found = member(4242, PROCESS, STATUS, b"sh\0-c\0x y\0", MAP, 0.0)
    assert (found.inner, found.uid, found.command) == (7, 5, "sh -c x y")


def test_a_process_without_a_command_line_has_its_name_in_brackets():
    assert member(1, "1 (kworker) S 0 " + "0 " * 30, STATUS, b"", MAP, 0.0).command == "[kworker]"


@pytest.mark.parametrize(("uid", "expected"), [(100_000, 0), (165_535, 65_535), (165_536, NOBODY), (5, NOBODY)])
def test_ids_outside_the_map_are_nobodys(uid, expected):
    assert inside(uid, MAP) == expected


def test_a_process_that_ended_meanwhile_is_left_out(tmp_path):
    (tmp_path / "stat").write_text(STAT)
    for pid in (7, 9):
        (tmp_path / str(pid)).mkdir()
    for name, text in (("stat", PROCESS), ("status", STATUS), ("cmdline", "x"), ("uid_map", MAP)):
        (tmp_path / "9" / name).write_text(text)
    assert [each.pid for each in members([9, 7, 8], tmp_path)] == [9]


def test_what_the_host_sends_the_container_receives(tmp_path):
    statistics = tmp_path / "cr1" / "statistics"
    statistics.mkdir(parents=True)
    for number, name in enumerate(
        f"{side}_{kind}" for side in ("rx", "tx") for kind in ("bytes", "packets", "errors", "dropped")
    ):
        (statistics / name).write_text(f"{number}\n")
    assert traffic("cr1", tmp_path) == Traffic((4, 5, 6, 7), (0, 1, 2, 3))


def test_an_interface_that_is_gone_has_no_traffic(tmp_path):
    assert traffic("cr1", tmp_path) is None
