"""What a hub's refusal means, in one sentence with the page to visit or the command that helps."""

from __future__ import annotations

from hanlin.config.references import ENDPOINT_VARIABLES, HUB_ADDRESSES, HubName
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.pipeline.hubs.session import Endpoint, HubBreakError, HubStatusError

_LOGIN = {"hf": "HF_TOKEN", "ms": "MODELSCOPE_API_TOKEN"}
_PAGES = {
    ("hf", "model"): "{url}/{name}",
    ("hf", "dataset"): "{url}/datasets/{name}",
    ("ms", "model"): "{url}/models/{name}",
    ("ms", "dataset"): "{url}/datasets/{name}",
}


def page_of(name: HubName, kind: str, endpoint: Endpoint) -> str:
    """The address of a repository's page: what is gated is opened on the hub's own page, also behind a mirror."""
    own = HUB_ADDRESSES[name.hub]
    return _PAGES[name.hub, kind].format(url=own, name=name.name)


def is_absent(error: HubStatusError) -> bool:
    """Whether the hub says that there is no such repository; it says the same of private ones."""
    if error.code == "RepoNotFound":
        return True
    return error.status == 404 and error.code not in ("RevisionNotFound", "EntryNotFound", "GatedRepo")


def explain_status(error: HubStatusError, name: HubName, kind: str, endpoint: Endpoint, has_token: bool) -> UserError:
    """What an HTTP error of a hub means.

    Args:
        error: The error.
        name: The repository.
        kind: `model` or `dataset`.
        endpoint: Where it was asked for.
        has_token: Whether the request carried a token.
    """
    where, variable, page = str(name), _LOGIN[name.hub], page_of(name, kind, endpoint)
    if error.status == 429:
        if error.wait:
            what = tr("the hub has had too many requests; it asks to wait {seconds:g} s", seconds=error.wait)
        else:
            what = tr("the hub has had too many requests")
        hint = tr(
            "run it again later: what was fetched is kept; with {variable} set, hubs allow more", variable=variable
        )
        return UserError(what, where, hint, "rate_limited")
    if error.code == "RevisionNotFound":
        hint = tr("see its revisions on {page}", page=page)
        return UserError(tr("it has no revision {revision}", revision=name.revision), where, hint, "not_found")
    if error.code == "GatedRepo" or (name.hub == "ms" and error.status == 403):
        what = tr("its owner lets in only those who accepted the terms")
        if has_token:
            hint = tr("accept them on {page} with the account of your token, and wait until you are let in", page=page)
        else:
            hint = tr("accept them on {page}, then set {variable} to an access token", page=page, variable=variable)
        return UserError(what, where, hint, "gated")
    if is_absent(error):
        what = tr("the hub knows no such model or data set, or it is private")
        hint = tr("check the name; a private one needs {variable}", variable=variable)
        return UserError(what, where, hint, "not_found")
    if error.status in (401, 403):
        what = tr("the hub refuses access (HTTP {status})", status=error.status)
        if has_token:
            hint = tr("check that the token in {variable} or of the login is valid and may read it", variable=variable)
        elif not endpoint.may_have_token:
            hint = tr(
                "no token was sent: an address that a recipe names, or plain HTTP, gets none; set {variable}",
                variable=ENDPOINT_VARIABLES[name.hub],
            )
        else:
            hint = tr("set {variable} to an access token; the page is {page}", variable=variable, page=page)
        return UserError(what, where, hint, "gated")
    what = tr("the hub answers with an error: HTTP {status} {message}", status=error.status, message=error.message)
    return UserError(what.rstrip(), where, tr("run it again later: what was fetched is kept"), "unreachable")


def explain_break(error: HubBreakError, name: HubName, endpoint: Endpoint) -> UserError:
    """What to say of a hub that cannot be reached or breaks off."""
    what = tr("{address} cannot be reached or broke off: {reason}", address=endpoint.url, reason=error)
    if name.hub == "hf" and endpoint.is_default:
        hint = tr("set HF_ENDPOINT to a mirror, or take it from ModelScope (ms:owner/name); what was fetched is kept")
    else:
        hint = tr("check the network and {variable}; what was fetched is kept", variable=ENDPOINT_VARIABLES[name.hub])
    return UserError(what, str(name), hint, "unreachable")
