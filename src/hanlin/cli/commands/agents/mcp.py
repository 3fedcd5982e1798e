"""`hanlin mcp`: the tools of `tools.py` over standard input and output, by the official SDK of the protocol."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from hanlin.cli.commands.agents import tools
from hanlin.cli.commands.agents.tools import Workspace
from hanlin.cli.help import command, new_app
from hanlin.core.errors import UserError
from hanlin.core.files import format_json
from hanlin.core.i18n import tr
from hanlin.core.version import __version__

app = new_app()
INSTRUCTIONS = (
    "Hanlin makes Llama models good at Chinese by recipes (YAML): a graph of stages, each of which makes an artifact. "
    "{rights} Call plan before anybody runs a recipe, and take figures from report. Paths are relative to "
    "the folder of the server. Errors are JSON with a stable code."
)
READS = "All tools only read."
EVALUATES = "All tools but evaluate only read; evaluate computes and writes below artifacts/."


@command(
    app,
    tr(
        "Speaks the Model Context Protocol on standard input and output. Its tools read: plan, status, report, "
        "inspect, evaluation, lineage, catalog, settings, docs. Nothing is run or downloaded, unless "
        "--allow-evaluate adds the tool evaluate."
    ),
)
def mcp(
    root: Annotated[Path, typer.Option(help=tr("folder that the agent may look into"))] = Path("."),
    home: Annotated[
        Path | None,
        typer.Option(envvar="HANLIN_HOME", help=tr("folder of artifacts/ and runs/ (default: that of --root)")),
    ] = None,
    allow_evaluate: Annotated[
        bool,
        typer.Option("--allow-evaluate", help=tr("let the agent evaluate models: it computes, and writes results")),
    ] = False,
) -> None:
    if importlib.util.find_spec("mcp") is None:
        hint = tr("pip install 'hanlin[{extra}]'", extra="mcp")
        what = tr("{package} is not installed, which {setting} needs", package="mcp", setting="hanlin mcp")
        raise UserError(what, "hanlin mcp", hint, "missing_package")
    if not root.is_dir():
        raise UserError(tr("there is no such folder"), root, code="not_found")
    folder = root.resolve()
    make_server(Workspace(folder, home or folder), allow_evaluate).run()


def make_server(workspace: Workspace, allow_evaluate: bool = False) -> Any:
    """The server with its tools, each marked as one that only reads, and `evaluate` if it is allowed."""
    from mcp.server.mcpserver import MCPServer
    from mcp_types import ToolAnnotations

    told = INSTRUCTIONS.format(rights=EVALUATES if allow_evaluate else READS)
    server = MCPServer("hanlin", version=__version__, instructions=told, log_level="ERROR")
    reads = ToolAnnotations(read_only_hint=True, destructive_hint=False, idempotent_hint=True, open_world_hint=False)

    def add(function: Callable[..., Any]) -> Callable[..., Any]:
        server.add_tool(function, annotations=reads, structured_output=False)
        return function

    @add
    def plan(recipe: str, changes: list[str] = [], until: str = "", memory: str = "", device: str = "auto") -> str:
        """What each stage of a recipe would do and why; memory, disk and time of training stages.

        changes: stage.setting=value each; until: last stage; memory: such as 24GB; device: auto, cpu or gpu.
        """
        return _answer(lambda: tools.plan(workspace, recipe, changes, until, memory, device))

    @add
    def status(recipe: str, changes: list[str] = []) -> str:
        """The state of each stage of a recipe, and how far the stage in progress is."""
        return _answer(lambda: tools.status(workspace, recipe, changes))

    @add
    def report(recipe: str, changes: list[str] = []) -> str:
        """The figures of all stages that are done, beside the targets of the recipe."""
        return _answer(lambda: tools.report(workspace, recipe, changes))

    @add
    def inspect(paths: list[str], limit: int = 1000) -> str:
        """Format, encoding, rows, dropped rows by reason and three samples of data files; limit: rows of each file."""
        return _answer(lambda: tools.inspect(workspace, paths, limit))

    @add
    def evaluation(artifact: str) -> str:
        """What a stage measured or made: metrics and settings of its folder, such as runs/NAME/STAGE."""
        return _answer(lambda: tools.evaluation(workspace, artifact))

    @add
    def lineage(artifact: str) -> str:
        """What an artifact was made from, back to every source file, with hashes and licenses."""
        return _answer(lambda: tools.lineage(workspace, artifact))

    @add
    def catalog(sort: Literal["models", "datasets", "tools"], words: list[str] = []) -> str:
        """Models, data sets or tools that hold all words: hub names, licenses, faults, memory to run and train."""
        return _answer(lambda: tools.catalog(sort, words))

    @add
    def settings(kind: str = "") -> str:
        """The kinds of stages, or the JSON schema of the settings of one."""
        return _answer(lambda: tools.settings(kind))

    @add
    def docs(page: str = "") -> str:
        """A page of the documentation as Markdown, such as agents, settings, mistakes; none: the list of pages."""
        return _answer(lambda: tools.docs(page))

    if allow_evaluate:

        def evaluate(
            model: str,
            questions: str = "",
            data: str = "",
            tasks: list[str] = [],
            subjects: list[str] = [],
            limit: int = 0,
        ) -> str:
            """Ask a model questions and score its answers; takes minutes. The same call again goes on after a stop.

            model: its folder or GGUF; questions: a file of questions with answers, or data and tasks: the folder of
            exams and their names, such as cmmlu; subjects: of the exams; limit: questions at most.
            """
            return _answer(lambda: tools.evaluate(workspace, model, questions, data, tasks, subjects, limit))

        writes = ToolAnnotations(
            read_only_hint=False, destructive_hint=False, idempotent_hint=True, open_world_hint=False
        )
        server.add_tool(evaluate, annotations=writes, structured_output=False)

    return server


def _answer(call: Callable[[], Any]) -> str:
    """The result of a tool as JSON; an error of the user as one with its code. Standard output is the protocol's."""
    from mcp.server.mcpserver.exceptions import ToolError

    try:
        with _quiet():
            return format_json(call())
    except UserError as error:
        raise ToolError(json.dumps({"error": error.as_json()}, ensure_ascii=False)) from error


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    with contextlib.redirect_stdout(sys.stderr):
        yield
