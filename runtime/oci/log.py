"""What creche-oci says: errors as runc words them, on stderr and in the file of --log, where containerd reads them."""

import json
import os
import sys
import time


class OciError(Exception):
    """A command failed; the text is one line, and `code` becomes the exit status."""

    def __init__(self, text: str, code: int = 1) -> None:
        super().__init__(text)
        self.code = code


def stamp(nanoseconds: int | None = None) -> str:
    """Return a moment (default now) as RFC 3339 has it, in UTC with nanoseconds."""
    seconds, rest = divmod(time.time_ns() if nanoseconds is None else nanoseconds, 1_000_000_000)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{rest:09d}Z"


class Log:
    """The log of one command; without a file it is stderr."""

    def __init__(self) -> None:
        self.path: str | None = None
        self.form = "text"
        self.verbose = False

    def debug(self, text: str) -> None:
        """Write a line that only --debug shows."""
        if self.verbose:
            self._line("debug", text)

    def warning(self, text: str) -> None:
        """Write a warning; where the log is a file it stands only there, as with runc."""
        self._line("warning", text)

    def fail(self, error: OciError) -> int:
        """Write the error; return the exit status that it asks for."""
        text = " ".join(str(error).split("\n"))
        self._line("error", text)
        if self.path is not None:
            sys.stderr.write(f"{text}\n")
        return error.code

    def _line(self, level: str, text: str) -> None:
        if self.form == "json":
            line = json.dumps({"level": level, "msg": text, "time": stamp()})
        else:
            line = f'time="{stamp()}" level={level} msg={json.dumps(text, ensure_ascii=False)}'
        if self.path is None:
            sys.stderr.write(f"{line}\n")
            return
        try:
            descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            sys.stderr.write(f"cannot write the log {self.path}: {error.strerror}\n{line}\n")
            return
        try:
            os.write(descriptor, f"{line}\n".encode())
        finally:
            os.close(descriptor)
