"""Servers of OpenAI's API inside lm-evaluation-harness: what they can score, and one sentence for what they cannot."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from completion_server import completion_server
from hanlin.core.errors import UserError
from hanlin.evaluate.harness.answers import AnswerStore
from hanlin.inference.loading import LoadedEngine, load_engine
from scripted_chat_server import chat_server

pytest.importorskip("lm_eval", reason="pip install 'hanlin[lm-eval]'")
pytestmark = [pytest.mark.slow, pytest.mark.filterwarnings("ignore")]  # warnings of other packages

PAIRS = (("Question: what?\nAnswer:", " yes"), ("Question: what?\nAnswer:", " 不"), ("a b ", "c"), ("你好", "北京"))


def instances(kind: str, *rows: tuple[Any, ...]) -> list[Any]:
    from lm_eval.api.instance import Instance

    return [Instance(request_type=kind, doc={}, arguments=row, idx=0) for row in rows]  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def loaded(tiny_model: Path) -> Iterator[LoadedEngine]:
    opened = load_engine(tiny_model, dtype="float32")
    yield opened
    opened.engine.close()


def address_model(url: str, **options: Any) -> Any:
    from hanlin.evaluate.harness.address import AddressLM

    return AddressLM(url, **options)


def local_model(loaded: LoadedEngine) -> Any:
    from hanlin.evaluate.harness.model import HanlinLM

    return HanlinLM(loaded=loaded)


def test_a_server_that_echoes_scores_as_the_model_itself(loaded: LoadedEngine) -> None:
    asked = instances("loglikelihood", *PAIRS)
    with completion_server(loaded) as server:
        theirs = address_model(server.url)
        found, expected = theirs.loglikelihood(asked), local_model(loaded).loglikelihood(asked)
        theirs.close()
    assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def test_answers_are_those_of_the_model_itself(loaded: LoadedEngine) -> None:
    asked = instances("generate_until", ("三加四", {"until": ["。"], "max_gen_toks": 12}), ("a", {"max_gen_toks": 8}))
    with completion_server(loaded) as server:
        theirs = address_model(server.url)
        assert theirs.generate_until(asked) == local_model(loaded).generate_until(asked)
        theirs.close()


def test_the_beginning_of_a_text_is_scored_only_behind_a_begin_token(loaded: LoadedEngine) -> None:
    whole = instances("loglikelihood_rolling", ("三加四等于七",))
    with completion_server(loaded) as server:
        theirs = address_model(server.url)
        if loaded.tokenizer.adds_bos:
            ids = loaded.tokenizer.encode("三加四等于七")
            (score,) = loaded.engine.score([([loaded.tokenizer.bos_id or 0], ids)])
            assert theirs.loglikelihood_rolling(whole) == pytest.approx([score.logprob], abs=1e-3)
        else:
            with pytest.raises(UserError, match="no probability of the first token"):
                theirs.loglikelihood_rolling(whole)
        theirs.close()


def test_a_server_that_does_not_score_is_one_sentence(loaded: LoadedEngine) -> None:
    with completion_server(loaded, can_score=False) as server:
        theirs = address_model(server.url)
        with pytest.raises(UserError, match=r"scores no given text.*it sent no log probabilities .*vLLM"):
            theirs.loglikelihood(instances("loglikelihood", *PAIRS))
        theirs.close()


def test_a_conversation_is_asked_as_one_and_cannot_be_scored() -> None:
    with chat_server(lambda body: (f"{len(body['messages'])} turns。more", "stop")) as server:
        theirs = address_model(server.url)
        context = theirs.apply_chat_template([{"role": "user", "content": "你好"}])
        asked = instances("generate_until", (context, {"until": ["。"], "max_gen_toks": 8}))
        assert theirs.generate_until(asked) == ["1 turns"]
        assert server.requests[0]["messages"] == [{"role": "user", "content": "你好"}]
        with pytest.raises(UserError, match="a chat API scores no given text"):
            theirs.loglikelihood(instances("loglikelihood", (context, "A")))
        with pytest.raises(UserError, match="begins the answer"):
            theirs.apply_chat_template([{"role": "assistant", "content": "A"}], add_generation_prompt=False)
        theirs.close()


def test_a_server_that_dies_half_way_goes_on_later(
    loaded: LoadedEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hanlin.evaluate.tasks.respond._SECONDS_BETWEEN_TRIES", (0.0,))
    asked = instances("loglikelihood", *PAIRS)
    with completion_server(loaded, dies_after=6) as server:
        first = address_model(server.url, store=AnswerStore(tmp_path))
        with pytest.raises(UserError, match="the same command goes on from here"):
            first.loglikelihood(asked)
        first.close()
        kept = len((tmp_path / "scores-1" / "finished.jsonl").read_text(encoding="utf-8").splitlines())
        server.dies_after = None
        second = address_model(server.url, store=AnswerStore(tmp_path))
        assert len(second.loglikelihood(asked)) == len(PAIRS)
        second.close()
    assert 0 < kept < len(PAIRS)
    assert server.answered <= 6 + 2 * (len(PAIRS) - kept)


def test_options_are_checked() -> None:
    with pytest.raises(UserError, match="no option 'adress'"):
        address_model("http://127.0.0.1:9", adress="x")
    with pytest.raises(UserError, match="cannot be reached"):
        address_model("http://127.0.0.1:9")
