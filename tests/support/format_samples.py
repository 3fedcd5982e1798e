"""One small valid file of every format and layout, as bytes: what the round trips write back and the fuzzing breaks."""

from __future__ import annotations

import bz2
import gzip
import io
import json
import lzma
from typing import Any

QUESTION, ANSWER = "翰林院在哪里？", "在城东，院子里开满了花。"
MORE, LAST = "春天去看花好吗？", "好，他说那里的花都开了。"
TURNS = [("user", QUESTION), ("assistant", ANSWER), ("user", MORE), ("assistant", LAST)]
CALL = {"name": "weather", "arguments": {"city": "北京", "days": 2}}
TOOLS = [{"name": "weather", "description": "天气", "parameters": {"type": "object", "properties": {}}}]
SHAREGPT = [{"from": {"user": "human", "assistant": "gpt"}[role], "value": text} for role, text in TURNS]
MESSAGES = [{"role": role, "content": text} for role, text in TURNS]

CHAT_ROWS: dict[str, list[Any]] = {
    "sharegpt": [{"conversations": SHAREGPT, "system": "你是小翰。", "source_url": "x"}],
    "sharegpt_tools": [
        {
            "conversations": [
                {"from": "human", "value": "北京天气？"},
                {"from": "function_call", "value": json.dumps(CALL, ensure_ascii=False)},
                {"from": "observation", "value": '{"sky": "晴"}'},
                {"from": "gpt", "value": "晴天。"},
            ],
            "tools": json.dumps(TOOLS, ensure_ascii=False),
        }
    ],
    "sharegpt_tools_unused": [{"conversations": SHAREGPT, "tools": TOOLS}],
    "messages": [{"messages": [{"role": "system", "content": "你是小翰。"}, *MESSAGES], "n": 3}],
    "messages_tools": [
        {
            "messages": [
                {"role": "user", "content": "北京和上海天气？"},
                {
                    "role": "assistant",
                    "content": "我查一下。",
                    "tool_calls": [
                        {"type": "function", "function": {"name": "weather", "arguments": '{"city": "北京"}'}},
                        {"type": "function", "function": {"name": "weather", "arguments": {"city": "上海"}}},
                    ],
                },
                {"role": "tool", "name": "weather", "content": "晴"},
                {"role": "tool", "name": "weather", "content": "雨"},
                {"role": "assistant", "content": "北京晴，上海雨。"},
            ],
            "tools": [{"type": "function", "function": TOOLS[0]}],
        }
    ],
    "oasst_tree": [
        {
            "message_tree_id": "t1",
            "prompt": {
                "role": "prompter",
                "text": QUESTION,
                "replies": [
                    {"role": "assistant", "text": "不知道。", "rank": 1, "replies": []},
                    {"role": "assistant", "text": ANSWER, "rank": 0, "lang": "zh", "replies": []},
                ],
            },
        }
    ],
    "chatgpt_export": [
        {
            "title": "花",
            "mapping": {
                "root": {"id": "root", "message": None, "parent": None, "children": ["q"]},
                "q": {
                    "message": {"author": {"role": "user"}, "content": {"content_type": "text", "parts": [QUESTION]}},
                    "parent": "root",
                    "children": ["old", "new"],
                },
                "old": {
                    "message": {"author": {"role": "assistant"}, "content": {"content_type": "text", "parts": ["?"]}},
                    "parent": "q",
                    "children": [],
                },
                "new": {
                    "message": {
                        "author": {"role": "assistant"},
                        "content": {"content_type": "text", "parts": [ANSWER]},
                        "recipient": "all",
                    },
                    "parent": "q",
                    "children": [],
                },
            },
            "current_node": "new",
        }
    ],
    "claude_export": [
        {
            "uuid": "c1",
            "name": "花",
            "chat_messages": [
                {"uuid": "m1", "sender": "human", "text": QUESTION, "content": [{"type": "text", "text": QUESTION}]},
                {"uuid": "m2", "sender": "assistant", "text": ANSWER, "content": [], "attachments": [], "files": []},
            ],
        }
    ],
    "kdconv": [{"name": "花", "messages": [{"message": text} for _, text in TURNS]}],
    "moss": [
        {
            "conversation_id": 7,
            "meta_instruction": "You are an AI assistant.\n- Calculator: enabled. API: Calculate(expression)\n",
            "chat": {
                "turn_1": {
                    "Human": "<|Human|>: 一加二？<eoh>\n",
                    "Inner Thoughts": "<|Inner Thoughts|>: 需要计算。<eot>\n",
                    "Commands": '<|Commands|>: Calculate("1+2")<eoc>\n',
                    "Tool Responses": "<|Results|>: Calculate => 3<eor>\n",
                    "MOSS": "<|MOSS|>: 等于三。<eom>\n",
                }
            },
        }
    ],
    "glaive": [
        {
            "system": 'SYSTEM: Functions -\n{\n "name": "add",\n "description": "adds",\n "parameters": {}\n}\n',
            "chat": 'USER: 一加二？\n\n\nASSISTANT: <functioncall> {"name": "add", "arguments": \'{"a": 1}\'} '
            '<|endoftext|>\n\n\nFUNCTION RESPONSE: {"sum": 3}\n\n\nASSISTANT: 等于三。 <|endoftext|>\n\n\n',
        }
    ],
    "moss_text": [{"plain_text": "<|Human|>: 你是谁？<eoh>\n<|MOSS|>: 我是小翰。<eom>\n"}],
    "firefly": [
        {"conversation_id": 1, "category": "QA", "conversation": [{"human": QUESTION, "assistant": ANSWER}] * 2}
    ],
    "firefly_kind": [{"kind": "OpenQA", "input": QUESTION, "target": ANSWER}],
    "agent_steps": [
        {"input": QUESTION, "intermediate_steps": [[["look_up", '{"key": "a"}', "Thought: x"], "b"]], "output": ANSWER}
    ],
    "self_instruct": [{"id": "s1", "instruction": QUESTION, "instances": [{"input": "", "output": ANSWER}]}],
    "alpaca": [{"instruction": MORE, "input": "材料", "output": LAST, "history": [[QUESTION, ANSWER]]}],
    "alpaca_list": [{"instruction": QUESTION, "input": "", "output": [ANSWER, MORE, LAST]}],
    "belle_several_turns": [
        {"instruction": f"Human:{QUESTION}\nAssistant:{ANSWER}\nHuman:{MORE}\nAssistant:", "input": "", "output": LAST}
    ],
    "school_math": [{"instruction": "小明有3个苹果，又买了4个，共几个？\n", "input": "", "output": "3+4=7，共7个。"}],
    "math23k": [{"original_text": "三加四？", "segmented_text": "三 加 四", "equation": "x=3+4", "ans": "7"}],
    "tagged_text": [{"text": "".join(f"<s>{'Human' if r == 'user' else 'Assistant'}: {t}\n</s>" for r, t in TURNS)}],
    "react": [
        {
            "instruction": "北京天气？",
            "output": '思考：要查。\n行动：weather\n行动输入：{"city": "北京"}\n观察：晴\n最终答案：晴天。',
        }
    ],
    "segments": [
        {
            "segments": [
                {"label": False, "text": f"<|im_start|>user\n{QUESTION}<|im_end|>\n<|im_start|>assistant\n"},
                {"label": True, "text": f"{ANSWER}<|im_end|>\n"},
            ]
        },
    ],
    "lccc": [["火锅 我 在 重庆 吃 了 七八 顿", "哈哈 ！ 那 我 的 嘴巴 要 烂掉 ！", "不会 的"]],
    "ruozhiba": [{"instruction": "只剩一个心脏了还能活吗？", "input": "", "output": "能，人本来就只有一个心脏。"}],
    "prompt_response": [{"prompt": QUESTION, "response": ANSWER, "score": 0.5, "tags": ["花", "春"]}],
}
PAIR_ROWS: dict[str, list[Any]] = {
    "dpo_messages": [
        {
            "prompt": QUESTION,
            "chosen": [*MESSAGES[:1], {"role": "assistant", "content": ANSWER}],
            "rejected": [*MESSAGES[:1], {"role": "assistant", "content": "In the east."}],
            "score_chosen": 8.5,
            "score_rejected": 3.0,
        }
    ],
    "dpo_sharegpt": [
        {
            "conversations": [{"from": "system", "value": "用中文。"}, *SHAREGPT[:3]],
            "chosen": {"from": "gpt", "value": LAST},
            "rejected": {"from": "gpt", "value": "No."},
        }
    ],
    "dpo_alpaca": [{"instruction": QUESTION, "input": "", "chosen": ANSWER, "rejected": "In the east."}],
    "dpo_ranked": [{"instruction": QUESTION, "input": "", "output": [ANSWER, "不知道。"]}],
    "language_pairs": [{"question": QUESTION, "answer_zh": ANSWER, "answer_en": "In the east of the town."}],
    "paired_answers": [{"question": QUESTION, "response_j": ANSWER, "response_k": "不知道。"}],
    "paired_tagged": [
        {
            "chosen": f"\n\nHuman: {QUESTION}\n\nAssistant: {ANSWER}",
            "rejected": f"\n\nHuman: {QUESTION}\n\nAssistant: 无",
        }
    ],
}
TEXT = (
    "春天来了，院子里的花都开了。我们一起去看看吧，他说得对。城东的翰林院里有很多书，学士们坐在树下读书。\n"
    "夏天的雨下了三天，河水涨到了桥边，孩子们在门口看船。老人说，这样的年景，秋天的稻子一定长得很好。\n"
    "秋天收了稻子，镇上唱了两天戏。戏台搭在庙前的空地上，卖糖的、卖布的都来了，比过年还热闹。\n"
    "到了冬天，山上落了雪，路上没有什么人。先生把火生起来，大家围着它坐下，听他讲过去的事情。\n"
)


def lines(rows: list[Any]) -> bytes:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode("utf-8")


def table(kind: str, rows: list[dict[str, Any]]) -> bytes:
    """Rows as Parquet, as an Arrow stream or as a Feather file."""
    import pyarrow
    from pyarrow import feather, ipc, parquet

    data = pyarrow.Table.from_pylist(rows)
    target = io.BytesIO()
    if kind == "parquet":
        parquet.write_table(data, target)
    elif kind == "arrow":
        with ipc.new_stream(target, data.schema) as stream:
            stream.write_table(data)
    else:
        feather.write_feather(data, target, compression="uncompressed")
    return target.getvalue()


def files() -> dict[str, bytes]:
    """Every sample as a file: its name and its bytes."""
    made = {f"{name}.jsonl": lines(rows * 3) for name, rows in (CHAT_ROWS | PAIR_ROWS).items()}
    made |= {
        f"{name}_list.json": json.dumps(rows * 2, ensure_ascii=False, indent=1).encode("utf-8")
        for name, rows in (CHAT_ROWS | PAIR_ROWS).items()
    }
    made["math23k_objects.json"] = b"\n".join(
        json.dumps(row, ensure_ascii=False, indent=2).encode("utf-8") for row in CHAT_ROWS["math23k"] * 3
    )
    made["lccc_splits.json"] = json.dumps({"train": CHAT_ROWS["lccc"] * 3, "valid": CHAT_ROWS["lccc"]}).encode("utf-8")
    made["tagged.csv"] = ("text\n" + f'"{CHAT_ROWS["tagged_text"][0]["text"]}"\n' * 2).encode("utf-8")
    made["input_target.csv"] = f"input,target\n{QUESTION},{ANSWER}\n{MORE},{LAST}\n".encode()
    made["plain.csv"] = f"text,title\n{TEXT.split(maxsplit=1)[0]},花\n".encode()
    made["plain.tsv"] = f"text\ttitle\n{TEXT.split(maxsplit=1)[0]}\t花\n".encode()
    made["documents.jsonl"] = lines(
        [{"text": TEXT, "meta": {"url": "x"}}, {"title": "花", "content": TEXT.splitlines()}]
    )
    made["text.txt"] = TEXT.encode("utf-8")
    made["blocks.txt"] = "\n\n".join(f"第{n}篇\n{TEXT}" for n in range(4)).encode("utf-8")
    made["lines.txt"] = "\n".join(f"{n}{TEXT}".replace("\n", "") for n in range(4)).encode("utf-8")
    made["page.html"] = f"<!doctype html><html><body><p>{TEXT}</p></body></html>".encode()
    for encoding in ("utf-8-sig", "gb18030", "utf-16", "utf-16-le", "utf-16-be", "utf-32"):
        made[f"text_{encoding}.txt"] = TEXT.encode(encoding)
    made["text_big5.txt"] = (
        "春天來了，院子裡的花都開了。我們一起去看看吧，他說得對。學士們坐在樹下讀書，談論古今的文章。".encode("big5")
    )
    made["alpaca_gbk.jsonl"] = lines(CHAT_ROWS["alpaca"] * 3).decode("utf-8").encode("gbk")
    made["messages.jsonl.gz"] = gzip.compress(made["messages.jsonl"])
    made["messages.jsonl.bz2"] = bz2.compress(made["messages.jsonl"])
    made["messages.jsonl.xz"] = lzma.compress(made["messages.jsonl"])
    try:
        import zstandard

        made["messages.jsonl.zst"] = zstandard.ZstdCompressor().compress(made["messages.jsonl"])
    except ImportError:
        pass
    try:
        for kind in ("parquet", "arrow", "feather"):
            made[f"table.{kind}"] = table(kind, CHAT_ROWS["prompt_response"] * 5)
            made[f"turns.{kind}"] = table(kind, CHAT_ROWS["sharegpt"] * 5)
    except ImportError:
        pass
    return made
