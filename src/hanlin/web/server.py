"""`hanlin ui`: the page over a server that may begin without a model; and the page on the server of `hanlin serve`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from hanlin.core.errors import UserError, suggest_path
from hanlin.core.i18n import Language, tr
from hanlin.serve.server import Extension, serve
from hanlin.web.app import add_page
from hanlin.web.frame import Frame


def extend_with_page(folder: Path, fixed_language: Language | None = None) -> Callable[[Extension], Sequence[str]]:
    """What adds the page to a server (`extend` of `serve.server.serve`), and says where it is.

    Args:
        folder: The only folder whose files the page shows; what the page itself writes is in `ui/` below it.
        fixed_language: The language of readers who have not switched; None: that of their browser.

    Raises:
        UserError: There is no such folder.
    """
    check_folder(folder)

    def extend(extension: Extension) -> list[str]:
        frame = Frame(
            folder,
            extension.policy,
            extension.models,
            extension.base_path,
            fixed_language=fixed_language,
            services={"loader": extension.loader},
            address=extension.url,
        )
        add_page(extension.app, frame)
        url = f"{extension.url}/ui/#token={frame.start_token}"
        return [
            tr("the page is at {url}", url=url),
            tr("token for what starts work from the page: {token}", token=frame.start_token),
        ]

    return extend


def serve_page(
    folder: Path, models: Sequence[str] = (), *, fixed_language: Language | None = None, **options: Any
) -> None:
    """Serve the page until interrupted; models are loaded meanwhile.

    Args:
        folder: See `extend_with_page`.
        models: As in `serve.server.serve`; more can be loaded from the page.
        fixed_language: See `extend_with_page`.
        **options: As in `serve.server.serve`, `adapters` too.

    Raises:
        UserError: There is no such folder, or as `serve.server.serve` raises it.
    """
    extend = extend_with_page(folder, fixed_language)
    serve(models, extend=extend, in_background=True, **options)


def check_folder(folder: Path) -> None:
    """Raise UserError if a folder is none."""
    if not folder.expanduser().is_dir():
        raise UserError(tr("there is no such folder"), folder, suggest_path(folder.expanduser()), "not_found")
