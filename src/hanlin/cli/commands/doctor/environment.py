"""Language, encoding, ports and hubs: what the environment of this shell decides."""

from __future__ import annotations

import errno
import locale
import os
import socket
import sys
from collections.abc import Iterator
from contextlib import suppress

from hanlin.cli.commands.doctor.check import Check
from hanlin.core.errors import UserError
from hanlin.core.i18n import language, tr

PORTS = (8000, 11434)
"""The port of `hanlin serve`, and that of Ollama, which it can stand in for."""
_SECONDS = 8.0


def check_environment() -> list[Check]:
    """Encoding, language, ports, proxies, and the addresses of hubs; not the latter if a package that asks them is
    missing, which the list of packages tells.
    """
    checks = [_encoding(), *(_port(port) for port in PORTS)]
    with suppress(ModuleNotFoundError):
        checks += [*_proxies(), *_hubs()]
    return checks


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


def _proxies() -> Iterator[Check]:
    from hanlin.pipeline.hubs.session import find_proxies

    for scheme, host in find_proxies().items():
        yield Check("environment", tr("proxy"), f"{scheme}: {host}", True, optional=True)


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
    """Whether the hubs can be reached, as `hanlin pull` would reach them, and how fast they answer."""
    try:
        return list(_asked_hubs())
    except ModuleNotFoundError as error:
        what = tr("not asked: the package {name} is missing", name=error.name)
        return [Check("network", "hf: ms:", what, False, tr("install it first"))]


def _asked_hubs() -> Iterator[Check]:
    from hanlin.config.references import ENDPOINT_VARIABLES
    from hanlin.pipeline.hubs.session import Endpoint, HubBreakError, HubSession, find_endpoint

    for hub, variable in ENDPOINT_VARIABLES.items():
        try:
            url = find_endpoint(hub).url
        except UserError:
            continue  # told above
        session = HubSession(Endpoint(hub, url, may_have_token=False), lambda sentence: None, _SECONDS)
        try:
            found = f"{url} · {1000 * session.measure_answer():.0f} ms"
            yield Check("network", f"{hub}:", found, True, optional=True)
        except HubBreakError as error:
            other = "ms:owner/name" if hub == "hf" else "hf:owner/name"
            hint = tr("export {variable}=ADDRESS OF A MIRROR, or use {other}", variable=variable, other=other)
            yield Check("network", f"{hub}:", f"{url} · {error}", False, hint)
        finally:
            session.close()
