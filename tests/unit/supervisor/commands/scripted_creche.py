"""The whole command line as a process, over the scripted machine instead of a kernel (run by test_up.py)."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[4]))

import supervisor.app
from supervisor.machine import StartError
from tests.unit.supervisor.scripted import Life, Scripted

LIVES = {
    "crash": [Life(lasts=0.0, code=1)],
    "missing": [Life(start_error=StartError("missing", "exec", "/bin/nope is not there", exit_code=127))],
    "stubborn": [Life(ignores=(15,))],
}


class Machine(Scripted):
    async def establish(self, containers):
        if os.environ.get("SCRIPTED_BROKEN"):
            raise StartError("shop", "establish", "the subnet is taken", advice="choose another one")
        if os.environ.get("SCRIPTED_DIES"):
            os._exit(9)
        await super().establish(containers)


if __name__ == "__main__":
    os.geteuid = lambda: 0
    plain = supervisor.app.App.__init__
    supervisor.app.App.__init__ = lambda self, *args, **keys: plain(self, *args, **{**keys, "machine": Machine(LIVES)})
    from supervisor.commands.main import main

    main()
