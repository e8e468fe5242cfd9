"""A small file of the kernel's as text. Without pathlib: what the launcher does not import, it does not weigh."""

import os


def read(path: str, errors: str = "strict") -> str:
    """Return a file's whole text; `errors` as bytes.decode has it. Raises OSError with the path."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts: list[bytes] = []
        while part := os.read(descriptor, 65536):
            parts.append(part)
    except OSError as error:
        raise OSError(error.errno, error.strerror, path) from error
    finally:
        os.close(descriptor)
    return b"".join(parts).decode(errors=errors)
