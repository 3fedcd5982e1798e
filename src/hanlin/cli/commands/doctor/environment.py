"""Language, encoding, ports and hubs: what the environment of this shell decides."""

from __future__ import annotations

import errno
import locale
import os
import socket
import sys
import time
from collections.abc import Iterator

from hanlin.cli.commands.doctor.check import Check
from hanlin.core.errors import UserError
from hanlin.core.http import ServerClient, ServerError
from hanlin.core.i18n import language, tr

PORTS = (8000, 11434)
"""The port of `hanlin serve`, and that of Ollama, which it can stand in for."""
_SECONDS = 8.0


def check_environment() -> list[Check]:
    """Encoding, language, ports, and the addresses of hubs."""
    return [_encoding(), *(_port(port) for port in PORTS), *_hubs()]


def _encoding() -> Check:
    names = {sys.getfilesystemencoding().lower(), locale.getpreferredencoding(False).lower()}
    shown = f"{' '.join(sorted(names))} · {language()}"
    ok = names <= {"utf-8", "utf8"}
    command = "set PYTHONUTF8=1" if os.name == "nt" else "export LANG=C.UTF-8"
    hint = "" if ok else tr("Chinese names of files may break: {command}", command=command)
    return Check("environment", tr("encoding and language"), shown, ok, hint, optional=True)


def _port(port: int) -> Check:
    name = tr("port {port}", port=port)
    try:
        with socket.create_server(("127.0.0.1", port)):
            return Check("environment", name, tr("free"), True, optional=True)
    except OSError as error:
        if error.errno == errno.EADDRINUSE:
            hint = tr("for serving on another: hanlin serve MODEL --port {other}", other=port + 1)
            return Check("environment", name, tr("in use"), False, hint, optional=True)
        return Check("environment", name, error.strerror or type(error).__name__, False, "", optional=True)


def _hubs() -> Iterator[Check]:
    from hanlin.config.references import ENDPOINT_VARIABLES
    from hanlin.pipeline.hubs.session import OFFLINE_VARIABLES, find_endpoint, is_offline

    for hub, variable in ENDPOINT_VARIABLES.items():
        try:
            endpoint = find_endpoint(hub)
        except UserError as error:
            yield Check("environment", f"{hub}:", f"{variable}: {error.what}", False, error.hint or "")
            continue
        yield Check("environment", f"{hub}:", endpoint.url, True, optional=True)
    if is_offline():
        hint = tr("unset {variable}", variable=OFFLINE_VARIABLES[0])
        yield Check("environment", tr("offline"), tr("hubs are not asked"), False, hint, optional=True)


def check_network() -> list[Check]:
    """Whether the hubs can be reached, and how fast they answer."""
    from hanlin.config.references import ENDPOINT_VARIABLES
    from hanlin.pipeline.hubs.session import find_endpoint

    checks = []
    for hub, variable in ENDPOINT_VARIABLES.items():
        try:
            url = find_endpoint(hub).url
        except UserError:
            continue  # told above
        client = ServerClient(url, seconds=_SECONDS)
        started = time.monotonic()
        try:
            with client.stream("GET", "/"):
                found = f"{url} · {1000 * (time.monotonic() - started):.0f} ms"
            checks.append(Check("network", f"{hub}:", found, True, optional=True))
        except UserError:  # it redirects: it is there
            found = f"{url} · {1000 * (time.monotonic() - started):.0f} ms"
            checks.append(Check("network", f"{hub}:", found, True, optional=True))
        except ServerError as error:
            other = "ms:owner/name" if hub == "hf" else "hf:owner/name"
            hint = tr("export {variable}=ADDRESS OF A MIRROR, or use {other}", variable=variable, other=other)
            checks.append(Check("network", f"{hub}:", f"{url} · {error}", False, hint))
        finally:
            client.close()
    return checks
