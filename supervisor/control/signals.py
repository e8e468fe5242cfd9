"""A signal as people write it."""

import re
import signal


def signal_number(text: str) -> int:
    """`KILL`, `sigkill`, `9` → 9; raises ValueError that says what is allowed."""
    if re.fullmatch("[0-9]{1,2}", text) and 1 <= int(text) <= 64:
        return int(text)
    name = text.upper() if text.upper().startswith("SIG") else f"SIG{text.upper()}"
    if name not in signal.Signals.__members__:
        raise ValueError(f"no signal is called {text[:40]!r}; use a name as TERM or SIGTERM, or a number from 1 to 64")
    return int(signal.Signals[name])
