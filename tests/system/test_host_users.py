"""Other users of the host: what a container's root leaves in a volume is out of their reach."""

import shutil
import subprocess
from pathlib import Path

from tests.system.driver import Creche

NOBODY = 65534


def as_nobody(program: Path) -> str | None:
    """Run a program as nobody; return its effective user id, None where nobody cannot even get at it."""
    try:
        done = subprocess.run(
            [program, "-u"], user=NOBODY, group=NOBODY, extra_groups=[], capture_output=True, check=True
        )
    except PermissionError:
        return None
    return done.stdout.decode().strip()


def test_a_setuid_file_in_a_volume_makes_nobody_root(creche: Creche) -> None:
    """The volume's files belong to the host's root: only the way there protects from them."""
    creche.up("loot", '[containers.evil]\nrootfs = "/"\ncommand = ["sleep", "1000"]\nvolumes = ["loot:/loot"]')
    creche.directory.chmod(0o755)  # whoever made the root's parents decided about them; creche is below
    planted = creche.root / "volumes/loot/loot/id"
    shutil.copy("/usr/bin/id", planted)
    planted.chmod(0o4755)
    assert as_nobody(planted) is None
    for private in (creche.root, creche.root / "volumes"):  # the control: were the way open, that file would do it
        private.chmod(0o755)
    assert as_nobody(planted) == "0"
