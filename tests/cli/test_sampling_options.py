"""The sampling options of `chat` and `generate` take what servers take: -1 for no limit, 0 for the likeliest token."""

from __future__ import annotations

from typing import Any

import pytest
from typer.testing import CliRunner

from hanlin.cli.main import app
from hanlin.cli.options import read_sampling
from hanlin.core.errors import UserError


@pytest.mark.parametrize(
    ("typed", "meaning"),
    [
        ({"max_new_tokens": -1}, {"max_new_tokens": None}),
        ({"max_new_tokens": 7, "top_p": None}, {"max_new_tokens": 7}),
        ({"max_new_tokens": 7, "top_p": 0.0}, {"max_new_tokens": 7, "top_p": 1e-6}),
        ({"max_new_tokens": 7, "top_k": -1, "seed": -1}, {"max_new_tokens": 7, "top_k": 0}),
        ({"max_new_tokens": 7, "min_p": 1.0, "seed": 3}, {"max_new_tokens": 7, "min_p": 1 - 1e-6, "seed": 3}),
    ],
)
def test_typed_values_mean_what_they_mean_to_servers(typed: dict[str, Any], meaning: dict[str, Any]) -> None:
    assert read_sampling(**typed) == meaning


def test_an_answer_of_no_tokens_is_refused() -> None:
    with pytest.raises(UserError, match="-1 for no limit"):
        read_sampling(0)


@pytest.mark.parametrize(("command", "option"), [("chat", "--max-new-tokens"), ("generate", "--top-k")])
def test_what_is_below_minus_one_is_refused(command: str, option: str) -> None:
    arguments = ["no/model", *(["no/data"] if command == "generate" else []), option, "-2"]
    assert CliRunner().invoke(app, [command, *arguments]).exit_code == 2
