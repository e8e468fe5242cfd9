"""Descriptors and working directories that lead out: CVE-2024-21626 and its like."""

from pathlib import Path

import pytest

from tests.attack.attacking import NO_STATIC_INIT, Attacking, canary, python
from tests.kernel.runtime.launching import Refused

FIND = """
for number in range(256):
    for way in ("", "/..", "/../../../../../../.."):
        try:
            print("FOUND", number, open(f"/proc/self/fd/{number}{way}{secret}").read())
        except OSError:
            pass
print("descriptors", *sorted(os.listdir("/proc/self/fd"), key=int))
"""
INITS = {"no init": (False, ""), "static init": (True, ""), "own init": (True, NO_STATIC_INIT)}


@pytest.mark.parametrize("kind", INITS)
def test_no_descriptor_leads_out(kind: str, tmp_path: Path) -> None:
    """Layers, namespaces, pipes and plans are open until exec. The weakened launcher closes nothing."""
    init, boot = INITS[kind]
    find = python(FIND, secret=str(canary().place / "secret"))
    with Attacking(tmp_path / "real", boot=boot) as real:
        real.hold()
        assert real.attack(1, find, init=init) == "descriptors 0 1 2 3\n"
    with Attacking(tmp_path / "weak", "descriptors kept", boot=boot) as weak:
        weak.hold()
        assert canary().secret in weak.attack(1, find, init=init)


def ran_in_descriptors(launcher: Attacking, init: bool) -> str:
    """Start in each descriptor there may be; what those that ran could read. A weak one needs one success."""
    away = str(canary().place / "secret")
    launcher.hold()
    for number in range(3, 32):

        def change(config: dict[str, object], number: int = number) -> None:
            config["process"]["cwd"] = f"/proc/self/fd/{number}"  # pyright: ignore[reportIndexIssue]

        try:
            args = ("/bin/cat", f".{away}", f"../../../../../..{away}")
            launcher.begin(number, args, change=change, init=init)
        except Refused as refusal:
            assert "working directory" in refusal.fields["operation"]
            continue
        launcher.exited("web", number)
        if launcher.weak and canary().secret in launcher.told():
            break
    return launcher.told()


@pytest.mark.parametrize("kind", INITS)
def test_no_working_directory_is_a_leaked_descriptor(kind: str, tmp_path: Path) -> None:
    """The weakened launcher does not look whether the directory lies inside the root."""
    init, boot = INITS[kind]
    with Attacking(tmp_path / "real", boot=boot) as real:
        assert canary().secret not in ran_in_descriptors(real, init)
    with Attacking(tmp_path / "weak", "working directory unchecked", boot=boot) as weak:
        assert canary().secret in ran_in_descriptors(weak, init)
