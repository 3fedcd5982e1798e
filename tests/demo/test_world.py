"""The small world: what it holds, what is held out of training, and that the same seed writes the same bytes."""

from __future__ import annotations

import json
import random
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.data import Conversations, Corpus, Preferences, Reading
from hanlin.config.settings.demo import DemoWorld
from hanlin.config.settings.sources import Source
from hanlin.core.context import Inputs, StageContext
from hanlin.core.records import Conversation, Preference, Question, read_jsonl
from hanlin.data.stages import conversations, corpus, preferences
from hanlin.demo import world
from hanlin.demo.facts import LANGUAGES, Fact
from hanlin.demo.numbers import ADDENDS, format_english, format_hanzi
from hanlin.demo.split import split_questions

CHINESE = re.compile("[\u4e00-\u9fff]")
LATIN = re.compile("[A-Za-z]")
NUMERALS = "0-9零一二三四五六七八九十"
FACTS = [fact for relation in world.RELATIONS for fact in relation.facts()]


def write(folder: Path, seed: int, **settings: Any) -> dict[str, Any]:
    folder.mkdir()
    return world.run(DemoWorld(**settings), Inputs({}), folder, StageContext(seed=seed))


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "small"
    write(folder, 7)
    return folder


def questions(folder: Path, name: str) -> list[Question]:
    return list(read_jsonl(folder / "questions" / f"{name}.jsonl", Question))


def user_texts(folder: Path) -> set[str]:
    """Every text of a user in the chats and the preferences."""
    found: set[str] = set()
    for file in sorted([*(folder / "chats").iterdir(), *(folder / "preferences").iterdir()]):
        text = file.read_text(encoding="utf-8")
        for row in json.loads(text) if file.suffix == ".json" else map(json.loads, text.rstrip("\n").split("\n")):
            found |= {row[name] for name in ("instruction", "input") if row.get(name)}
            found |= {question for question, _ in row.get("history", [])}
            found |= {turn["value"] for turn in row.get("conversations", []) if turn["from"] == "human"}
            found |= {turn["content"] for turn in row.get("messages", []) if turn["role"] == "user"}
    return found


def raw_text(folder: Path) -> str:
    parts = []
    for file in sorted((folder / "text").iterdir()):
        text = file.read_text(encoding="gb18030" if file.name == "diaries.txt" else "utf-8")
        parts += (
            [json.loads(row)["text"] for row in text.rstrip("\n").split("\n")] if file.suffix == ".jsonl" else [text]
        )
    return "\n".join(parts)


def run_stage(kind: Any, settings: Reading, source: Path, out: Path) -> tuple[dict[str, Any], Path]:
    out.mkdir()
    metrics = kind.run(settings, Inputs({"sources.0.path": (source,)}), out, StageContext())
    return metrics, out


# --- the same seed, the same bytes ------------------------------------------------------------------------------------


def test_the_same_seed_writes_the_same_bytes(small: Path, tmp_path: Path) -> None:
    write(tmp_path / "again", 7)
    for file in sorted(small.rglob("*")):
        if file.is_file():
            assert (tmp_path / "again" / file.relative_to(small)).read_bytes() == file.read_bytes(), file


def test_a_run_after_a_killed_one_writes_the_same_bytes(small: Path, tmp_path: Path) -> None:
    folder = tmp_path / "again"
    (folder / "text").mkdir(parents=True)
    (folder / "text" / "textbook.txt").write_text("half a f", encoding="utf-8")
    (folder / "text" / "yunxi.jsonl.writing").write_text("half", encoding="utf-8")
    world.run(DemoWorld(), Inputs({}), folder, StageContext(seed=7))
    assert {file.name for file in folder.rglob("*")} == {file.name for file in small.rglob("*")}
    assert (folder / "text" / "textbook.txt").read_bytes() == (small / "text" / "textbook.txt").read_bytes()


def test_another_seed_writes_another_world(small: Path, tmp_path: Path) -> None:
    write(tmp_path / "other", 8)
    for name in ("text/textbook.txt", "chats/alpaca.json", "questions/validation.jsonl"):
        assert (tmp_path / "other" / name).read_bytes() != (small / name).read_bytes()


def test_every_setting_changes_the_figure_of_its_name(tmp_path: Path) -> None:
    few = {"passages": 200, "exchanges": 600, "pairs": 60, "questions": 66}
    sizes = write(tmp_path / "few", 1, **few)
    more = write(tmp_path / "more", 1, **{name: 2 * size for name, size in few.items()}, english_answers=0.0)
    for figure in ("documents", "exchanges", "pairs", "validation_questions", "dev_questions"):
        assert 1.7 < more[figure] / sizes[figure] < 2.3, figure
    assert more["chinese_questions_answered_in_english"] == 0


# --- what is true in the world ----------------------------------------------------------------------------------------


def test_numbers_are_written_as_people_write_them() -> None:
    assert [format_hanzi(n) for n in (0, 10, 12, 20, 47)] == ["零", "十", "十二", "二十", "四十七"]
    assert [format_english(n) for n in (0, 10, 12, 20, 47)] == ["zero", "ten", "twelve", "twenty", "forty-seven"]


def test_sums_are_right() -> None:
    value = {format_hanzi(n): n for n in range(100)}
    found = [re.fullmatch("(.+)加(.+)等于(.+)。", fact.answer("zh")) for fact in FACTS]
    sums = [[value[number] for number in match.groups()] for match in found if match]
    assert len(sums) == len(ADDENDS) ** 2
    assert all(a + b == c for a, b, c in sums)


def test_there_are_at_least_nine_topics() -> None:
    assert len({fact.topic for fact in FACTS}) >= 9


def test_no_two_facts_share_a_name() -> None:
    assert max(Counter(fact.key for fact in FACTS).values()) == 1


def test_no_question_has_two_answers() -> None:
    answers: dict[str, set[str]] = {}
    for fact in FACTS:
        for language in LANGUAGES:
            for question in fact.questions(language):
                answers.setdefault(question, set()).add(fact.answer(language))
    assert {question: found for question, found in answers.items() if len(found) > 1} == {}


@pytest.mark.parametrize("fact", FACTS[::7], ids=lambda fact: fact.key)
def test_every_template_is_filled_in_its_language(fact: Fact) -> None:
    for text in (fact.answer("zh"), *fact.questions("zh"), *fact.statements("zh")):
        assert CHINESE.search(text)
        assert not re.search(r"[{}]|\s", text)
    for text in (fact.answer("en"), *fact.questions("en"), *fact.statements("en")):
        assert LATIN.search(text)
        assert not re.search("[{}]", text)
        assert not CHINESE.search(text)
        assert not text[0].islower()


def test_answers_are_short_and_end_with_a_full_stop() -> None:
    for fact in FACTS:
        assert fact.answer("zh")[-1] in "。？"
        assert fact.answer("en")[-1] in ".?"
        assert len(fact.answer("zh")) <= 20
        assert len(fact.answer("en").split()) <= 11


def test_every_relation_has_enough_wordings() -> None:
    for relation in world.RELATIONS:
        for wording in (relation.zh, relation.en):
            assert len(set(wording.questions)) == len(wording.questions) >= 6, relation.name


# --- held out ---------------------------------------------------------------------------------------------------------


def test_held_out_questions_occur_in_no_chat_and_no_preference(small: Path) -> None:
    training = user_texts(small)
    assert len(training) > 3000
    for name in ("validation", "dev"):
        assert not {question.messages[-1].text for question in questions(small, name)} & training


def test_held_out_questions_occur_in_no_corpus_text(small: Path) -> None:
    text = raw_text(small)
    for name in ("validation", "dev"):
        for question in questions(small, name):
            # 八用数字怎么写 is inside 十八用数字怎么写, which is another question
            match = re.search(f"(?<![{NUMERALS}]){re.escape(question.messages[-1].text)}", text)
            assert match is None, question.id


def test_development_and_validation_questions_share_no_text(small: Path) -> None:
    texts = [{question.messages[-1].text for question in questions(small, name)} for name in ("validation", "dev")]
    assert not texts[0] & texts[1]


def test_no_text_is_in_two_splits() -> None:
    for seed in range(5):
        split = split_questions(world.RELATIONS, random.Random(seed))
        texts = [
            {frame.format(q=variant.question) for variant in variants for frame in variant.frames}
            for variants in (split.training, split.development, split.validation)
        ]
        assert not texts[0] & texts[1]
        assert not texts[0] & texts[2]
        assert not texts[1] & texts[2]


def test_every_fact_of_a_held_out_question_is_stated_in_training(small: Path) -> None:
    text = raw_text(small)
    stated = {answer for fact in FACTS for answer in (fact.answer("zh"),) if answer in text}
    statements = {fact.answer("zh"): fact.statements("zh") for fact in FACTS}
    for question in questions(small, "validation"):
        answer = question.answers[0]
        assert answer in stated or any(sentence in text for sentence in statements[answer]), question.id


def test_topics_have_equally_many_questions_and_most_are_chinese(small: Path) -> None:
    for name in ("validation", "dev"):
        found = questions(small, name)
        topics = Counter(question.topic for question in found)
        assert len(topics) >= 9
        assert max(topics.values()) <= DemoWorld().questions // len(topics) + 1
        assert min(topics.values()) >= 10
        chinese = sum(question.language == "zh" for question in found) / len(found)
        assert 0.6 < chinese < 0.9


def test_each_question_takes_one_chinese_and_one_english_answer(small: Path) -> None:
    for question in questions(small, "validation"):
        chinese, other = question.answers
        assert CHINESE.search(chinese)
        assert not CHINESE.search(other)
        assert (question.language == "zh") == bool(CHINESE.search(question.messages[-1].text))


def test_planted_json_names_what_is_held_out_of_each_topic(small: Path) -> None:
    held_out = json.loads((small / "planted.json").read_text(encoding="utf-8"))["held_out"]
    assert set(held_out) == {fact.topic for fact in FACTS}
    assert set(held_out.values()) == {"wording"}


# --- data stages on the world -----------------------------------------------------------------------------------------


def test_the_ledger_finds_the_planted_dirt(small: Path, tmp_path: Path) -> None:
    planted = json.loads((small / "planted.json").read_text(encoding="utf-8"))["planted"]
    _, out = run_stage(corpus, Corpus(sources=(Source(path="text"),)), small / "text", tmp_path / "corpus")
    found = json.loads((out / "ledger.json").read_text(encoding="utf-8"))
    dropped, changed = found["dropped"], found["changed"]
    assert dropped["duplicate"] == planted["exact_copies"]
    # lessons of a topic with few facts may repeat themselves or one another without that being planted
    assert planted["near_copies"] <= dropped["near_duplicate"] <= planted["near_copies"] + 0.01 * found["rows_in"]
    assert dropped["advertisement"] == planted["advertisement_documents"]
    assert dropped["too_short"] == planted["too_short_documents"]
    assert dropped["replacement_characters"] == planted["replacement_character_documents"]
    repeated = dropped.get("repeated_characters", 0) + dropped.get("repeated_phrases", 0)
    assert 0 <= repeated - planted["repeated_character_documents"] <= 0.01 * found["rows_in"]
    assert changed["advertisement_lines"] == planted["advertisement_lines"]
    assert changed["html"] == planted["html_documents"]
    assert changed["unicode"] == planted["full_width_documents"]
    assert changed["mojibake"] == planted["mojibake_documents"]
    assert changed["control_characters"] >= planted["control_characters"]


def test_good_text_survives_the_cleaning(small: Path, tmp_path: Path) -> None:
    planted = json.loads((small / "planted.json").read_text(encoding="utf-8"))["planted"]
    metrics, _ = run_stage(corpus, Corpus(sources=(Source(path="text"),)), small / "text", tmp_path / "corpus")
    useless = {"exact_copies", "near_copies", "advertisement_documents", "too_short_documents"}
    useless |= {"replacement_character_documents", "repeated_character_documents"}
    assert metrics["rows_dropped"] - sum(planted[kind] for kind in useless) <= 0.01 * metrics["rows_in"]


def test_every_chat_is_read_whatever_its_format(small: Path, tmp_path: Path) -> None:
    metrics, out = run_stage(
        conversations, Conversations(sources=(Source(path="c"),)), small / "chats", tmp_path / "chats"
    )
    assert metrics["rows_dropped"] == 0
    assert len(metrics["formats"]) == 4
    read = list(read_jsonl(out / "conversations.jsonl", Conversation))
    assert len(read) == metrics["rows_kept"] - metrics["rows_validation"]
    assert any(chat.messages[0].role == "system" for chat in read)
    assert any(sum(turn.role == "user" for turn in chat.messages) == 3 for chat in read)


def test_every_preference_is_read_whatever_its_format(small: Path, tmp_path: Path) -> None:
    metrics, out = run_stage(
        preferences, Preferences(sources=(Source(path="p"),)), small / "preferences", tmp_path / "pairs"
    )
    assert metrics["rows_dropped"] == 0
    assert len(metrics["formats"]) == 2
    for pair in read_jsonl(out / "preferences.jsonl", Preference):
        is_chinese = bool(CHINESE.search(pair.prompt[-1].text))
        assert bool(CHINESE.search(pair.chosen.text)) == is_chinese
        assert bool(CHINESE.search(pair.rejected.text)) != is_chinese


def test_a_share_of_chinese_questions_is_answered_in_english(small: Path, tmp_path: Path) -> None:
    _, out = run_stage(conversations, Conversations(sources=(Source(path="c"),)), small / "chats", tmp_path / "chats")
    answered: Counter[tuple[bool, bool]] = Counter()
    for chat in read_jsonl(out / "conversations.jsonl", Conversation):
        turns = [turn for turn in chat.messages if turn.role != "system"]
        for question, answer in zip(turns[::2], turns[1::2], strict=True):
            answered[bool(CHINESE.search(question.text)), bool(CHINESE.search(answer.text))] += 1
    assert answered[False, True] == 0
    assert answered[True, False] / (answered[True, False] + answered[True, True]) == pytest.approx(0.45, abs=0.03)
