"""Decontamination: evaluation questions in training records are found despite punctuation, width and script."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.data import Conversations, Corpus, Decontaminate
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.progress import Progress
from hanlin.core.records import Message, Question
from hanlin.data.dedup.decontaminate import QuestionIndex
from hanlin.data.dedup.question_sets import EvalQuestion, read_questions
from hanlin.evaluate.contamination import load_contamination
from hanlin.evaluate.tasks.definition import packaged_tasks
from hanlin.evaluate.tasks.exam_files import ExamFolder
from stage_runs import STAGES, Made

Put = Callable[[str, Any], Path]
ACADEMY = "唐代翰林院最初设立的时候，主要负责起草什么样的文书？"
BRIDGE = "下列关于赵州桥的说法中，正确的是哪一项？它由谁主持修建？"
STREAM = "Which river flows through the old town before it reaches the northern lake and the sea?"
SETTINGS = Decontaminate(against="./x")
SPRING = "春天的时候，翰林院里开满了花。学士们坐在树下读书，谈论古今的文章，也写下自己的诗句。"


def found(text: str, *asked: str, settings: Decontaminate = SETTINGS) -> list[str]:
    questions = QuestionIndex([EvalQuestion("set", str(n), question) for n, question in enumerate(asked)], settings)
    return [question.id for question in questions.find(text)]


@pytest.mark.parametrize(
    "text",
    [
        f"题目：{ACADEMY}答案：诏书。",
        "唐代翰林院最初设立的时候 主要负责起草什么样的文书",
        "唐代翰林院最初設立的時候，主要負責起草什麼樣的文書？",
        "…唐代翰林院最初设立的时候，主要负责起草什么样的公文，大家知道吗",
    ],
)
def test_a_question_is_found_whatever_punctuation_width_and_script(text: str) -> None:
    assert found(text, BRIDGE, ACADEMY, STREAM) == ["1"]


def test_an_english_question_is_found_by_words() -> None:
    text = "quiz: which RIVER flows through the old town, before it reaches the northern lake and the sea"
    assert found(text, ACADEMY, STREAM) == ["1"]
    other = "Which river flows through the new town before it reaches the southern lake and the sea?"
    assert found(other, STREAM) == []


@pytest.mark.parametrize(
    "text",
    [
        SPRING,
        "唐代的翰林院由学士们组成，他们起草文书，也陪皇帝读书作诗。",
        "下列关于长城的说法中，正确的是哪一项？",
        "唐代翰林院最初设立的时候，规模很小。",
    ],
)
def test_text_on_the_same_topic_is_not_contaminated(text: str) -> None:
    assert found(text, BRIDGE, ACADEMY) == []


def test_one_ngram_is_enough_when_the_share_is_zero() -> None:
    text = "唐代翰林院最初设立的时候主，规模很小。"
    assert found(text, ACADEMY, settings=Decontaminate(against="./x", share=0)) == ["0"]


def test_phrases_of_the_exam_itself_do_not_count() -> None:
    asked = [f"下列有关该现象的叙述中最为恰当的一项是第{n}" for n in "甲乙丙丁戊己庚辛壬癸子丑"]
    assert found("下列有关该现象的叙述中最为恰当的一项是什么", *asked) == []
    assert found("下列有关该现象的叙述中最为恰当的一项是什么", asked[0]) == ["0"]


def test_a_short_question_is_one_ngram_and_a_tiny_one_is_unsearched() -> None:
    assert found("他问赵州桥是谁修建的？没人知道。", "赵州桥是谁修建的？") == ["0"]
    questions = QuestionIndex([EvalQuestion("set", "a", "几点？")], SETTINGS)
    assert questions.find("几点？") == []
    assert questions.report({})["sets"][0]["unsearched"] == ["a"]


def test_a_question_of_few_distinct_characters_is_unsearched() -> None:
    assert found("每件商品的平均价格是 88.88888888888889 元", "8+88+888+8888+88888=．") == []
    assert found("算一算：12+345+6789+98765+4321=？", "12+345+6789+98765+4321=？") == ["0"]


def test_a_passage_belongs_to_its_question(put: Put) -> None:
    rows = [
        {"passage": SPRING, "question": "根据以上陈述，可以得出以下哪项？", "options": ["花开", "花落"], "label": "A"}
    ]
    (asked,) = read_questions(put("a.jsonl", rows), "a")
    assert asked.text.startswith(SPRING) and asked.choices == "花开\n花落"
    assert found("另一题：根据以上陈述，可以得出以下哪项？", asked.text) == []
    assert found(f"{SPRING}根据以上陈述", asked.text) == ["0"]


def test_questions_inside_paragraphs_are_read(put: Put) -> None:
    paragraph = {"context": SPRING, "qas": [{"id": "Q1", "question": ACADEMY}, {"id": "Q2", "question": BRIDGE}]}
    data = json.dumps({"version": "v1", "data": [{"paragraphs": [paragraph], "title": "春"}]}, ensure_ascii=False)
    assert [(asked.id, asked.text) for asked in read_questions(put("squad.json", data), "squad")] == [
        ("Q1", ACADEMY),
        ("Q2", BRIDGE),
    ]


def test_a_stock_phrase_is_searched_with_its_choices() -> None:
    choices = "汉朝\n唐朝\n宋朝\n周朝的初年"
    questions = QuestionIndex([EvalQuestion("set", "a", "下列说法不正确的是", choices)], SETTINGS)
    assert questions.find("练习：下列说法不正确的是哪一项？") == []
    assert [asked.id for asked in questions.find(f"下列说法不正确的是（）\n{choices}")] == ["a"]


EXERCISES = (
    "一列火车每小时行120千米，4.5小时后离终点还有36千米，全程多少千米？",
    "果园里有苹果树245棵，比梨树多30%，其中(3/5)已经结果，已经结果的苹果树有几棵？",
    "工厂去年生产零件75000个，今年每月多生产2800个，今年12个月一共生产多少个？",
)
RIVER = "A boat travels 45 miles down the river in 3 hours, and it takes 5 hours to come back; how fast is the current?"


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("一列火车每小时行一百二十千米，四点五小时后离终点还有三十六千米，全程多少千米？", 0),
        ("一列火车每小时行１２０千米，４．５小时后离终点还有３６千米，全程多少千米？", 0),
        ("一列火车每小时行壹佰贰拾千米，肆点伍小时后离终点还有叁拾陆千米，全程多少千米？", 0),
        ("果园里有苹果树二百四十五棵，比梨树多百分之三十，其中五分之三已经结果，已经结果的苹果树有几棵？", 1),
        ("工厂去年生产零件7.5万个，今年每月多生产两千八百个，今年十二个月一共生产多少个？", 2),
        ("工厂去年生产零件七万五千个，今年每月多生产2千8百个，今年12个月一共生产多少个？", 2),
        ("a boat travels forty-five miles down the river in three hours, and it takes five hours to come back", 3),
    ],
)
def test_a_question_is_found_whatever_its_numbers_are_written_in(text: str, index: int) -> None:
    strict = Decontaminate(against="./x", reworded=0)
    assert found(f"练习：{text}答：略。", *EXERCISES, RIVER, settings=strict) == [str(index)]


@pytest.mark.parametrize(
    ("text", "index"),
    [
        ("请问，一列火车每小时能行120千米，4.5小时之后距离终点还有36千米，那么全程是几千米呢？", 0),
        ("一列火车行了4.5小时后离终点还有36千米，每小时行120千米，全程多少千米？", 0),
        ("去年工厂生产零件75000个，今年每个月要多生产2800个，问今年12个月总共能生产多少零件？", 2),
        ("Suppose it takes 5 hours for a boat to come back after it travels 45 miles down a river in 3 hours. "
         "How fast was the current?", 3),
        ("请问以下有关赵州桥之说法里，哪一项是正确的呢？是由谁主持修建的？", 4),
    ],
)  # fmt: skip
def test_a_question_in_other_function_words_or_another_order_is_found(text: str, index: int) -> None:
    assert found(f"练习：{text}答：略。", *EXERCISES, RIVER, BRIDGE) == [str(index)]
    assert found(f"{SPRING * 9}{text}{SPRING * 9}", *EXERCISES, RIVER, BRIDGE) == [str(index)]


@pytest.mark.parametrize(
    "text",
    [
        "一列火车每小时行90千米，6.5小时后离终点还有15千米，全程多少千米？",  # another exercise
        "翰林院是在唐代最初设立的，那时主要负责为皇帝起草文书。",  # says it, and does not ask
        "赵州桥由李春主持修建，下列图中正确的是第三幅。",
        f"翰林院在唐代设立。{SPRING * 9}最初负责起草文书的是谁，已经没有人知道。",  # not in one place
        "We took a boat down the river for 3 hours, and the current was fast. It was 45 miles to the sea. Who knew?",
    ],
)
def test_text_that_says_the_same_or_asks_something_else_is_not_a_reworded_question(text: str) -> None:
    assert found(text, *EXERCISES, RIVER, BRIDGE, ACADEMY) == []


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ("青蛙的生殖特征是_____", "练习题。试问青蛙之生殖特征为？答案见下页。"),
        ("织物的密度是指什么？", "请问，织物密度指啥？"),
        ("艺术的主要功能是？_____", "_____请问，艺术主要功能为？"),
        ("属于腹膜内位的器官是", "今天的作业里有这样一道题：属于腹膜内位之器官为你会做吗？"),
        ("公平理论注重的是分配", "想问一下：公平理论注重之为分配。"),
        ("化学反应中，反应物与产物之间的关系是？", "想问一下：反应物与产物之间之关系为何？化学反应中，"),
        ("What fraction is half-way between 2 and 2.5?", "Exercise 7. What fraction was half-way between 2 plus 2.5?"),
        (
            "Is 123 divisible by 11? If not, what is the remainder?",
            "If not, what was a remainder? Is 123 divisible by 11?",
        ),
        (
            "when was the last time a hurricane hit the uk",
            "Exercise 7. When is the last time one hurricane hit this uk The answer is on the next page.",
        ),
    ],
)
def test_a_question_too_short_for_ngrams_is_found_where_it_stands_alone(asked: str, text: str) -> None:
    assert found(text, asked, BRIDGE, STREAM) == ["0"]


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ("青蛙的生殖特征是_____", "青蛙的生殖特征，书上写得很清楚。"),
        ("青蛙的生殖特征是_____", "青蛙的生殖特征和捕食方式各是什么？"),
        ("属于腹膜内位的器官是", "属于腹膜内位之器官为胃和脾，它们几乎全被腹膜包住。"),
        ("Windows是一种", "Windows 为一种系统，你会装吗？"),
        ("圆柱的高是15厘米，底面积是多少？", "圆柱的高是18厘米，底面积为多少？"),
        (
            "What fraction is half-way between 2 and 2.5?",
            "A fraction half-way between 2 and 2.5 is easily drawn.",
        ),
        (
            "when was the last time a hurricane hit the uk",
            "It was the last time a hurricane hit the UK The roofs were mended.",
        ),
        (
            "when was the last time a hurricane hit the uk",
            "When they wrote that it was the last time a hurricane hit the UK, nobody knew the next one.",
        ),
    ],
)
def test_a_clause_that_says_more_or_asks_nothing_is_not_a_short_question(asked: str, text: str) -> None:
    assert found(text, asked) == []


def question_file(put: Put) -> Path:
    asked = [
        Question((Message("user", text),), ("x",), name)
        for name, text in (("q1", ACADEMY), ("q2", BRIDGE), ("q3", STREAM))
    ]
    return put("validation.jsonl", [question.to_json() for question in asked])


def stage(kind: type[Corpus | Conversations], out: Path, source: Path, against: Path, **settings: Any) -> Made:
    out.mkdir()
    inputs = Inputs({"sources.0.path": (source,), "decontaminate.against": (against,)})
    asked = {"against": "./q", **settings.pop("decontaminate", {})}
    metrics = STAGES[kind][0].run(
        kind(sources="./s", decontaminate=asked, validation_fraction=0, **settings), inputs, out, StageContext()
    )
    return Made(out, metrics)


def test_contaminated_rows_are_dropped_and_the_questions_reported(put: Put, tmp_path: Path) -> None:
    source = put("a.jsonl", [{"text": f"试题：{ACADEMY}"}, {"text": SPRING}, {"text": f"{SPRING}又问：{ACADEMY}"}])
    made = stage(Corpus, tmp_path / "out", source, question_file(put))
    assert made.texts == [SPRING] and made.ledger["dropped"] == {"contaminated": 2}
    assert [row["detail"] for row in made.dropped] == ["q1", "q1"]
    (row,) = json.loads((made.out / "contamination.json").read_text(encoding="utf-8"))["sets"]
    assert row["contaminated"] == {"q1": 2} and row["clean"] == ["q2", "q3"]
    assert made.metrics["contaminated_questions"] == 1 and made.metrics["clean_questions"] == 2


def test_rows_can_be_marked_instead(put: Put, tmp_path: Path) -> None:
    rows = [
        {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "答"}]}
        for text in (ACADEMY, "你好")
    ]
    made = stage(
        Conversations, tmp_path / "out", put("a.jsonl", rows), question_file(put), decontaminate={"action": "mark"}
    )
    assert [row.get("meta") for row in made.kept] == [{"contaminated": ["q1"]}, None]


def test_the_evaluation_reads_the_report_and_refuses_an_unknown_question(put: Put, tmp_path: Path) -> None:
    made = stage(Corpus, tmp_path / "out", put("a.jsonl", [{"text": ACADEMY}, {"text": SPRING}]), question_file(put))
    assert load_contamination([made.out]).split(["q1", "q2"], "x") == ({"q1"}, {"q2"})
    with pytest.raises(UserError, match="q9"):
        load_contamination([made.out]).split(["q9"], "x")
    with pytest.raises(UserError, match="not compared"):
        load_contamination([tmp_path])


def test_ids_of_an_exam_are_those_that_the_exam_uses(tmp_path: Path) -> None:
    folder = tmp_path / "cmmlu"
    (folder / "test").mkdir(parents=True)
    (folder / "test" / "history.csv").write_text(
        f",Question,A,B,C,D,Answer\n0,{ACADEMY},诏书,账簿,家信,史书,A\n1,短？,甲,乙,丙,丁,B\n", encoding="utf-8"
    )
    asked = list(read_questions(folder, "cmmlu"))
    assert [question.id for question in asked] == [
        q.id for q in ExamFolder(packaged_tasks()["cmmlu"].columns, folder).read("test", "history")
    ]
    assert asked[0].text == ACADEMY and asked[0].choices == "诏书\n账簿\n家信\n史书"


def test_an_exam_without_a_header_is_read_too(tmp_path: Path) -> None:
    folder = tmp_path / "mmlu"
    (folder / "test").mkdir(parents=True)
    (folder / "test" / "rivers_test.csv").write_text(f'"{STREAM}",a,b,c,d,A\n', encoding="utf-8")
    (asked,) = read_questions(folder, "mmlu")
    assert asked.id == ExamFolder((), folder).read("test", "rivers")[0].id == "rivers/test/0"


@pytest.mark.parametrize(
    ("row", "text"),
    [
        ({"question_id": 81, "turns": ["写一首诗", "再写一首"]}, "写一首诗\n再写一首"),
        ({"id": "81", "question": "1+1=?", "answer": "2"}, "1+1=?"),
        (
            {"idx": 81, "premise": "他摔倒了。", "choice1": "路滑。", "choice2": "天晴。", "question": "cause"},
            "他摔倒了。",
        ),
        ({"id": 81, "goal": "How to dry boots?", "sol1": "a", "sol2": "b"}, "How to dry boots?"),
        ({"id": 81, "context": "过年了，爷爷", "choices": ["包饺子。", "睡觉。"], "label": 0}, "过年了，爷爷"),
        ({"qid": 81, "question": "谁？", "context": "一段文字"}, "谁？"),
    ],
)
def test_other_question_files_are_read(put: Put, row: dict[str, Any], text: str) -> None:
    assert [(asked.id, asked.text) for asked in read_questions(put("q.jsonl", [row]), "q")] == [("81", text)]


def test_a_compressed_file_of_questions_is_read_and_a_broken_one_refused(tmp_path: Path) -> None:
    file = tmp_path / "q.jsonl.gz"
    data = gzip.compress(b'{"id": "81", "text": "1+1=?"}\n')
    file.write_bytes(data)
    assert [(asked.id, asked.text) for asked in read_questions(file, "q")] == [("81", "1+1=?")]
    for broken in (data[:-9], b"no gzip at all", data[:12] + b"\xff\xff" + data[14:]):
        file.write_bytes(broken)
        with pytest.raises(UserError, match="not a gzip file") as caught:
            list(read_questions(file, "q"))
        assert str(file) in str(caught.value)


@pytest.mark.parametrize("data", ["", "{oops\n", '{"a": 1}\n'])
def test_a_file_without_questions_is_refused(put: Put, data: str) -> None:
    with pytest.raises(UserError):
        list(read_questions(put("q.jsonl", data), "q"))


def test_rows_without_a_question_are_counted_by_file_and_said(
    put: Put, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = put("q.jsonl", [{"question": ACADEMY}, {"answer": "诏书"}, {"question": " "}, "一行字"])
    unasked: Counter[Path] = Counter()
    assert [question.text for question in read_questions(asked, "q", unasked)] == [ACADEMY]
    assert unasked == {asked: 3}
    said: list[str] = []
    out = tmp_path / "out"
    out.mkdir()
    inputs = Inputs({"sources.0.path": (put("a.jsonl", [{"text": SPRING}]),), "decontaminate.against": (asked,)})
    settings = Corpus(sources="./s", decontaminate={"against": "./q"}, validation_fraction=0)
    monkeypatch.setattr(Progress, "log", lambda self, sentence: said.append(sentence))
    metrics = STAGES[Corpus][0].run(settings, inputs, out, StageContext())
    assert len(said) == 1 and str(asked) in said[0] and "3 rows" in said[0]
    assert metrics["rows_without_question"] == 3


def test_a_file_of_rows_without_any_question_is_refused_also_in_a_folder(put: Put, tmp_path: Path) -> None:
    folder = tmp_path / "exam"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"question": "甲是什么？"}\n', encoding="utf-8")
    (folder / "subjects.json").write_text('[{"name": "history"}]', encoding="utf-8")
    assert len(list(read_questions(folder, "exam"))) == 1
    (folder / "b.jsonl").write_text('{"ask": "乙是什么？"}\n', encoding="utf-8")
    with pytest.raises(UserError, match="no question") as error:
        list(read_questions(folder, "exam"))
    assert error.value.where == str(folder / "b.jsonl") and "one by one" in str(error.value)


def test_every_split_of_a_file_and_a_table_without_choices_are_read(put: Put, tmp_path: Path) -> None:
    splits = tmp_path / "q.json"
    splits.write_text(json.dumps({"about": ["x"], "dev": [{"question": "甲？"}], "test": [{"question": "乙？"}]}))
    assert [question.text for question in read_questions(splits, "q")] == ["甲？", "乙？"]
    table = tmp_path / "q.csv"
    table.write_text("id,question,answer\n1,丙是什么？,丁\n2,,戊\n", encoding="utf-8")
    unasked: Counter[Path] = Counter()
    (asked,) = read_questions(table, "q", unasked)
    assert (asked.text, asked.choices, unasked) == ("丙是什么？", "", {table: 1})


def test_a_folder_of_questions_is_read_whole_or_refused(tmp_path: Path) -> None:
    folder = tmp_path / "exam"
    folder.mkdir()
    (folder / "a.jsonl").write_text('{"id": "1", "prompt": "", "input": "甲是什么？"}\n', encoding="utf-8")
    (folder / "b.jsonl.gz").write_bytes(gzip.compress('{"id": "2", "question": "乙是什么？"}\n'.encode()))
    (folder / "README.md").write_text("about", encoding="utf-8")
    assert [question.text for question in read_questions(folder, "exam")] == ["甲是什么？", "乙是什么？"]
    table = folder / "c.parquet"
    table.write_bytes(b"PAR1")
    with pytest.raises(UserError, match="not read") as error:
        list(read_questions(folder, "exam"))
    assert error.value.where == str(table)


TALK = ("江南的春天从几月开始，柳树发芽？", "城南的小图书馆每天几点开门？")
ASKED = [{"role": "user", "content": text} for text in TALK]
BETWEEN = {"role": "assistant", "content": "二月。"}
FORMS: list[dict[str, Any]] = [
    {"messages": [ASKED[0], BETWEEN, ASKED[1]], "answers": ["九点"]},
    {"conversations": [{"from": "human", "value": text} for text in TALK]},
    {"conversation": [{"human": text, "assistant": "二月。"} for text in TALK]},
    {"prompt": ASKED, "answer": "九点"},
    {"question_id": 1, "turns": list(TALK)},
]


@pytest.mark.parametrize("form", FORMS)
def test_a_question_of_several_turns_is_found_with_any_answers_between_them(tmp_path: Path, form: Any) -> None:
    path = tmp_path / "q.jsonl"
    path.write_text(json.dumps(form, ensure_ascii=False), encoding="utf-8")
    (question,) = read_questions(path, "set")
    assert (question.text, question.turns) == ("\n".join(TALK), TALK)
    index = QuestionIndex([question], Decontaminate(against="./x", reworded=0))
    for answer in ("从二月开始，柳树已经发芽了。", "三月。" * 40):
        assert index.find(f"{TALK[0]}\n{answer}\n{TALK[1]}\n九点开门。") == [question], answer
    assert index.find(SPRING) == [] and index.find("江南的春天来得很早。\n好。\n那么城南的小路在哪里？") == []


def test_short_turns_of_a_question_are_searched_by_the_longest_and_shorter_ones_not_at_all() -> None:
    def index_of(*turns: str) -> QuestionIndex:
        return QuestionIndex([EvalQuestion("set", "1", "\n".join(turns), "", turns)], SETTINGS)

    assert len(index_of("他几岁？", "赵州桥是谁主持修建的？").find("甲：赵州桥是谁主持修建的？乙：李春。")) == 1
    assert index_of("他几岁？", "在哪里？").find("他几岁？三岁。在哪里？在家。") == []
