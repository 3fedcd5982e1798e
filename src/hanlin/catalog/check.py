"""Whether the hub names, pins and links of the catalog still lead somewhere. This alone needs a network.

Hugging Face and ModelScope are asked through their interface (`HF_ENDPOINT` and `MODELSCOPE_ENDPOINT` name a mirror);
the other hubs have none, so that only their pages can be asked for, which also answer for names that do not exist.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Literal

from hanlin.catalog.entries import licenses
from hanlin.catalog.schema import CatalogEntry, DataSet, Hub
from hanlin.config.references import ENDPOINT_VARIABLES, HUB_ADDRESSES
from hanlin.core.errors import UserError
from hanlin.core.http.address import parse_address
from hanlin.core.http.client import RedirectError, ServerClient, ServerError
from hanlin.core.i18n import tr

State = Literal["ok", "gated", "page", "moved", "missing", "unreachable"]
ADDRESSES: dict[Hub, str] = {
    "hf": HUB_ADDRESSES["hf"],
    "ms": HUB_ADDRESSES["ms"],
    "wisemodel": "https://wisemodel.cn",
    "opencsg": "https://opencsg.com",
}
ONLY_PAGES: tuple[Hub, ...] = ("wisemodel", "opencsg")
CONNECTIONS = 8
SECONDS = 20.0


@dataclass(frozen=True, slots=True)
class Link:
    """Something to ask for: the entry and field that hold it, what it is called there, and the address to ask."""

    entry: str
    field: str
    name: str
    url: str


@dataclass(frozen=True, slots=True)
class LinkResult:
    """What came of a link: its state, and what was said."""

    link: Link
    state: State
    note: str = ""


def links_of(entry: CatalogEntry) -> list[Link]:
    """The links of an entry: each hub name, the pin, the homepage, the pages on which its figures were read."""
    sort = "datasets" if isinstance(entry, DataSet) else "models"
    links = [Link(entry.id, hub, name, _hub_url(hub, sort, name)) for hub, name in entry.hubs.items()]
    for form, target in getattr(entry, "variants", {}).items():
        other, _, name = target.partition(":")
        url = _hub_url(next(hub for hub in ADDRESSES if hub == other), sort, name)
        links.append(Link(entry.id, f"variants.{form}", name, url))
    if entry.revision:
        url = f"{_hub_url('hf', sort, entry.hubs['hf'])}/revision/{entry.revision}"
        links.append(Link(entry.id, "revision", entry.revision, url))
    if entry.homepage:
        links.append(Link(entry.id, "homepage", entry.homepage, entry.homepage))
    links += [Link(entry.id, f"sources.{field}", url, url) for field, url in entry.sources.items()]
    return links


def license_links() -> list[Link]:
    """The addresses of the licenses' texts."""
    return [Link(license.id, "license", license.name, license.url) for license in licenses().values() if license.url]


def _hub_url(hub: Hub, sort: str, name: str) -> str:
    variable = ENDPOINT_VARIABLES.get(hub, "")
    address = os.environ.get(variable, "").strip().rstrip("/") or ADDRESSES[hub]
    if "://" not in address:
        address = f"https://{address}"
    path = {"hf": "/api", "ms": "/api/v1"}.get(hub, "")
    return f"{address}{path}/{sort}/{name}"


def check_links(
    links: Sequence[Link], on_result: Callable[[LinkResult], None] = lambda result: None
) -> list[LinkResult]:
    """Ask for every link, several at once.

    Args:
        links: What to ask for; an address is asked once.
        on_result: Called with each result as it comes.

    Returns:
        The results, in the order of the links.

    Raises:
        UserError: Nothing could be reached.
    """
    with ThreadPoolExecutor(CONNECTIONS) as pool:
        states = dict(zip(urls := list({link.url: None for link in links}), pool.map(_ask, urls), strict=True))
    results = [LinkResult(link, *_judge(link, states[link.url])) for link in links]
    for result in results:
        on_result(result)
    if results and all(result.state == "unreachable" for result in results):
        what = tr("none of {count} addresses could be reached: {why}", count=len(results), why=results[0].note)
        hint = tr("this command needs a network; HF_ENDPOINT names a mirror, HANLIN_PROXY a proxy")
        raise UserError(what, "catalog check", hint, "unreachable")
    return results


def _judge(link: Link, answer: tuple[State, str]) -> tuple[State, str]:
    state, note = answer
    only_pages = link.field in ONLY_PAGES or link.url.startswith(tuple(ADDRESSES[hub] for hub in ONLY_PAGES))
    if state == "ok" and only_pages:
        return "page", tr("a page answers; this hub cannot be asked whether the name exists")
    return state, note


def _ask(url: str) -> tuple[State, str]:
    page, _, _ = url.partition("#")
    page, mark, query = page.partition("?")  # which no address of a server has
    address, path = parse_address(page)
    client = ServerClient(address, seconds=SECONDS)
    try:
        reply = client.open("GET", f"{path or '/'}{mark}{query}")
        reply.close()
        status = reply.status
    except RedirectError as error:
        return "moved", error.what
    except ServerError as error:
        return "unreachable", str(error)
    finally:
        client.close()
    if status < 300:
        return "ok", ""
    if status in (401, 404, 410):  # Hugging Face answers 401 for names that do not exist
        return "missing", f"HTTP {status}"
    return ("gated" if status == 403 else "unreachable"), f"HTTP {status}"


def failures(results: Iterable[LinkResult]) -> list[LinkResult]:
    """The results that somebody must look at."""
    return [result for result in results if result.state in ("moved", "missing", "unreachable")]
