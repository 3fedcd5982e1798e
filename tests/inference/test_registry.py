"""Which engine opens what, and what is said when none does."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from hanlin.core.errors import UserError
from hanlin.inference.registry import create_engine
from hanlin.models.folder.gguf import find_gguf_files


def test_auto_takes_llama_cpp_for_gguf_and_transformers_otherwise(spoken_model: Path, spoken_gguf: Path) -> None:
    for path, name in ((spoken_model, "transformers"), (spoken_gguf / "model-Q8_0.gguf", "llama_cpp")):
        engine = create_engine("auto", path)
        assert engine.name == name
        engine.close()


def test_an_unknown_engine_gets_a_suggestion(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="did you mean llama_cpp"):
        create_engine("llamacpp", tmp_path)


def test_a_folder_without_a_model_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"config\.json"):
        create_engine("auto", tmp_path)


def test_gguf_files_are_found_in_the_order_of_their_names(tmp_path: Path) -> None:
    for name in ("b.gguf", "a.gguf", "c.txt"):
        (tmp_path / name).touch()
    assert [file.name for file in find_gguf_files(tmp_path)] == ["a.gguf", "b.gguf"]
    assert find_gguf_files(tmp_path / "b.gguf") == [tmp_path / "b.gguf"]
    assert find_gguf_files(tmp_path / "c.txt") == []


def test_an_engine_whose_package_is_not_there_says_which() -> None:
    code = (
        "import sys; from pathlib import Path\n"
        "sys.modules['transformers'] = None\n"
        "from hanlin.inference.registry import create_engine\n"
        "from hanlin.core.errors import UserError\n"
        "try: create_engine('transformers', Path('.'))\n"
        "except UserError as error: print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert "the engine transformers needs the package transformers" in done.stdout, done.stderr
