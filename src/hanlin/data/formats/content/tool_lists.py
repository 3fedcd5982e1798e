"""Lists of tools: as data, as JSON text, and inside a system text that also says how calls are written."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

from hanlin.data.formats.content.calls import is_json, parse_data, scan_brackets
from hanlin.data.ledger import Drop
from hanlin.data.text.patterns import compile_on_use

Tools = tuple[Mapping[str, Any], ...]

TOOL_FIELDS = ("tools", "functions", "tool", "available_tools", "function_list", "tool_list", "apis", "api_list")
"""Fields of a row that hold the list of tools."""
_TOOL_FIELDS = frozenset(TOOL_FIELDS)
_NAMES = ("name", "api_name", "tool_name", "name_for_model")
_NAME_FIELDS = frozenset((*_NAMES, "function"))


def read_tools(raw: Any) -> Tools | Drop:
    """Read the list of tools, as JSON text or data, each without OpenAI's wrapping.

    Parameters that are listed without JSON schema, as in xLAM and ToolAlpaca, become a schema.
    """
    if isinstance(raw, str):
        if raw.strip().lower() in ("", "null", "none"):
            return ()
        raw = parse_data(raw.strip())
    if raw is None or raw == []:
        return () if raw == [] else Drop("broken_tools")
    if isinstance(raw, dict) and not _NAME_FIELDS & raw.keys() and all(isinstance(v, dict) for v in raw.values()):
        raw = [{"name": name, **tool} for name, tool in raw.items()]
    raw = raw if isinstance(raw, list) else [raw]
    tools = [_read_tool(tool) for item in raw for tool in _unfold_declarations(item)]
    if not all(tool is not None for tool in tools):
        return Drop("broken_tools", str(raw)[:80])
    return tuple(tool for tool in tools if tool is not None)


def _unfold_declarations(item: Any) -> list[Any]:
    """The tools of Gemini's `{functionDeclarations: [...]}`; any other item is one."""
    names = ("functionDeclarations", "function_declarations")
    lists = [item[name] for name in names if isinstance(item, dict) and isinstance(item.get(name), list)]
    return lists[0] if lists else [item]


def find_row_tools(row: Mapping[str, Any]) -> tuple[str, Any]:
    """Find the field of a row that lists tools, and its value; ("", "") without any."""
    if _TOOL_FIELDS.isdisjoint(row):
        return "", ""
    for name in TOOL_FIELDS:
        value = row.get(name)
        if not value or not isinstance(value, str | list | dict):
            continue
        if name in ("tools", "functions") or not isinstance(read_tools(value), Drop):
            return name, value
    return "", ""


def _read_tool(tool: Any) -> Mapping[str, Any] | None:
    if isinstance(tool, str):
        tool = parse_data(tool.strip()) if tool.strip()[:1] == "{" else _read_described_tool(tool)
    if not isinstance(tool, dict):
        return None
    tool = tool["function"] if isinstance(tool.get("function"), dict) else tool
    name = next((tool[field] for field in _NAMES if isinstance(tool.get(field), str)), None)
    if name is None:
        return None
    if "name_for_model" in tool:
        tool = _read_qwen_tool(tool)
    if "name" not in tool:
        tool = {"name": name, **{field: value for field, value in tool.items() if value != name}}
    parameters = next((tool[field] for field in ("parameters", "arguments") if field in tool), None)
    if isinstance(parameters, str):
        parameters = parse_data(parameters.strip())
    schema = (_build_schema(parameters) or _fix_types(parameters)) if isinstance(parameters, dict) else None
    return (
        tool
        if schema is None or schema == tool.get("parameters")
        else {**{k: v for k, v in tool.items() if k != "arguments"}, "parameters": schema}
    )


def _read_qwen_tool(tool: Mapping[str, Any]) -> dict[str, Any]:
    """Read a tool of Qwen's first agents and of ModelScope's: `name_for_model`, `description_for_model`, and parameters
    as a list of {name, description, required, schema or type}.
    """
    read = {"name": tool["name_for_model"], "description": tool.get("description_for_model", "")}
    listed = tool.get("parameters")
    if not isinstance(listed, list) or not all(
        isinstance(one, dict) and isinstance(one.get("name"), str) for one in listed
    ):
        return read | ({} if listed is None else {"parameters": listed})
    properties = {}
    for one in listed:
        schema = dict(one["schema"]) if isinstance(one.get("schema"), dict) else {"type": one.get("type", "string")}
        described = {"description": one["description"]} if one.get("description") else {}
        properties[one["name"]] = schema | described
    required = [one["name"] for one in listed if one.get("required")]
    return read | {"parameters": {"type": "object", "properties": properties, "required": required}}


_DESCRIBED = compile_on_use(r"\A\s*([\w.-]+)\s*[:：]\s*(.*?)\n\s*Parameters\s*[:：]\s*(\{.*?\})\s*(?:\n(.*))?\Z", re.S)


def _read_described_tool(text: str) -> dict[str, Any] | None:
    """Read ToolAlpaca's `name: description`, `Parameters: {...}` and `Output: ...`."""
    match = _DESCRIBED.match(text)
    parameters = parse_data(match[3]) if match else None
    if match is None or not isinstance(parameters, dict):
        return None
    description = "\n".join(part.strip() for part in (match[2], match[4] or "") if part.strip())
    return {"name": match[1], "description": description, "parameters": parameters}


_SCHEMA_WORDS = frozenset({"type", "properties", "required", "$schema", "anyOf", "oneOf", "allOf", "$ref", "items"})
_TYPES = {"str": "string", "string": "string", "int": "integer", "integer": "integer", "float": "number"}
_TYPES |= {"number": "number", "bool": "boolean", "boolean": "boolean", "list": "array", "array": "array"}
_TYPES |= {"dict": "object", "object": "object", "tuple": "array", "set": "array"}


def _build_schema(parameters: Mapping[str, Any]) -> dict[str, Any] | None:
    """The JSON schema of parameters listed as {name: description or {type, default, ...}}; None for a schema."""
    if not parameters or (_SCHEMA_WORDS & set(parameters) and not isinstance(parameters.get("type"), dict)):
        return None
    if not all(isinstance(value, dict | str) for value in parameters.values()):
        return None
    properties, required = {}, []
    for name, value in parameters.items():
        text = value if isinstance(value, str) else str(value.get("type", ""))
        entry: dict[str, Any] = {"type": "string", "description": value} if isinstance(value, str) else dict(value)
        kind = re.split(r"[\[,( ]", text.strip().lower(), maxsplit=1)[0]
        if not isinstance(value, str) and kind in _TYPES:
            entry["type"] = _TYPES[kind]
        properties[name] = entry
        if "optional" not in text.lower() and "default" not in entry:
            required.append(name)
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}


def _fix_types(schema: Any, depth: int = 20) -> Any:
    """A schema with the types of JSON schema instead of Python's (`dict`, `str`), at every level."""
    if isinstance(schema, list):
        return [_fix_types(item, depth - 1) for item in schema] if depth else schema
    if not isinstance(schema, dict) or not depth:
        return schema
    kind = schema.get("type")
    fixed = {name: _fix_types(value, depth - 1) for name, value in schema.items()}
    return {**fixed, "type": _TYPES.get(kind, kind)} if isinstance(kind, str) else fixed


# --- tools in a system text -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class SystemTools:
    """A system text without its tools and without the sentences about how calls are written, and the tools."""

    text: str
    tools: Tools


_MAX_LISTS = 20
"""Places at which a list of tools is looked for; each may cost a search through the rest of the text."""
_TAGGED = compile_on_use(
    r"<tools>(.*?)</tools>|<\|tools?\|>(.*?)<\|/tools?\|>|\[AVAILABLE_TOOLS\](.*?)\[/AVAILABLE_TOOLS\]", re.S
)
_LIST_START = compile_on_use(r"\[\s*\{\s*[\"']|(?<![\w\"':])\{\s*[\"'](?:name|type|function|api_name)[\"']")
_ANNOUNCED = compile_on_use(r"functions?|tools?|APIs?|函数|工具|接口|插件", re.I)
_HOW_TO_CALL = compile_on_use(
    r"</?(?:tools|tool_call|tool_response|functioncall|function_call)s?>|<function=|in the format of \[|\[func"
    r"|pydantic|model json schema|NO other text|return the function call|function call section|tools? call section"
    r"|For each function call|function signatures|list of functions in JSON|functions? in JSON format"
    r"|FunctionCall|should follow this format|^\W*(?:Thought|Action|Action Input|Observation)\s*[:：]?\s*$"
    r"|access to the following APIs"
    r"|none of the functions? can be used|Here (?:are|is) the available tools|<function-name>|<args-dict>"
    r"|以下(?:工具|函数|接口)[:：]?$",
    re.I,
)
_TOOLS_HEADING = compile_on_use(
    r"^\W*(?:(?:available )?tools|可用工具|工具列表)\W*$|You may call one or more functions to assist", re.I
)
"""What stands over the list of tools in the system text of Qwen and Hermes."""
_ANNOUNCES = compile_on_use(r"access to the following (?:functions|tools)|Use them if required", re.I)
_SENTENCE_END = compile_on_use(r"(?<=[.。!！?？:：])\s+|\n")
_FENCED = compile_on_use(r"<tool_call>.*?</tool_call>", re.S)


def says_how_to_call(system: str) -> bool:
    """Whether a system text says how calls are written, or marks its tools."""
    if "<tools>" in system:
        return True
    is_list = _LIST_START.search(system) is not None
    return is_list and bool(_HOW_TO_CALL.search(system) or _ANNOUNCES.search(system))


def split_system_tools(system: str) -> SystemTools | None:
    """Split the list of tools off a system text; None if there is none.

    Sentences that say how calls are written go with it: the chat template says it in the model's own way.
    """
    for match in islice(_TAGGED.finditer(system), _MAX_LISTS) if system.count("<tools>") < _MAX_LISTS else ():
        inner = next(part for part in match.groups() if part is not None)
        tools = _read_listed(inner)
        if tools:
            return SystemTools(_drop_how_to_call(system[: match.start()], system[match.end() :]), tools)
    for match in islice(_LIST_START.finditer(system), _MAX_LISTS):
        if _ANNOUNCED.search(system, max(0, match.start() - 400), match.start()) is None:
            continue
        end, tools = _read_list_at(system, match.start())
        if tools:
            return SystemTools(_drop_how_to_call(system[: match.start()], system[end:]), tools)
    return None


def _read_listed(text: str) -> Tools:
    """Tools of a text that is a list, or one object on each line."""
    for raw in (text.strip(), [line for line in text.splitlines() if line.strip()]):
        tools = read_tools(raw) if raw else ()
        if not isinstance(tools, Drop):
            return tools
    return ()


def _read_list_at(system: str, start: int) -> tuple[int, Tools]:
    """Read the list, or the objects one after another, that begin at `start`: the end and the tools."""
    tools: list[Mapping[str, Any]] = []
    position = start
    while position < len(system):
        end = _find_end(system, position)
        value = parse_data(system[position:end]) if end else None
        found = read_tools(value) if value is not None else ()
        if isinstance(found, Drop) or not found or not all(is_json(tool) and len(tool) > 1 for tool in found):
            break
        tools += found
        start = position = end
        while position < len(system) and system[position] in " \t\r\n,":
            position += 1
        if system[position : position + 1] != "{":
            break
    return start, tuple(tools)


def _find_end(text: str, start: int) -> int:
    """Index after the bracket that closes the one at `start`, quotes respected; 0 if none does."""
    try:
        _, end = json.JSONDecoder().raw_decode(text, start)
    except (ValueError, RecursionError):
        pass
    else:
        return end
    return next((index + 1 for index, char, depth in scan_brackets(text, start) if depth == 0 and char in "]}"), 0)


def _drop_how_to_call(before: str, after: str) -> str:
    """Join the text around a list of tools without the sentences about how calls are written."""
    parts = []
    for text in (before, after):
        text = _FENCED.sub("", text)
        lines = []
        for line in text.split("\n"):
            sentences = [part for part in _SENTENCE_END.split(line) if part]
            kept = [part for part in sentences if not _HOW_TO_CALL.search(part) and part.strip(" .:：\t")]
            kept = [part for part in kept if not _TOOLS_HEADING.search(part)]
            lines.append(line if len(kept) == len(sentences) else " ".join(kept))
        parts.append("\n".join(lines))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(part.strip() for part in parts if part.strip()))


def merge_tools(first: Sequence[Mapping[str, Any]], second: Sequence[Mapping[str, Any]]) -> Tools:
    """The tools of both lists, those of the second without a tool of a name that the first has."""
    names = {tool.get("name") for tool in first}
    return (*first, *(tool for tool in second if tool.get("name") not in names))
