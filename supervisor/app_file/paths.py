"""The host's paths of an app, made absolute. Pure: nothing is looked at."""

import os.path
from pathlib import Path

import attrs

from .spec import AppSpec, Container


def absolute(spec: AppSpec, directory: Path) -> AppSpec:
    """Return the app with every relative path of the host seen from `directory`, which is absolute."""
    return attrs.evolve(
        spec,
        containers=[_container(container, directory) for container in spec.containers.values()],
        secrets={
            name: secret if secret.file is None else attrs.evolve(secret, file=join(directory, secret.file))
            for name, secret in spec.secrets.items()
        },
    )


def join(directory: Path, path: str) -> str:
    """Return an absolute path without `.`; `..` is resolved by name, as Compose does."""
    return os.path.normpath(directory / path)


def _container(container: Container, directory: Path) -> Container:
    security = container.security
    if security.seccomp not in ("default", "unconfined"):
        security = attrs.evolve(security, seccomp=join(directory, security.seccomp))
    build = container.build
    return attrs.evolve(
        container,
        rootfs=None if container.rootfs is None else join(directory, container.rootfs),
        build=None if build is None else attrs.evolve(build, context=join(directory, build.context)),
        volumes=[
            attrs.evolve(mount, source=join(directory, mount.source))
            if mount.kind == "bind" and mount.source is not None
            else mount
            for mount in container.volumes
        ],
        env_file=[join(directory, path) for path in container.env_file],
        watch=[attrs.evolve(watch, path=join(directory, watch.path)) for watch in container.watch],
        security=security,
    )
