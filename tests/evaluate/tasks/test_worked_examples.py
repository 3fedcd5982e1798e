"""Worked examples: a question is never shown beside its own answer, and files may number their questions alike."""

from __future__ import annotations

from hanlin.evaluate.tasks.items import Item, Items, draw_examples


def item(name: str, text: str, *choices: str) -> Item:
    return Item(name, "", {"question": text}, choices)


def test_examples_of_another_file_may_have_the_ids_of_the_questions() -> None:
    questions = [item("0", "问零"), item("1", "问一"), item("9", "问九")]
    items = Items(questions, {"": [item(str(index), f"例{index}") for index in range(4)]})
    shown = [[example.fields["question"] for example in items.examples_of(question, 2)] for question in questions]
    assert shown == [["例0", "例1"]] * 3


def test_a_question_that_is_there_twice_is_not_shown_with_its_answer() -> None:
    asked = item("a", "同", "甲", "乙")
    pool = [item("b", "同", "乙", "甲"), item("c", "同", "甲", "丙"), item("d", "异", "甲", "乙")]
    shown = [example.id for example in Items([asked], {"": [*pool, asked]}).examples_of(asked, 3)]
    assert shown == ["c", "d"]  # the same words with another choice are another question


def test_one_more_is_drawn_where_the_examples_are_the_questions_themselves() -> None:
    questions = [item(str(index), f"问{index}") for index in range(6)]
    drawn = draw_examples(Items(questions, {"": questions}), 4)
    for question in questions:
        shown = [example.fields["question"] for example in drawn.examples_of(question, 4)]
        assert len(shown) == 4 and question.fields["question"] not in shown
    others = Items(questions, {"": [item(str(index), f"例{index}") for index in range(5)]})
    assert all(len(examples) == 4 for examples in draw_examples(others, 4).drawn.values())


def test_a_question_that_is_among_the_examples_of_an_exam_is_asked_with_the_others() -> None:
    asked = item("test/0", "问零")
    pool = [item(f"dev/{index}", text) for index, text in enumerate(("问零", "例一", "例二"))]
    drawn = draw_examples(Items([asked, item("test/1", "问一")], {"": pool}), 3)
    assert len(drawn.drawn["test/0"]) == 3
    assert {example.fields["question"] for example in drawn.examples_of(asked, 3)} == {"例一", "例二"}
