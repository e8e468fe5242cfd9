"""The front door of the `creche` command: makes sure that its packages are its own, then hands over.

supervisord's distribution also installs a top-level package `supervisor`. In one environment the two overwrite each
other, so this module stands beside the packages, imports nothing of them before it has looked, and says what is wrong.
"""

import sys
from pathlib import Path


def foreign_package(*names: str) -> str | None:
    """Return a sentence about the first of these packages that is not creche's own, or None when all are."""
    for name in names:
        try:
            package = __import__(name)
        except ImportError as error:
            return f"creche: its package `{name}` cannot be imported ({error}); install creche again"
        if getattr(package, "DISTRIBUTION", None) != "creche":
            where = getattr(package, "__file__", None) or "an unknown place"
            whose = " (supervisord installs one of that name)" if name == "supervisor" else ""
            return (
                f"creche: the package `{name}` found at {where} is not creche's{whose}; "
                f"give creche a virtual environment of its own, or uninstall the other one and install creche again"
            )
    return None


def main() -> None:
    """Run the command line; exit 1 with one sentence where a foreign package stands in the way."""
    wrong = foreign_package("supervisor", "runtime", "net")
    if wrong is not None:
        print(wrong, file=sys.stderr)
        sys.exit(1)
    from supervisor.commands.main import main as run

    run()


def oci() -> None:
    """Run the OCI runtime's command line, `creche-oci`; exit 1 as `main` does."""
    wrong = foreign_package("runtime")
    if wrong is not None:
        print(wrong, file=sys.stderr)
        sys.exit(1)
    from runtime.oci.boot import main as run

    run()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    main()
