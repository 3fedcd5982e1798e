"""The files of exams: three layouts."""

from __future__ import annotations

from pathlib import Path

import pytest

from hanlin.core.errors import UserError
from hanlin.evaluate.tasks.definition import packaged_tasks
from hanlin.evaluate.tasks.exam_files import ExamFolder, ExamQuestion

COLUMNS = {name: task.columns for name, task in packaged_tasks().items()}


def cmmlu(folder: Path, rows: str) -> ExamFolder:
    (folder / "test").mkdir()
    (folder / "test" / "anatomy.csv").write_text(",Question,A,B,C,D,Answer\n" + rows, encoding="utf-8-sig")
    return ExamFolder(COLUMNS["cmmlu"], folder)


def test_cmmlu_is_read_by_its_heading(tmp_path: Path) -> None:
    exam_folder = cmmlu(tmp_path, '0,"心脏,有几个腔？",一,二,三,四,D\n')
    (question,) = exam_folder.read("test", "anatomy")
    assert question == ExamQuestion("anatomy", "anatomy/test/0", "心脏,有几个腔？", ("一", "二", "三", "四"), "D")


def test_ceval_is_read_with_further_columns_and_lines_inside_cells(tmp_path: Path) -> None:
    text = 'id,question,A,B,C,D,answer,explanation\n1,甲,一,二,三,四,c,"因为\n所以"\n2,乙,一,二,三,四,A,无\n'
    (tmp_path / "law_val.csv").write_text(text, encoding="utf-8")
    exam_folder = ExamFolder(COLUMNS["ceval"], tmp_path)
    assert exam_folder.subjects("val") == ["law"]
    assert [question.answer for question in exam_folder.read("val", "law")] == ["C", "A"]


def test_mmlu_has_no_heading(tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "us_law_test.csv").write_text('"Say ""yes""?",1,2,3,4,B\n', encoding="utf-8")
    exam_folder = ExamFolder(COLUMNS["mmlu"], tmp_path)
    assert exam_folder.subjects("test") == ["us_law"]
    assert exam_folder.read("test", "us_law")[0].text == 'Say "yes"?'


def test_a_missing_answer_is_named_by_file_and_line(tmp_path: Path) -> None:
    exam_folder = cmmlu(tmp_path, "0,甲,一,二,三,四,D\n1,乙,一,二,三,四,\n")
    with pytest.raises(UserError, match=r"anatomy\.csv:3: the answer is ''"):
        exam_folder.read("test", "anatomy")


def test_a_short_row_is_named_by_file_and_line(tmp_path: Path) -> None:
    exam_folder = cmmlu(tmp_path, "0,甲,一,二\n")
    with pytest.raises(UserError, match=r"anatomy\.csv:2: .*has 4"):
        exam_folder.read("test", "anatomy")


def test_another_heading_is_refused(tmp_path: Path) -> None:
    exam_folder = cmmlu(tmp_path, "")
    with pytest.raises(UserError, match="the heading lacks question, answer"):
        ExamFolder(COLUMNS["ceval"], exam_folder.folder).read("test", "anatomy")


def test_a_file_in_another_encoding_is_refused(tmp_path: Path) -> None:
    exam_folder = cmmlu(tmp_path, "")
    (tmp_path / "test" / "anatomy.csv").write_bytes(",Question,A,B,C,D,Answer\n0,心脏".encode("gb18030"))
    with pytest.raises(UserError, match="not CSV in UTF-8"):
        exam_folder.read("test", "anatomy")


def test_an_unknown_subject_is_refused_with_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean anatomy"):
        cmmlu(tmp_path, "").subjects("test", ["anatomi"])


def test_a_folder_without_the_split_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no val part"):
        ExamFolder(COLUMNS["ceval"], tmp_path).subjects("val")


@pytest.mark.parametrize(("exam", "folder", "least"), [("cmmlu", "cmmlu", 7000), ("mmlu", "mmlu", 3000)])
def test_real_papers_are_read_whole(shared_data: Path, exam: str, folder: str, least: int) -> None:
    exam_folder = ExamFolder(COLUMNS[exam], shared_data / "eval" / folder)
    read = {subject: exam_folder.read("test", subject) for subject in exam_folder.subjects("test")}
    assert sum(map(len, read.values())) > least
    assert all(len(exam_folder.read("dev", subject)) == 5 for subject in read)


def test_real_ceval_rows_are_read(shared_data: Path) -> None:
    exam_folder = ExamFolder(COLUMNS["ceval"], shared_data / "eval" / "ceval_format_sample")
    assert exam_folder.subjects("val") == ["default"]
    assert exam_folder.read("dev", "default")[0].answer == "C"
