"""Pure: with which record a container goes on under the next supervisor."""

import hashlib
import json

import attrs

from supervisor.app_file.spec import Container, container_form
from supervisor.journal import Record


def spec_id(container: Container) -> str:
    """Return a hash of the container's part of the app file."""
    shown = json.dumps(container_form(container.name).show(container), sort_keys=True)
    return hashlib.sha256(shown.encode()).hexdigest()


def carried_over(record: Record, container: Container, identity: str, boot: str) -> Record:
    """Return with which record a container goes on that has no living run.

    One that was stopped by request stays so, unless its policy is always (Docker's rule). After a boot, or when its
    part of the file changed, it starts anew; so does one that was stopped because its supervisor ended.
    """
    stays_stopped = record.desired == "stopped" and container.restart.policy != "always" and record.spec == identity
    anew = Record(record.name, identity, boot, run=record.run, restarts=record.restarts, address=record.address)
    if record.state == "stopped" or record.boot != boot or record.spec != identity:
        return attrs.evolve(anew, state="stopped", desired="stopped") if stays_stopped else anew
    return record
