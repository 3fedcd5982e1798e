"""`hanlin recipe`: `new` asks three questions and writes a commented recipe that plans, which `catalog/starter` makes;
`ls` and `copy` are for the recipes that come with Hanlin.
"""

from __future__ import annotations

import re
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hanlin.cli.commands.start.catalog import Lang, use_language
from hanlin.cli.help import command, new_app
from hanlin.cli.options import AsJson
from hanlin.cli.output import echo, print_json, print_table
from hanlin.core.errors import UserError, did_you_mean, explain_os_error, suggest_path
from hanlin.core.i18n import join_list, tr
from hanlin.core.names import quote_shell

if TYPE_CHECKING:
    from hanlin.catalog.answers import FromHub, Have, TargetMachine, Want
    from hanlin.catalog.starter import Starter

app = new_app()
NOTHING = "nothing"
ROWS_LOOKED_AT = 100
"""Rows of a file by which its data are recognized."""
_NAME = re.compile(r"[A-Za-z][\w-]{0,60}")


@command(
    app,
    tr(
        "Asks what you have, what you want and what machine there is, each of which an option answers too, and writes "
        "a commented recipe. A file that exists is never overwritten."
    ),
    name="new",
)
def new(
    have: Annotated[
        list[str],
        typer.Option(help=tr("your data: PATH, chats=PATH, text=PATH, preferences=PATH, or nothing; may repeat")),
    ] = [],
    want: Annotated[str, typer.Option(help="chat, knowledge, chinese_answers, try")] = "",
    machine: Annotated[str, typer.Option(help=tr("cpu, a GPU's memory such as 24GB, or auto"))] = "",
    model: Annotated[
        str, typer.Option(help=tr("model to begin with: id of the catalog, hf:owner/name@commit, ms:..., or a folder"))
    ] = "",
    hub: Annotated[
        str, typer.Option(help=tr("hf or ms: where a model of the catalog comes from; else where it is better had"))
    ] = "",
    out: Annotated[Path, typer.Option(help=tr("recipe file to write"))] = Path("my_recipe.yaml"),
    lang: Lang = "",
    as_json: AsJson = False,
) -> None:
    from hanlin.catalog.answers import Answers
    from hanlin.catalog.starter import make_recipe
    from hanlin.pipeline.artifacts import Store
    from hanlin.pipeline.plan import plan

    use_language(lang)
    _check_file(out)
    if as_json and not (have and want and machine):
        what = tr("with --json nothing is asked")
        raise UserError(what, "recipe new", tr("give --have, --want and --machine"))
    from_hub = read_hub(hub)
    data = read_have(have or _ask_have())
    chosen = read_want(want or _ask_want(bool(data)))
    answers = Answers(data, chosen, read_machine(machine or _ask_machine()), model or None, out.stem, from_hub)
    starter = make_recipe(answers)
    with tempfile.TemporaryDirectory() as folder:
        steps = plan(starter.recipe, Store(Path(folder)))
    _write(out, starter.text)
    _report(out, starter, [step.stage.name for step in steps], as_json)


@command(app, tr("The recipes that come with Hanlin; `hanlin recipe copy NAME` writes one here."), name="ls")
def list_shipped(as_json: AsJson = False) -> None:
    from hanlin.web.recipes.shipped import list_recipes, shipped_folder

    choices = [choice for choice in list_recipes(shipped_folder()) if choice.source == "shipped"]
    if as_json:
        print_json([{"name": choice.name, "summary": choice.summary} for choice in choices])
    else:
        print_table(tr("name,what it does").split(","), [[choice.name, choice.summary] for choice in choices])


@command(app, tr("Writes a recipe that comes with Hanlin into this folder, to be changed. Nothing is overwritten."))
def copy(
    name: Annotated[str, typer.Argument(help=tr("its name, as `hanlin recipe ls` shows it"), metavar="NAME")],
    out: Annotated[Path | None, typer.Option(help=tr("recipe file to write"))] = None,
    as_json: AsJson = False,
) -> None:
    from hanlin.web.recipes.shipped import list_recipes, shipped_folder

    folder = shipped_folder()
    known = [choice.name for choice in list_recipes(folder) if choice.source == "shipped"]
    stem = name.removeprefix("recipes/").removesuffix(".yaml")
    if stem not in known:
        what = tr("no recipe of the name '{name}' comes with Hanlin", name=name)
        raise UserError(what, "recipe copy", did_you_mean(stem, known), "not_found")
    target = Path(f"{stem}.yaml") if out is None else out
    _check_file(target)
    _write(target, (folder / f"{stem}.yaml").read_text(encoding="utf-8"))
    following = f"hanlin plan {quote_shell(str(target))}"
    if as_json:
        print_json({"recipe": str(target), "next": [following]})
    else:
        echo(tr("written: {path}", path=target))
        echo(tr("next:"))
        echo(f"  {following}")


def _write(out: Path, text: str) -> None:
    from hanlin.core.files import write_text

    try:
        write_text(out, text)
    except OSError as error:
        what = tr("cannot be read or written: {problem}", problem=error.strerror)
        raise explain_os_error(error) or UserError(what, out, code="access") from error


def _check_file(out: Path) -> None:
    if out.suffix not in (".yaml", ".yml") or not _NAME.fullmatch(out.stem):
        what = tr("a recipe is a file like my_recipe.yaml, its name of letters, digits, _ and -")
        raise UserError(what, out)
    if out.exists() or out.is_symlink():
        raise UserError(tr("this file exists and is not overwritten"), out, tr("name another one"), "exists")
    if not out.absolute().parent.is_dir():
        raise UserError(tr("there is no such folder"), out.parent, suggest_path(out.parent), "not_found")


def read_have(texts: Sequence[str]) -> dict[Have, str]:
    """What somebody has: paths of data by what they are; what a bare path is, its first rows tell.

    Raises:
        UserError: A path leads nowhere, or two are of one sort.
    """
    from hanlin.catalog.answers import HAVES

    found: dict[Have, str] = {}
    for text in texts:
        if text.strip() in (NOTHING, ""):
            continue
        name, equals, path = text.partition("=")
        if equals and name in HAVES:
            sort = next(have for have in HAVES if have == name)
        elif equals and not Path(text).exists():
            raise UserError(tr("there is no data '{name}'", name=name), "--have", did_you_mean(name, HAVES))
        else:
            path, sort = text, _detect(text)
        _check_path(path)
        if sort in found:
            what = tr("{first} and {second} are both {sort}", first=found[sort], second=path, sort=sort)
            raise UserError(what, "--have", tr("put them into one folder, or use a pattern such as ./data/*.jsonl"))
        found[sort] = path
    return found


def _check_path(path: str) -> None:
    import glob

    if not path or not (Path(path).expanduser().exists() or glob.glob(str(Path(path).expanduser()), recursive=True)):
        raise UserError(
            tr("there is no such file or folder"), path or "--have", suggest_path(path) if path else None, "not_found"
        )


def _detect(path: str) -> Have:
    """What the data at a path are, by the first rows of its first file. Raises UserError if no stage reads them."""
    from hanlin.data.report.inspect import inspect

    _check_path(path)
    sorts: dict[str, Have] = {"corpus": "text", "conversations": "chats", "preferences": "preferences"}
    row = next((row for row in inspect([path], {"limit": ROWS_LOOKED_AT}) if not row.get("skipped")), None)
    if row is None:
        raise UserError(tr("there is no data file"), path)
    hint = tr("`hanlin data inspect {path}` says more", path=quote_shell(path))
    if "error" in row:
        raise UserError(row["error"], None, hint)  # it names the file
    if not row["kept"]:
        raise UserError(tr("none of its first rows is kept"), path, hint)
    if row["stage"] not in sorts:
        what = tr("these are {stage}, for which no first recipe is written", stage=row["stage"])
        raise UserError(what, row["path"], tr("see `hanlin kinds kto`"))
    return sorts[row["stage"]]


def read_want(text: str) -> Want:
    """The aim by its name or number. Raises UserError if there is no such aim."""
    from hanlin.catalog.answers import WANTS

    name = text.strip().replace("-", "_")
    if name.isdecimal() and 1 <= int(name) <= len(WANTS):
        return WANTS[int(name) - 1]
    for want in WANTS:
        if want == name:
            return want
    raise UserError(tr("there is no aim '{name}'", name=text), "--want", join_list(WANTS))


def read_hub(text: str) -> FromHub | None:
    """The hub by its short name; None if none is named. Raises UserError if it is none of them."""
    from hanlin.catalog.answers import FROM_HUBS

    for hub in FROM_HUBS:
        if hub == text.strip().lower().removesuffix(":"):
            return hub
    if text:
        hint = tr("hf is Hugging Face or a mirror of it, ms is ModelScope")
        raise UserError(tr("no model is taken from '{name}'", name=text), "--hub", hint)
    return None


def read_machine(text: str) -> TargetMachine:
    """The machine: `cpu`, `auto`, or the memory of a GPU. Raises UserError if it is none of them."""
    from hanlin.catalog.answers import TargetMachine
    from hanlin.estimate.machine import gpu_memory, has_gpu, machine_memory, parse_memory_size

    name = text.strip().lower()
    if name == "auto" and has_gpu():
        memory = gpu_memory()
        if memory is None:
            what = tr("the GPU's driver does not say how much memory it has")
            raise UserError(what, "--machine", tr("write it, such as 24GB"))
        return TargetMachine(True, memory)
    if name in ("auto", "cpu"):
        return TargetMachine(False, machine_memory() or 16e9)
    try:
        memory = parse_memory_size(text)
    except UserError as error:
        raise UserError(tr("'{text}' is no machine", text=text), "--machine", "cpu, 24GB, auto") from error
    if memory < 1e9:
        raise UserError(tr("'{text}' is no memory of a GPU", text=text), "--machine", "cpu, 24GB, auto")
    return TargetMachine(True, memory)


def _ask(question: str, lines: Sequence[str]) -> str:
    """Ask on the terminal, and take a line. Raises UserError if there is nobody to answer."""
    echo()
    echo(question, bold=True)
    for line in lines:
        echo(f"  {line}")
    echo("> ", nl=False)
    answer = sys.stdin.readline()
    if not answer:
        raise UserError(tr("nobody answers"), "recipe new", tr("give --have, --want and --machine"))
    return answer.strip()


def _ask_have() -> list[str]:
    answer = _ask(
        tr("1 of 3. What do you have?"),
        [
            tr("paths of your data, with spaces between them: ./chats.jsonl ./books"),
            tr("what they hold is recognized (or say it: chats=PATH text=PATH preferences=PATH)"),
            tr("Enter: nothing yet"),
        ],
    )
    return answer.split() or [NOTHING]


def _ask_want(has_data: bool) -> str:
    answer = _ask(
        tr("2 of 3. What do you want?"),
        [
            tr("1 a chat model that answers in Chinese (needs conversations)"),
            tr("2 a model that has read your text (needs text)"),
            tr("3 a model that prefers Chinese answers (needs preferences)"),
            tr("4 to see the whole pipeline on a small invented world (needs nothing)"),
        ],
    )
    return answer or ("1" if has_data else "4")


def _ask_machine() -> str:
    answer = _ask(
        tr("3 of 3. What machine is it to be trained on?"),
        [tr("memory of its GPU, such as 24GB; cpu; Enter: this machine")],
    )
    return answer or "auto"


def _report(out: Path, starter: Starter, stages: Sequence[str], as_json: bool) -> None:
    base = starter.base
    peaks = {name: round(peak) for name, peak in starter.peaks.items()}
    commands = [f"hanlin {word} {quote_shell(str(out))}" for word in ("plan", "run")]
    if as_json:
        data: dict[str, Any] = {"recipe": str(out), "model": base.reference if base else None}
        print_json(data | {"method": starter.method, "stages": stages, "peak_memory": peaks, "next": commands})
        return
    echo()
    echo(tr("written: {path}, {count} stages: {stages}", path=out, count=len(stages), stages=join_list(stages)))
    if base is not None:
        methods = {"full": tr("all weights"), "lora": "LoRA", "qlora": "QLoRA", None: ""}
        echo(tr("model: {model}, trained by {method}", model=base.reference, method=methods[starter.method]))
        if base.shape is None:
            echo(tr("its size is not known yet; `hanlin plan` estimates memory when it is there"))
    for name, peak in starter.peaks.items():
        echo(tr("  {stage}: about {peak:.3g} GB at its peak", stage=name, peak=peak / 1e9))
    echo(tr("next:"))
    for line in commands:
        echo(f"  {line}")
