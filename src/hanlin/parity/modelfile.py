"""Ollama's Modelfile: read by Ollama's own grammar, and written for a model with a packaged chat template.

Each packaged template has a Go form in `go_templates/`. How Ollama renders it is `backends/ollama`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from hanlin.chat.packaged import packaged_names, read_packaged_template, without_keep_setting
from hanlin.chat.template import ChatTemplate
from hanlin.core.errors import UserError, did_you_mean
from hanlin.core.files import write_text
from hanlin.core.i18n import join_list, tr
from hanlin.tokenizer.tokenizer import Tokenizer

INSTRUCTIONS = (
    *("from", "template", "system", "parameter", "message", "license", "adapter"),
    *("draft", "renderer", "parser", "requires"),
)
ROLES = ("system", "user", "assistant")
_BEGIN_BEFORE = "{{- bos_token -}}\n"
"""What `ChatTemplate` sets before a template that writes no begin token though the tokenizer sets one."""


@dataclass(frozen=True, slots=True)
class Modelfile:
    """What a Modelfile says. `parameters` holds every value of each name in order; Ollama takes all stops and the last
    of the others. `others` are instructions that concern neither prompt nor stops.
    """

    path: Path
    model: str
    template: str | None = None
    system: str = ""
    parameters: dict[str, list[str]] = field(default_factory=dict)
    messages: tuple[tuple[str, str], ...] = ()
    licenses: tuple[str, ...] = ()
    adapters: tuple[str, ...] = ()
    others: dict[str, str] = field(default_factory=dict)

    @property
    def stops(self) -> tuple[str, ...]:
        return tuple(self.parameters.get("stop", ()))

    @property
    def context(self) -> int | None:
        """`num_ctx`: how many tokens Ollama keeps of a conversation; None leaves it to Ollama."""
        values = self.parameters.get("num_ctx")
        return int(values[-1]) if values else None


class _Instruction(NamedTuple):
    """One instruction: `about` is the parameter's name or the message's role, empty for the rest."""

    name: str
    about: str
    value: str
    line: int


def read_modelfile(path: Path) -> Modelfile:
    """Read a Modelfile as Ollama's parser does: instructions in any case, values to the end of the line or between
    `\"\"\"`, characters that do not print (a full-width space, a joiner) left out.

    Raises UserError with file and line for what is no Modelfile. Stricter than Ollama where it would go on in silence:
    bytes that are no Unicode, an empty FROM, a `num_ctx` that is no number.
    """
    rows = list(_instructions(_text_of(path), path))
    values: dict[str, list[_Instruction]] = {}
    for row in rows:
        values.setdefault(row.name, []).append(row)
        if row.name == "from" and not row.value:
            raise _wrong(path, row.line, tr("FROM names no model"))
        is_context_length = row.name == "parameter" and row.about == "num_ctx"
        if is_context_length and not re.fullmatch(r"[1-9]\d*", row.value):
            what = tr("num_ctx is not a number of tokens: {value!r}", value=row.value)
            raise _wrong(path, row.line, what)
    if "from" not in values:
        hint = tr("a Modelfile names its model: FROM ./model.gguf")
        raise UserError(tr("there is no FROM in it"), path, hint)
    parameters: dict[str, list[str]] = {}
    for row in values.get("parameter", ()):
        parameters.setdefault(row.about, []).append(row.value)
    last = {name: rows_of_name[-1].value for name, rows_of_name in values.items()}
    return Modelfile(
        path=path,
        model=last["from"],
        template=last.get("template"),
        system=last.get("system", ""),
        parameters=parameters,
        messages=tuple((row.about, row.value) for row in values.get("message", ())),
        licenses=tuple(row.value for row in values.get("license", ())),
        adapters=tuple(row.value for row in values.get("adapter", ())),
        others={name: last[name] for name in ("draft", "renderer", "parser", "requires") if name in last},
    )


def write_modelfile(
    path: Path,
    model: str,
    template: ChatTemplate,
    *,
    context: int | None = None,
    system: str = "",
    license: str = "",
    sampling: Mapping[str, Any] = MappingProxyType({}),
) -> None:
    """Write the Modelfile of a GGUF file (`model`, a path as seen from the Modelfile) that chats by `template`.

    `context` becomes `num_ctx`: without it Ollama keeps a few thousand tokens whatever the model can. `system` is for
    a text of one's own; a template's own default stands in its Go form already and needs none. `sampling` are sampling
    defaults (`read_sampling_params`), which become parameters; Ollama does not read those of the file. Every id that
    ends an answer becomes a stop. What was written is read again and compared. Raises UserError when no Go form of the
    template is known, or when a text cannot stand in a Modelfile.
    """
    instructions = _checked_instructions(path, model, template, context, system, license, sampling)
    write_text(path, "".join(f"{name} {_quoted(value)}\n" for name, value in instructions))
    parsed = read_modelfile(path)
    parsed_values = [parsed.model, parsed.template, *([system] if parsed.system == system and system else [])]
    parsed_values += [*parsed.parameters.get("num_ctx", ())]
    parsed_values += [value for name in _SAMPLING.values() for value in parsed.parameters.get(name, ())]
    parsed_values += [*parsed.stops, *parsed.licenses]
    if parsed_values != [value for _, value in instructions]:
        raise RuntimeError(f"{path}: the Modelfile reads otherwise than it was written")


def check_modelfile(model: str, template: ChatTemplate, **settings: Any) -> None:
    """Raise what `write_modelfile` raises for the same arguments, and write nothing."""
    _checked_instructions("Modelfile", model, template, **settings)


_SAMPLING = {
    "temperature": "temperature", "top_p": "top_p", "top_k": "top_k", "min_p": "min_p",
    "repetition_penalty": "repeat_penalty",
}  # fmt: skip
"""Fields of `SamplingParams` and Ollama's parameters, in the order in which they are written."""


def _checked_instructions(
    where: str | Path,
    model: str,
    template: ChatTemplate,
    context: int | None = None,
    system: str = "",
    license: str = "",
    sampling: Mapping[str, Any] = MappingProxyType({}),
) -> list[tuple[str, str]]:
    """The instructions of `write_modelfile` in order: name and value.

    Raises:
        UserError: A text cannot stand in a Modelfile, or the template has no Go form.
    """
    stops = [str(template.tokenizer.backend.id_to_token(token_id)) for token_id in template.stop_ids]
    instructions: list[tuple[str, str]] = [("FROM", model), ("TEMPLATE", go_template(template))]
    instructions += [("SYSTEM", system)] if system else []
    instructions += [("PARAMETER num_ctx", str(context))] if context else []
    instructions += [
        (f"PARAMETER {parameter}", f"{sampling[name]:g}") for name, parameter in _SAMPLING.items() if name in sampling
    ]
    instructions += [("PARAMETER stop", stop) for stop in stops]
    instructions += [("LICENSE", "".join(filter(_is_kept, license)).strip())] if license.strip() else []
    for name, value in instructions:
        if '"""' in value or not all(map(_is_kept, value)) or (name == "FROM" and _quoted(value) != value):
            what = tr("{name} cannot hold this text in a Modelfile", name=name)
            hint = tr('Ollama loses characters that do not print, and """ ends a text')
            raise UserError(what, where, hint)
    return instructions


def go_template(template: ChatTemplate) -> str:
    """The Go form of a packaged chat template, with the begin and end tokens of its tokenizer.

    Raises UserError if the template is not a packaged one that has a Go form (Jinja in general has none), or if it
    keeps the reasoning of earlier answers and its Go form cannot.
    """
    name = find_packaged_name(template.source)
    if name is None or name not in go_template_names():
        raise UserError(
            tr("no Go template is known for this chat template"),
            template.origin,
            tr(
                "Ollama does not read Jinja; packaged templates with a Go form: {names}",
                names=join_list(go_template_names()),
            ),
        )
    body = _go_source(name)
    keeps_past = template.reasoning_form.keeps_past
    if keeps_past and "$keep" not in body:
        raise UserError(
            tr("the Go form of the chat template {name} has no place for the reasoning of earlier answers", name=name),
            template.origin,
            tr("train without `past_reasoning: keep`, or serve it with Hanlin, vLLM or llama.cpp"),
        )
    helpers: list[str] = []
    for helper, mark in _HELPERS.items():
        if any(mark in text for text in (body, *helpers)):
            helpers.append(_go_source(helper))
    return "\n".join([_opening(template.tokenizer, keeps_past), *helpers, body])


def go_template_names() -> tuple[str, ...]:
    """The packaged chat templates that have a Go form."""
    files = (resources.files("hanlin.parity") / "go_templates").iterdir()
    names = {file.name.removesuffix(".gotmpl") for file in files if file.name.endswith(".gotmpl")}
    return tuple(name for name in packaged_names() if name in names)


def find_packaged_name(source: str) -> str | None:
    """The name of the packaged template with this Jinja source, or None. A begin token before it, and what it was told
    to do with earlier reasoning, change nothing.
    """
    source = without_keep_setting(source.removeprefix(_BEGIN_BEFORE)).removeprefix(_BEGIN_BEFORE)
    return next((name for name in packaged_names() if read_packaged_template(name) == source), None)


_HELPERS = {
    "_tool": 'template "tool"',
    "_tool_in_lines": 'template "tool in lines"',
    "_json": 'template "quoted"',
    "_trim_lines": 'template "trim lines"',
    "_trim": 'template "trim"',
}
"""Go templates that others call, each before those that it calls itself, and what tells that it is called."""


def _go_source(name: str) -> str:
    """A Go template of ours; white space at the end of its file is none of it."""
    return (resources.files("hanlin.parity") / "go_templates" / f"{name}.gotmpl").read_text(encoding="utf-8").rstrip()


def _opening(tokenizer: Tokenizer, keeps_past: bool) -> str:
    """What the Go templates ask of the model. `$begin` opens the prompt: Ollama sets the begin token itself where GGUF
    says so (and then a written one would be the second); `$again` opens later turns. `$keep`: the reasoning of earlier
    answers stays.
    """
    begin, end = (str(tokenizer.config.get(name) or "") for name in ("bos_token", "eos_token"))
    first = "" if tokenizer.adds_bos else begin
    values = {"begin": first, "again": begin, "eos": end}
    texts = "".join(f"${name} := {_go_text(value)} }}}}{{{{ " for name, value in values.items())
    return f"{{{{- {texts}$keep := {str(keeps_past).lower()} }}}}"


def _go_text(text: str) -> str:
    """A text as Go writes it, in letters that print."""
    letters = (f"\\U{ord(letter):08x}" if letter in '"\\' or not letter.isprintable() else letter for letter in text)
    return '"' + "".join(letters) + '"'


# ------------------------------------------------------------------------------------------------------ the grammar


def _text_of(path: Path) -> str:
    try:
        data = path.read_bytes()
        wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
        return data.decode("utf-16" if wide else "utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(tr("cannot be read as text: {error}", error=error), path) from error


def _is_kept(letter: str) -> bool:
    """Whether Ollama keeps a character of a value: what prints, and the white space of ASCII texts."""
    return letter in "\t\r\n" or letter.isprintable()


_BLANK = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_WORD = re.compile(r"[A-Za-z]*")
_PARAMETER = re.compile(r"[A-Za-z0-9_]*")
_LINE_END = re.compile(r"[\r\n]|\Z")


def _instructions(text: str, path: Path) -> Iterator[_Instruction]:
    """The instructions of a Modelfile one after another."""
    index = _end(_BLANK, text, 0)
    while index < len(text):
        line = _line(text, index)
        word, index = _word(_WORD, text, index)
        name = word.lower()
        if name not in INSTRUCTIONS:
            shown = word or text[index]
            what = tr("there is no instruction {shown!r}", shown=shown)
            raise _wrong(path, line, what, did_you_mean(name, INSTRUCTIONS))
        about = ""
        if name in ("parameter", "message"):
            index = _gap(text, index, name, path, line)
            about, index = _word(_PARAMETER if name == "parameter" else _WORD, text, index)
            if name == "message" and about not in ROLES:
                what = tr("MESSAGE has no role {about!r}", about=about)
                raise _wrong(path, line, what, did_you_mean(about, ROLES))
            if not about:
                raise _wrong(path, line, tr("PARAMETER names no parameter"))
        index = _gap(text, index, f"{name} {about}".strip(), path, line)
        value, index = _value(text, index, path, line)
        yield _Instruction(name, about, value, line)
        index = _end(_BLANK, text, index)


def _value(text: str, start: int, path: Path, line: int) -> tuple[str, int]:
    """A value and where it ends: with the first line end where no quotation mark is open."""
    pieces: list[str] = []
    for found in _LINE_END.finditer(text, start):
        pieces.append("".join(filter(_is_kept, text[start : found.end()])))
        start = found.end()
        if len(pieces) == 1 or pieces[-1].rstrip(" \t\r\n").endswith('"'):
            value = _unquoted("".join(pieces).strip(" \t\r\n"))
            if value is not None:
                return value, found.end()
    hint = tr("close it at the end of a line, with nothing after it")
    raise _wrong(path, line, tr("a quotation mark is never closed"), hint)


def _unquoted(raw: str) -> str | None:
    """A value without its quotation marks; None while they are open."""
    for mark in ('"""', '"'):
        if raw.startswith(mark):
            closed = len(raw) >= 2 * len(mark) and raw.endswith(mark)
            return raw[len(mark) : -len(mark)] if closed else None
    return raw


def _quoted(value: str) -> str:
    plain = value and value == value.strip() and not re.search(r'["\r\n]', value)
    return value if plain else f'"""{value}"""'


def _gap(text: str, index: int, before: str, path: Path, line: int) -> int:
    """Past the one space that must stand after an instruction's words."""
    if text[index : index + 1] not in (" ", "\t"):
        after = before.upper() if " " not in before else before
        what = tr("after {after} a space and its value must follow", after=after)
        raise _wrong(path, line, what)
    return index + 1


def _word(pattern: re.Pattern[str], text: str, index: int) -> tuple[str, int]:
    end = _end(pattern, text, index)
    return text[index:end], end


def _end(pattern: re.Pattern[str], text: str, index: int) -> int:
    found = pattern.match(text, index)
    return found.end() if found else index


def _line(text: str, index: int) -> int:
    return len(re.findall(r"\r\n|\r|\n", text[:index])) + 1


def _wrong(path: Path, line: int, what: str, hint: str | None = None) -> UserError:
    return UserError(what, f"{path}:{line}", hint)
