"""The front door: a foreign package of one of creche's names stops the command with one clear sentence."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]


def knock(first_on_the_path: Path) -> subprocess.CompletedProcess[str]:
    """Run the command's entry point as the installed script does, with a directory before everything else."""
    path = os.pathsep.join([str(first_on_the_path), str(REPOSITORY)])
    return subprocess.run(
        [sys.executable, "-P", "-c", "import creche, sys; sys.argv = ['creche', 'version']; creche.main()"],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def test_its_own_packages_let_it_in(tmp_path: Path) -> None:
    done = knock(tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("creche")


@pytest.mark.parametrize("name", ["supervisor", "runtime", "net"])
def test_a_foreign_package_is_named_with_its_place(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "__init__.py").write_text("")
    done = knock(tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.count("\n") == 1
    assert f"`{name}` found at {tmp_path / name / '__init__.py'} is not creche's" in done.stderr
    assert ("supervisord" in done.stderr) == (name == "supervisor")


def test_a_package_that_cannot_be_imported_is_named(tmp_path: Path) -> None:
    (tmp_path / "supervisor").mkdir()
    (tmp_path / "supervisor" / "__init__.py").write_text("import nothing_of_that_name\n")
    done = knock(tmp_path)
    assert done.returncode == 1
    assert "`supervisor` cannot be imported (No module named 'nothing_of_that_name')" in done.stderr
