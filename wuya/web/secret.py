"""The service's key: 32 random bytes in <workspace>/service.key, which only its owner may read."""

import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path

from wuya.errors import ConfigError
from wuya.files import make_folder, write_errors

NAME = "service.key"


def has_secret(workspace: Path, environment: Mapping[str, str]) -> bool:
    """Whether there is a key already; `service_secret` makes one where there is none."""
    return bool(environment.get("WUYA_SECRET")) or (workspace / NAME).exists()


def service_secret(workspace: Path, environment: Mapping[str, str]) -> bytes:
    """$WUYA_SECRET (at least 32 characters), else the key file, which is made on the first start."""
    given = environment.get("WUYA_SECRET", "")
    if given:
        if len(given) < 32:
            raise ConfigError("WUYA_SECRET is too short", found=f"{len(given)} characters", hint="use 32 or more")
        return given.encode()
    path = make_folder(workspace) / NAME
    with write_errors(path):
        try:
            with os.fdopen(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "wb") as file:
                file.write(secrets.token_hex(32).encode() + b"\n")
        except FileExistsError:
            pass
        found = path.read_bytes().strip()
    if len(found) < 32:
        raise ConfigError(f"`{path}` is damaged", found=f"{len(found)} bytes", hint="put the old file back")
    if stat.S_IMODE(path.stat().st_mode) & 0o077:
        raise ConfigError(f"others may read `{path}`", hint=f"`chmod 600 {path}`")
    return found
