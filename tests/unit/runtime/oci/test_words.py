"""The small pure parts of creche-oci: signals, cgroup paths, limits, logs, bundles, the example and the features."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest

from runtime.launch.failures import NOT_EXECUTABLE, NOT_FOUND, StartFailure
from runtime.oci import bundle, command_line, control, limits, main, placing, spec
from runtime.oci.log import Log, OciError


@pytest.mark.parametrize(
    ("text", "number"),
    [("TERM", 15), ("SIGTERM", 15), ("sigkill", 9), ("9", 9), ("0", 0), ("RTMIN+3", signal.SIGRTMIN + 3), ("64", 64)],
)
def test_signals_have_names_and_numbers(text: str, number: int) -> None:
    assert control.signal_number(text) == number


@pytest.mark.parametrize("text", ["", "NOPE", "-1", "65", "SIG_DFL", "_DFL", "SIGRTMIN+99"])
def test_other_signals_are_refused(text: str) -> None:
    with pytest.raises(OciError, match="unknown signal"):
        control.signal_number(text)


@pytest.mark.parametrize(
    ("asked", "path"),
    [
        (None, ("creche-oci/x", False)),
        ("/docker/abc", ("docker/abc", False)),
        ("mine/abc", ("mine/abc", True)),
        ("/a//./b/", ("a/b", False)),
    ],
)
def test_cgroup_paths_begin_at_the_mount_or_at_the_own_group(asked: str | None, path: tuple[str, bool]) -> None:
    assert placing.path_of({"linux": {"cgroupsPath": asked}}, "x") == path


@pytest.mark.parametrize("asked", ["/", "..", "/a/../b", "system.slice:docker:abc", 7])
def test_cgroup_paths_that_lead_elsewhere_are_refused(asked: object) -> None:
    with pytest.raises(OciError, match=r"linux\.cgroupsPath"):
        placing.path_of({"linux": {"cgroupsPath": asked}}, "x")


def test_update_takes_options() -> None:
    given = ["update", "--memory", "1g", "--cpu-share", "512", "--cpuset-cpus", "0-1", "--blkio-weight", "300", "x"]
    assert limits.wanted(command_line.parse(given)) == {
        "memory": {"limit": 1 << 30},
        "cpu": {"shares": 512, "cpus": "0-1"},
        "blockIO": {"weight": 300},
    }


def test_update_takes_dockers_object_and_leaves_its_zeros_out(tmp_path: Path) -> None:
    file = tmp_path / "resources.json"
    file.write_text('{"memory": {"limit": 5000000, "kernel": 0}, "cpu": {"quota": 0, "cpus": ""}, "devices": [{}]}')
    assert limits.wanted(command_line.parse(["update", "-r", str(file), "x"])) == {"memory": {"limit": 5000000}}


def test_update_without_anything_says_so() -> None:
    with pytest.raises(OciError, match="nothing to change"):
        limits.wanted(command_line.parse(["update", "x"]))


def test_a_change_is_put_over_what_held() -> None:
    before = {"memory": {"limit": 1, "swap": 2}, "pids": {"limit": 3}, "devices": []}
    after = limits.merged(before, {"memory": {"limit": 5}, "cpu": {"shares": 7}})
    assert after == {**before, "memory": {"limit": 5, "swap": 2}, "cpu": {"shares": 7}}


def test_an_error_in_json_is_what_containerd_reads(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = Log()
    log.path, log.form = str(tmp_path / "log.json"), "json"
    code = log.fail(OciError("no such\nthing"))
    line = json.loads((tmp_path / "log.json").read_text())
    assert (line["level"], line["msg"], code) == ("error", "no such thing", 1)
    assert capsys.readouterr().err == "no such thing\n"


def test_an_error_without_a_log_is_one_line_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    Log().fail(OciError('say "x"'))
    said = capsys.readouterr().err
    assert said.startswith('time="') and said.endswith(' level=error msg="say \\"x\\""\n')


@pytest.mark.parametrize(
    ("config", "field"),
    [
        ({}, "ociVersion"),
        ({"ociVersion": "2.0"}, "ociVersion"),
        ({"ociVersion": "1.0"}, "root.path"),
        ({"ociVersion": "1.0", "root": {"path": "missing"}, "process": {}}, "root.path"),
        ({"ociVersion": "1.0", "root": {"path": "."}}, "process"),
        ({"ociVersion": "1.0", "root": {"path": "."}, "process": {}, "hooks": []}, None),
        ({"ociVersion": "1.0", "root": {"path": "."}, "process": {}, "hooks": [1]}, "hooks"),
    ],
)
def test_a_bundles_fields_are_checked(tmp_path: Path, config: dict[str, Any], field: str | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    if field is None:
        assert bundle.load(str(tmp_path)).root == str(tmp_path)
        return
    with pytest.raises(OciError, match=field):
        bundle.load(str(tmp_path))


@pytest.mark.parametrize("text", ["", "nope", "[]", "[" * 100_000])
def test_a_config_that_is_none_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(OciError, match=r"config\.json"):
        bundle.load(str(tmp_path))


def test_a_missing_bundle_is_named(tmp_path: Path) -> None:
    with pytest.raises(OciError, match=r"missing/config\.json: no such file"):
        bundle.load(str(tmp_path / "missing"))


def test_the_example_is_a_bundles(tmp_path: Path) -> None:
    (tmp_path / "rootfs").mkdir()
    (tmp_path / "config.json").write_text(json.dumps(spec.example()))
    assert bundle.load(str(tmp_path)).root == str(tmp_path / "rootfs")


def test_the_features_name_what_there_is() -> None:
    found = spec.features()
    assert found["ociVersionMin"] == "1.0.0"
    assert {"ro", "rro", "rbind", "tmpcopyup", "idmap"} <= set(found["mountOptions"])
    assert set(found["linux"]["namespaces"]) == {"user", "network", "pid", "mount", "uts", "ipc", "cgroup", "time"}
    assert found["linux"]["cgroup"]["systemd"] is False
    assert "SCMP_ACT_ERRNO" in found["linux"]["seccomp"]["actions"]
    assert "SCMP_ACT_NOTIFY" not in found["linux"]["seccomp"]["actions"]


@pytest.mark.parametrize(
    ("code", "words"), [(NOT_FOUND, "executable file not found"), (NOT_EXECUTABLE, "permission denied")]
)
def test_dockerd_recognises_a_program_that_cannot_be_executed(code: int, words: str) -> None:
    told = main.told(StartFailure("exec 'nope'", 2, "no such program", None, None, code))
    assert "nope" in told and words in told


def test_columns_are_as_wide_as_their_widest_cell() -> None:
    assert control.table([("ID", "PID"), ("abcdef", "1")]) == "ID       PID\nabcdef   1\n"
