"""The plugin that forbids skips, in a pytest of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parents[2]


def outcome(directory: Path, text: str) -> tuple[int, str]:
    """Exit status and output of pytest with the plugin over one test file."""
    (directory / "test_it.py").write_text(f"import pytest\n{text}\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "tests.no_skips", "-p", "no:cacheprovider", "--rootdir"]
    done = subprocess.run(
        [*command, str(directory), "-c", "/dev/null", str(directory)], cwd=HERE, capture_output=True, text=True
    )
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    "text",
    [
        "def test_it(): pytest.skip('no kernel')",
        "@pytest.mark.skip(reason='no kernel')\ndef test_it(): pass",
        "pytest.skip('no kernel', allow_module_level=True)",
    ],
    ids=["call", "mark", "module"],
)
def test_a_skip_fails_and_says_why(tmp_path: Path, text: str) -> None:
    code, out = outcome(tmp_path, text)
    assert code != 0
    assert "was skipped: " in out and "no kernel" in out


def test_an_expected_failure_stays_one(tmp_path: Path) -> None:
    code, out = outcome(tmp_path, "@pytest.mark.xfail\ndef test_it(): assert False")
    assert (code, "1 xfailed" in out) == (0, True)
