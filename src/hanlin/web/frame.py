"""What every view of the page stands in: who may do what, where files may lie, and how a template becomes a page."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import jinja2
from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse
from markupsafe import Markup

from hanlin.core.errors import UserError
from hanlin.core.i18n import Language, language, tr
from hanlin.core.version import __version__
from hanlin.serve.auth import AccessPolicy
from hanlin.serve.errors import ApiError
from hanlin.serve.registry import ModelRegistry
from hanlin.web.access import START_TOKEN_HEADER, Sessions, dump_for_html, equal_secrets, name_session_cookie
from hanlin.web.texts import LANGUAGE_COOKIE, LOCALE_OF, translate_scripts

TEMPLATES = Path(__file__).parent / "templates"
FRAME_SCRIPTS = ("frame/page.js",)
"""Scripts of every page; their messages go with it."""
THEME_COOKIE = "hanlin_theme"
OWN_FOLDER = "ui"
"""The folder below the page's folder in which the page keeps what it writes itself."""


@dataclass(frozen=True, slots=True)
class View:
    """A part of the page, such as the chat: an entry of the navigation and the routes behind it.

    Attributes:
        name: Its path below `/ui/` and the folder of its templates and scripts.
        title: Its entry in the navigation, marked for the catalog by `mark`.
        make_router: Makes its routes, whose paths begin with `/ui/<name>`.
    """

    name: str
    title: str
    make_router: Callable[[Frame], APIRouter]


@dataclass(slots=True)
class Frame:
    """What a view gets.

    Attributes:
        folder: The only folder, with what is below it, whose files a request may name.
        policy: Who may use the server.
        models: The models that the server has by now; more may come while it runs.
        base_path: Path in front of every route behind a reverse proxy.
        views: What the navigation shows, in this order.
        fixed_language: The language of a reader who has not switched; None: that of the browser.
        start_token: What the terminal printed; what starts work must carry it.
        page_token: What every request that changes something carries, read from the page itself.
        services: Objects that views share, such as the loader of models, by name.
        address: Where the server is, with the base path; its session cookie is named after it.
    """

    folder: Path
    policy: AccessPolicy = field(default_factory=AccessPolicy)
    models: ModelRegistry = field(default_factory=lambda: ModelRegistry(()))
    base_path: str = ""
    views: tuple[View, ...] = ()
    fixed_language: Language | None = None
    start_token: str = field(default_factory=lambda: secrets.token_urlsafe(12))
    page_token: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    sessions: Sessions = field(default_factory=Sessions)
    services: dict[str, Any] = field(default_factory=dict)
    default_language: Language = field(default_factory=language)
    address: str = ""
    _templates: jinja2.Environment | None = None

    def __post_init__(self) -> None:
        self.folder = self.folder.expanduser().resolve()

    @property
    def own_folder(self) -> Path:
        """Where the page keeps what it writes itself, such as conversations; made when it is first asked for."""
        folder = self.folder / OWN_FOLDER
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @property
    def session_cookie(self) -> str:
        """The name of the cookie that holds a browser's session."""
        return name_session_cookie(self.address)

    def url(self, path: str) -> str:
        """The address of a path such as `/ui/chat`, behind the base path."""
        return quote(self.base_path) + path

    def resolve(self, name: str) -> Path:
        """The path of a file or folder that a request names, below the page's folder.

        Args:
            name: Relative to the folder, or absolute.

        Raises:
            UserError: It leads out of the folder, by `..`, by a link, or since it is absolute; or it is no path at all.
                Whether something is there outside is not told.
        """
        what = tr("outside of the page's folder")
        if "\0" in name:
            raise UserError(tr("not a path"), name.replace("\0", "?"))
        try:
            path = (self.folder / name).resolve()
            with suppress(FileNotFoundError, NotADirectoryError):
                path.lstat()
        except (OSError, RuntimeError, ValueError) as error:  # a loop of links, a name that is too long
            raise UserError(what, name) from error
        if not path.is_relative_to(self.folder):
            raise UserError(what, name, tr("start `hanlin ui` in a folder above it"))
        return path

    def require_start_token(self, request: Request) -> None:
        """A dependency of routes that start or stop work: `dependencies=[Depends(frame.require_start_token)]`.

        Raises:
            ApiError: 403 with the code `start_token`, upon which `request` of `frame/page.js` asks the reader for it.
        """
        if not equal_secrets(request.headers.get(START_TOKEN_HEADER), self.start_token):
            what = tr("this starts work: enter the token that the terminal printed")
            raise ApiError(403, what, code="start_token")

    def render(
        self,
        request: Request,
        template: str,
        values: Mapping[str, Any] | None = None,
        *,
        view: str = "",
        scripts: Sequence[str] = (),
        status: int = 200,
    ) -> HTMLResponse:
        """A page, or a part of one for htmx, in the reader's language.

        Args:
            request: The request that is answered.
            template: A file below `templates/`. It extends `frame/page.html`, or is a part of a page.
            values: Its variables; what is text is escaped.
            view: The name of the view, marked in the navigation.
            scripts: Modules below `static/` that the page loads. Messages of these, `t("...")`, go with the page; name
                every script that has some, those that others import too.
            status: HTTP status.
        """
        spoken = language()
        all_scripts = (*FRAME_SCRIPTS, *scripts)
        common = {
            "lang": LOCALE_OF[spoken],
            "theme": _read_theme(request),
            "views": self.views,
            "view": view,
            "scripts": all_scripts,
            "version": __version__,
            "owner": getattr(request.state, "owner", ""),
            "page_data": Markup(
                dump_for_html(
                    {
                        "base": quote(self.base_path),
                        "token": self.page_token,
                        "language": spoken,
                        "languageCookie": LANGUAGE_COOKIE,
                        "themeCookie": THEME_COOKIE,
                        "messages": translate_scripts(all_scripts, spoken),
                    }
                )
            ),
        }
        text = self._environment.get_template(template).render(**common, **(values or {}))
        # halves of characters, which data of others may hold, have no UTF-8
        return HTMLResponse(text.encode("utf-8", "backslashreplace"), status)

    @property
    def _environment(self) -> jinja2.Environment:
        if self._templates is None:
            environment = jinja2.Environment(
                loader=jinja2.FileSystemLoader(TEMPLATES, encoding="utf-8"),
                autoescape=True,
                trim_blocks=True,
                lstrip_blocks=True,
                undefined=jinja2.StrictUndefined,
            )
            environment.globals |= {"t": _translate, "url": self.url, "dump_json": _dump_json}
            self._templates = environment
        return self._templates


def _translate(message: str, /, **values: object) -> str:
    """A message of a template; the template escapes it with its values."""
    return tr(message, **values)


def _dump_json(value: Any) -> Markup:
    """Data for a `<script type="application/json">` of a template."""
    return Markup(dump_for_html(value))


def _read_theme(request: Request) -> str:
    theme = request.cookies.get(THEME_COOKIE, "")
    return theme if theme in ("light", "dark") else ""
