"""Reading: names, defaults, variables and paths of a whole file."""

from pathlib import Path

import pytest

from supervisor.app_file.problems import AppFileError
from supervisor.app_file.read import complete, parse, read
from supervisor.app_file.spec import AppSpec, Container, Link, Mount, Restart, Stop

VALID = Path(__file__).parent / "valid"
A = "[containers.a]\nrootfs = '/'\n"


def app(text: str, **environ: str) -> AppSpec:
    return parse(text, file="/somewhere/shop.toml", environ=environ)


def test_the_name_is_the_stem_or_the_folder_or_what_the_file_says(tmp_path: Path) -> None:
    assert app(A).name == "shop"
    assert parse(A, file="/my/folder/creche.toml", environ={}).name == "folder"
    assert app(f"name = 'other'\n{A}").name == "other"


def test_a_stem_that_is_no_name_asks_for_one() -> None:
    with pytest.raises(AppFileError) as error:
        parse(A, file="My_App.toml", environ={})
    assert str(error.value) == (
        'My_App.toml: name: must be a name of lower-case letters, digits and "-", at most 31 long; '
        'the file gives "My_App", write one'
    )


def test_containers_keep_the_files_order() -> None:
    text = "".join(f"[containers.{name}]\nrootfs = '/'\n" for name in "zmab")
    assert list(app(text).containers) == ["z", "m", "a", "b"]


def test_defaults_merge_below_each_container() -> None:
    spec = app(
        """
        [defaults]
        rootfs = "/"
        env = ["A=1", "B=1"]
        labels = { x = "1" }
        restart = "always"
        stop = { timeout = "3s", signal = "INT" }
        ports = ["1:1"]
        command = ["default"]
        [containers.a]
        env = { B = 2, C = 3 }
        restart = { delay = "1s" }
        stop.timeout = "4s"
        ports = []
        command = "own words"
        [containers.b]
        network = "none"
        """
    )
    a, b = spec.containers["a"], spec.containers["b"]
    assert a.env == {"A": "1", "B": "2", "C": "3"}
    assert a.restart == Restart(policy="always", delay=1)
    assert a.stop == Stop(signal="SIGINT", timeout=4)
    assert (a.ports, a.command, a.labels) == ((), ("own", "words"), {"x": "1"})
    assert (b.env, b.stop.timeout, b.command) == ({"A": "1", "B": "1"}, 3, ("default",))
    assert b.ports == ()


def test_only_inherited_keys_may_be_without_effect() -> None:
    spec = app(
        """
        [defaults]
        rootfs = "/"
        restart = { factor = 3, max_restarts = 4, within = "2m" }
        links = ["a"]
        after = { a = "started" }
        [containers.a]
        [containers.b]
        restart = { policy = "never" }
        [containers.c]
        network = "none"
        """
    )
    assert spec.containers["a"].restart.factor == 3
    assert (spec.containers["a"].links, spec.containers["a"].after) == ((), {})
    assert spec.containers["b"].restart == Restart(policy="never")
    assert spec.containers["b"].links == (Link("a"),)
    assert spec.containers["c"].links == ()


def test_a_root_of_its_own_replaces_the_default_one() -> None:
    spec = app("[defaults]\nimage = 'x'\n[containers.a]\nrootfs = '/'\n")
    assert (spec.containers["a"].image, spec.containers["a"].rootfs) == (None, "/")


def test_a_job_with_a_restart_table_is_still_never_restarted() -> None:
    with pytest.raises(AppFileError) as error:
        app(f"{A}kind = 'job'\nrestart = {{ delay = '1s' }}\n")
    assert 'containers.a.restart.delay: has no effect with restart.policy = "never"' in str(error.value)


def test_variables_come_from_the_environment_then_from_dot_env(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=file\nB=file\nC=${B}!\n")
    (tmp_path / "shop.toml").write_text(
        f"{A}command = ['${{A}}', '${{B}}', '${{C}}', '${{D:-default}}', '$${{A}}', '$A']\n"
    )
    spec = read(tmp_path / "shop.toml", {"A": "environment"})
    assert spec.containers["a"].command == ("environment", "file", "file!", "default", "${A}", "$A")


def test_the_process_environment_is_the_usual_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRECHE_TEST_VARIABLE", "set")
    (tmp_path / "shop.toml").write_text(f"{A}hostname = '${{CRECHE_TEST_VARIABLE}}'\n")
    assert read(tmp_path / "shop.toml").containers["a"].hostname == "set"


def test_env_files_lie_below_env(tmp_path: Path) -> None:
    (tmp_path / "one.env").write_text("A=1\nB=1\nC=1\nD=${OUTSIDE}\n")
    (tmp_path / "two.env").write_text("B=2\nC=2\n")
    (tmp_path / "shop.toml").write_text(f"{A}env_file = ['one.env', './two.env']\nenv.C = 3\n")
    container = read(tmp_path / "shop.toml", {"OUTSIDE": "x"}).containers["a"]
    assert container.env == {"A": "1", "B": "2", "C": "3", "D": "x"}
    assert container.env_file == ()


def test_paths_are_seen_from_the_file() -> None:
    spec = app("[containers.a]\nrootfs = 'root'\nvolumes = ['./x/../y:/y', '../z:/z:ro', 'v:/v', '/w:/w']\n")
    container = spec.containers["a"]
    assert (container.rootfs, spec.file) == ("/somewhere/root", Path("/somewhere/shop.toml"))
    assert container.volumes == (
        Mount("bind", "/somewhere/y", "/y"),
        Mount("bind", "/z", "/z", read_only=True),
        Mount("volume", "v", "/v"),
        Mount("bind", "/w", "/w"),
    )


@pytest.mark.parametrize("file", ["supported.toml", "interpolated.toml"])
def test_valid_files(file: str) -> None:
    assert read(VALID / file, {}).containers


def test_a_missing_file_says_so(tmp_path: Path) -> None:
    with pytest.raises(AppFileError, match=r"no\.toml: .*no\.toml cannot be read: No such file or directory"):
        read(tmp_path / "no.toml")


def test_a_file_that_is_no_text_says_where(tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_bytes(b"a = 1\nb = '\xff'\n")
    with pytest.raises(AppFileError, match=r"x\.toml:2: .* is not UTF-8 text"):
        read(tmp_path / "x.toml")


@pytest.mark.parametrize(
    "text",
    [
        "a = " + "[" * 100_000,
        "a = " + "9" * 10_000,
        ".".join("a" * 5_000) + " = 1",
        "a = '" + "${A:-" * 2_000 + "}" * 2_000 + "'",
    ],
)
def test_a_hostile_text_is_a_problem_like_any_other(text: str) -> None:
    with pytest.raises(AppFileError, match="TOML"):
        app(text)


def test_a_broken_dot_env_names_its_own_line(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("A=1\n???\n")
    (tmp_path / "shop.toml").write_text(A)
    with pytest.raises(AppFileError, match=r"\.env:2: must be NAME=value"):
        read(tmp_path / "shop.toml")


def test_a_broken_env_file_names_key_and_line(tmp_path: Path) -> None:
    (tmp_path / "x.env").write_text("A=1\n???\n")
    (tmp_path / "shop.toml").write_text(f"{A}env_file = 'x.env'\n")
    with pytest.raises(
        AppFileError, match=r"shop\.toml:3: containers\.a\.env_file\[0\]: .*x\.env:2: must be NAME=value"
    ):
        read(tmp_path / "shop.toml")


def test_an_app_built_in_code_is_completed_like_a_file(tmp_path: Path) -> None:
    (tmp_path / "x.env").write_text("A=1\n")
    spec = AppSpec(name="x", containers=[Container(name="a", rootfs="root", env_file=["x.env"], volumes=["./v:/v"])])
    container = complete(spec, tmp_path, {}).containers["a"]
    assert (container.rootfs, container.env, container.env_file) == (f"{tmp_path}/root", {"A": "1"}, ())
    assert container.volumes == (Mount("bind", f"{tmp_path}/v", "/v"),)


def test_an_app_built_in_code_is_checked_like_a_file(tmp_path: Path) -> None:
    spec = AppSpec(name="x", containers=[Container(name="a", rootfs="/", links=["b"]), Container(name="c", image="x")])
    with pytest.raises(AppFileError) as error:
        complete(spec, tmp_path, {})
    assert str(error.value).splitlines() == [
        'containers.a.links[0]: there is no container "b"',
        "containers.c.image: images are not yet supported; use rootfs",
    ]
