"""`hanlin data report` shows what data stages kept, dropped and changed, on a self-contained page."""

from __future__ import annotations

import json
import re
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import format_samples
from hanlin.cli.main import app
from hanlin.config.settings.data import Conversations, Corpus, Preferences, UnpairedPreferences
from hanlin.core.errors import UserError
from hanlin.data.report.evidence import find_evidence
from hanlin.data.report.excerpts import diff_texts, make_excerpt, split_parts
from hanlin.data.report.stats import SampleSizes, compute_stage_stats
from stage_runs import Made

Put = Callable[[str, Any], Path]
Run = Callable[..., Made]

STREAM = (
    "小河从山脚下流过，孩子们常在岸边捡石头，老人坐在桥头说起从前的故事，"
    "傍晚炊烟慢慢升起来，远处的田里还有人在收稻子，风里带着草木的香气。"
)
TEXTS = [
    {"text": STREAM},
    {"text": STREAM.replace("老人", "老爷爷")},
    {"text": "The river runs below the hill, and the children look for stones on its bank."},
    {"text": "這條河從山腳下流過，孩子們常在岸邊撿石頭，老人們說起從前的故事。"},
    {"text": "哈" * 200},
    {"text": "短"},
]


@pytest.fixture
def corpus(put: Put, run: Run) -> Path:
    put("notes/a.jsonl", TEXTS)
    put("notes/b.txt", "另一个文件里的话，也是一篇文档，讲的是秋天的果园。")
    return run(Corpus, put("notes/b.txt", "另一个文件里的话，也是一篇文档，讲的是秋天的果园。").parent).out


def compute_stats(path: Path, *more: str) -> dict[str, Any]:
    done = CliRunner().invoke(app, ["data", "report", str(path), "--json", *more])
    assert done.exit_code == 0, done.output
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def page(path: Path, out: Path, *more: str) -> str:
    done = CliRunner().invoke(app, ["data", "report", str(path), "--out", str(out), *more])
    assert done.exit_code == 0, done.output
    return out.read_text(encoding="utf-8")


def test_rows_in_are_kept_plus_dropped_by_reason_for_the_stage_and_for_each_file(corpus: Path) -> None:
    (stage,) = compute_stats(corpus)["stages"]
    assert (stage["rows_in"], stage["kept"]) == (7, 4)
    assert stage["dropped"] == {"near_duplicate": 1, "repeated_characters": 1, "too_short": 1}
    for row in (stage, *stage["files"]):
        assert row["rows_in"] == row["kept"] + sum(row["dropped"].values())
    assert [row["file"] for row in stage["files"]] == ["a.jsonl", "b.txt"]


def test_languages_are_those_of_the_kept_records_whole_and_by_file(corpus: Path) -> None:
    (stage,) = compute_stats(corpus)["stages"]
    assert {name: row["records"] for name, row in stage["languages"].items()} == {"zh-Hans": 2, "zh-Hant": 1, "en": 1}
    assert stage["files"][0]["languages"] == {"zh-Hans": 1, "en": 1, "zh-Hant": 1}
    assert stage["files"][1]["languages"] == {"zh-Hans": 1}


def test_each_reason_has_rows_to_read_with_what_was_found(corpus: Path) -> None:
    (stage,) = compute_stats(corpus)["stages"]
    samples = stage["dropped_samples"]
    assert set(samples) == set(stage["dropped"])
    (short,) = samples["too_short"]
    assert short["location"] == "a.jsonl:6" and short["detail"] == "1 characters"
    assert short["parts"] == [{"label": "", "text": "短", "more": 0}]
    assert len(stage["kept_samples"]) == 4


def test_near_duplicates_are_shown_beside_the_kept_record_with_differences_marked(corpus: Path) -> None:
    (stage,) = compute_stats(corpus)["stages"]
    (pair,) = stage["near_duplicates"]
    assert (pair["kept_location"], pair["location"]) == ("a.jsonl:1", "a.jsonl:2")
    assert {piece["text"] for piece in pair["dropped"] if piece["differs"]} <= {"爷爷", "爷", "老爷爷"}
    assert "".join(piece["text"] for piece in pair["kept"]) == STREAM


def test_the_page_shows_it_in_both_languages_and_takes_nothing_from_outside(
    corpus: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HANLIN_LANG", "zh")
    chinese = page(corpus, tmp_path / "zh.html")
    monkeypatch.setenv("HANLIN_LANG", "en")
    english = page(corpus, tmp_path / "deep" / "en.html")
    assert '<body class="en">' in english and "<body>" in chinese
    for text in (chinese, english):
        assert "丢弃原因" in text and "Dropped, by reason" in text and "<mark>" in text and "<svg" in text
        chips = re.findall(r'<span class="chip"><code>near_duplicate</code>(.*?)<b>', text)
        assert chips and all("it is a near-duplicate" in chip and "近似重复" in chip for chip in chips)
        assert not re.search(r"""(?:src|href)\s*=\s*["'](?!#)|url\(|@import|https?://""", text)


def test_rows_are_shown_as_text_never_as_markup(put: Put, run: Run, tmp_path: Path) -> None:
    text = "标签 <script>alert(1)</script> 与 <b>粗体</b> 写在一句话里，讲的是网页怎样显示文字，并不是网页本身。"
    made = run(Corpus, put("a.jsonl", [{"text": text}]), rules=[])
    shown = page(made.out, tmp_path / "a.html")
    assert "&lt;script&gt;alert" in shown and "<script>alert" not in shown


def test_lengths_are_counted_in_tokens_where_a_tokenizer_is_given(corpus: Path, tiny_tokenizer: Path) -> None:
    (by_token,) = compute_stats(corpus, "--model", str(tiny_tokenizer))["stages"]
    (by_character,) = compute_stats(corpus)["stages"]
    assert (by_token["lengths"]["unit"], by_character["lengths"]["unit"]) == ("tokens", "characters")
    assert by_character["lengths"]["total"] == by_character["characters"]
    assert by_token["lengths"]["total"] != by_character["lengths"]["total"]
    for lengths in (by_token["lengths"], by_character["lengths"]):
        assert sum(bin_["records"] for bin_ in lengths["bins"]) == 4
        assert lengths["bins"][-1]["from"] <= lengths["longest"] < lengths["bins"][-1]["below"]


def test_turns_are_counted_as_a_template_renders_them(put: Put, run: Run, tiny_tokenizer: Path) -> None:
    made = run(Conversations, put("c.jsonl", [{"instruction": "树？", "output": "绿。"}]), validation_fraction=0)
    (stage,) = compute_stats(made.out, "--model", str(tiny_tokenizer), "--template", "llama3")["stages"]
    assert stage["lengths"]["total"] > len("树？绿。") + 8  # and headers, and stop tokens


def test_turns_that_a_template_cannot_render_are_reported_and_the_others_counted(
    put: Put, run: Run, tiny_tokenizer: Path, tmp_path: Path
) -> None:
    rows = [{"instruction": "树？", "output": "绿。"}] + format_samples.CHAT_ROWS["glaive"]
    made = run(Conversations, *(put(f"{n}.jsonl", [row]) for n, row in enumerate(rows)), validation_fraction=0)
    (stage,) = compute_stats(made.out, "--model", str(tiny_tokenizer), "--template", "llama3")["stages"]
    assert sum(bin_["records"] for bin_ in stage["lengths"]["bins"]) == 1
    assert list(stage["lengths"]["unrendered"].values()) == [1]
    shown = page(made.out, tmp_path / "a.html", "--model", str(tiny_tokenizer), "--template", "llama3")
    assert "not counted" in shown


def test_every_kind_of_record_has_a_report(put: Put, run: Run, tmp_path: Path) -> None:
    turns = [{"role": "user", "content": "树是什么颜色？"}, {"role": "assistant", "content": "绿色的。"}]
    bad = {"role": "assistant", "content": "不知道。"}
    chats = run(Conversations, put("c.jsonl", [{"messages": turns}]), validation_fraction=0)
    pairs = run(Preferences, put("p.jsonl", [{"messages": turns[:1], "chosen": turns[1], "rejected": bad}]))
    judged = run(UnpairedPreferences, put("j.jsonl", [{"messages": turns, "label": False}]))
    shown = {made.out: compute_stats(made.out)["stages"][0] for made in (chats, pairs, judged)}
    labels = [[part["label"] for part in stage["kept_samples"][0]["parts"]] for stage in shown.values()]
    assert labels == [["user", "assistant"], ["user", "chosen", "rejected"], ["user", "answer (bad)"]]
    assert "不知道" in page(pairs.out, tmp_path / "p.html")


def test_a_run_folder_gives_all_its_data_stages(put: Put, run: Run, tmp_path: Path, corpus: Path) -> None:
    chats = run(Conversations, put("c.jsonl", [{"instruction": "树？", "output": "绿。"}]), validation_fraction=0).out
    folder = tmp_path / "runs" / "mine"
    folder.mkdir(parents=True)
    (folder / "text").symlink_to(corpus)
    (folder / "chats").write_text(str(chats), encoding="utf-8")  # as where there are no links
    (folder / "report.json").write_text("{}", encoding="utf-8")
    (folder / "trained").mkdir()
    assert [stage["name"] for stage in compute_stats(folder)["stages"]] == ["chats", "text"]
    assert page(folder, tmp_path / "all.html").count("<h2 ") == 2


def test_a_difference_that_is_only_a_line_end_can_be_seen(put: Put, run: Run, tmp_path: Path) -> None:
    made = run(
        Corpus,
        put("a.jsonl", [{"text": STREAM + "河边很静。"}, {"text": STREAM + "\n河边很静!"}]),
        validation_fraction=0,
    )
    assert made.metrics["dropped"] == {"near_duplicate": 1}
    assert "<mark>⏎" in page(made.out, tmp_path / "a.html")


def test_licenses_are_those_of_the_records_also_after_a_second_stage(put: Put, run: Run) -> None:
    first = run(Corpus, put("a.jsonl", TEXTS[:4]), source={"license": "MIT"}, dedup="none", validation_fraction=0)
    second = run(Corpus, first.out, rules=[], dedup="none", validation_fraction=0)
    (stage,) = compute_stats(second.out)["stages"]
    assert stage["licenses"] == {"MIT": {"records": 4, "characters": stage["characters"]}}


def test_files_that_no_stage_has_read_are_read_and_left_as_they_are(put: Put) -> None:
    folder = put("a.jsonl", TEXTS).parent
    put("b.jsonl", [{"instruction": "树？", "output": ""}])
    before = {path: path.read_bytes() for path in folder.iterdir()}
    found = {stage["name"]: stage for stage in compute_stats(folder)["stages"]}
    assert found["corpus"]["rows_in"] == 6 and found["conversations"]["dropped"] == {"no_answer": 1}
    assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_large_artifact_is_sampled_evenly_and_says_so(put: Put, run: Run, tmp_path: Path) -> None:
    rows = [{"text": f"第{n}篇文章讲的是第{n * 7919}号果园里的树木。"} for n in range(3000)]
    made = run(Corpus, put("a.jsonl", rows), dedup="none", validation_fraction=0.1)
    stage = compute_stage_stats(made.out, "text", SampleSizes(sample=100))
    assert stage["sample"] == {"records": 100, "of": 3000} and stage["kept"] == 3000
    places = [
        int(row["id"].partition("#")[2])
        for row in compute_stage_stats(made.out, "t", SampleSizes(kept=100))["kept_samples"]
    ]
    assert min(places) < 600 and max(places) > 2400
    assert stage == compute_stage_stats(made.out, "text", SampleSizes(sample=100))
    done = page(made.out, tmp_path / "a.html", "--sample", "100")
    assert "100 kept records drawn evenly from 3,000" in done


def test_memory_does_not_grow_with_the_artifact(tmp_path: Path) -> None:
    def peak(rows: int) -> int:
        folder = tmp_path / str(rows)
        folder.mkdir()
        line = json.dumps({"id": "a#1", "text": "树木" * 500, "source": "a:1"}, ensure_ascii=False) + "\n"
        (folder / "documents.jsonl").write_text(line * rows, encoding="utf-8")
        counts = {"rows_in": rows, "rows_kept": rows, "dropped": {}}
        (folder / "ledger.json").write_text(json.dumps({**counts, "files": []}), encoding="utf-8")
        tracemalloc.start()
        compute_stage_stats(folder, "text", SampleSizes(sample=50))
        most = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return most

    peak(10)
    assert peak(4000) < peak(400) + 200_000


@pytest.mark.parametrize(
    ("name", "content"), [("ledger.json", "[]"), ("ledger.json", "{"), ("documents.jsonl", '{"id": \n')]
)
def test_a_folder_that_is_no_artifact_is_refused_in_one_sentence(corpus: Path, name: str, content: str) -> None:
    (corpus / name).write_text(content, encoding="utf-8")
    with pytest.raises(UserError):
        compute_stage_stats(corpus, "text")
    done = CliRunner().invoke(app, ["data", "report", str(corpus), "--json"])
    assert isinstance(done.exception, UserError)


def test_two_long_texts_are_compared_from_shortly_before_their_first_difference() -> None:
    one = "同" * 5000 + "甲" + "尾" * 5000
    left, right = diff_texts(one, one.replace("甲", "乙"))
    assert left[0] == (False, "…") and left[-1] == (False, "…")
    assert [text for differs, text in left if differs] == ["甲"]
    assert [text for differs, text in right if differs] == ["乙"]
    assert sum(len(text) for _, text in left) < 1500


def test_an_excerpt_says_how_much_it_leaves_out() -> None:
    assert make_excerpt(split_parts({"text": "长" * 1000})) == [{"label": "", "text": "长" * 480, "more": 520}]
    turns = [{"role": "user", "text": "问" * 3} for _ in range(10)]
    assert make_excerpt(split_parts({"messages": turns}))[-1] == {"label": "+2", "text": "", "more": 6}


def share_gpt(*texts: str) -> dict[str, Any]:
    turns = [{"from": ("human", "gpt")[number % 2], "value": text} for number, text in enumerate(texts)]
    return {"conversations": turns}


def test_a_dropped_chat_shows_the_judged_turn_and_the_phrase_that_decided(put: Put, run: Run, tmp_path: Path) -> None:
    good = [share_gpt(f"第{n}天的天气怎样？", f"第{n}天多云，傍晚有小雨，出门请带伞。") for n in range(12)]
    refusing = share_gpt(
        "今天周几？", "今天是周三。", "帮我写一首关于秋天的诗。", "很抱歉，作为一个语言模型，我无法完成这个请求。"
    )
    made = run(Conversations, put("a.json", [*good, refusing]), rules=["default", "refusals"])
    (sample,) = compute_stats(made.out)["stages"][0]["dropped_samples"]["refusal"]
    evidence = sample["evidence"]
    assert (evidence["turn"], evidence["label"]) == (4, "assistant")
    assert evidence["question"] == "帮我写一首关于秋天的诗。"
    assert evidence["phrase"] and evidence["phrase"] in refusing["conversations"][3]["value"]
    html = page(made.out, tmp_path / "report.html")
    assert f"<mark>{evidence['phrase']}</mark>" in html and "conversations&#34;" not in html


@pytest.mark.parametrize(
    ("reason", "detail", "text", "phrase"),
    [
        ("blocklist", "甲词、乙词", "前文里有乙词，还有别的话。", "乙词"),
        ("advertisement", "share 0.71 in lines with calls to action", "点击下方关注我们，领取好礼。", None),
        ("repeated_lines", "share 0.80", "第一行\n同样的一行字\n同样的一行字\n同样的一行字", "同样的一行字"),
        (
            "repeated_phrases",
            "share 0.90",
            "从前有座山山里有座庙，从前有座山山里有座庙，从前有座山山里有座庙，完",
            "从前有座山山里有座庙，",
        ),
        ("repeated_characters", "share 0.90", "好啊啊啊啊啊啊啊啊啊啊", "啊" * 10),
        ("too_short", "1 characters", "短", None),
    ],
)
def test_the_phrase_that_decided_is_found_in_a_document(
    reason: str, detail: str, text: str, phrase: str | None
) -> None:
    evidence = find_evidence({"text": text}, reason, detail)
    assert (None if evidence is None else evidence.phrase) == phrase


def test_lines_that_rules_cut_and_fields_that_no_record_carries_are_shown(put: Put, run: Run, tmp_path: Path) -> None:
    line = "长按识别下方二维码，关注我们的公众号"
    rows = [{"text": f"{STREAM}{n}\n第{n}段接着讲村里的事。\n{line}", "score": {"a": n}} for n in range(3)]
    rows.append({"text": f"{STREAM}第１０段只换了数字，没有一行被删去。\n\n"})
    made = run(Corpus, put("a.jsonl", rows), rules=["default", "advertisement_lines"], dedup="exact")
    stage = compute_stats(made.out)["stages"][0]
    assert stage["cut_lines"] == {line: 3} == made.ledger["cut_lines"]
    html = page(made.out, tmp_path / "report.html")
    assert line in html
    assert stage["unread_fields"] == made.ledger["unread_fields"]
    assert all(name in html for name in stage["unread_fields"])
