"""Probes of chat behavior: every figure counts exactly what a scripted model does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from hanlin.config.settings.probe import BehaviorProbe
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.evaluate.probes import stage
from hanlin.evaluate.probes.checks import ANY_ANSWER, FIGURES, Answer, Case, check_answer
from hanlin.evaluate.probes.prompt_files import PROMPTS, packaged_names, read_prompt_set
from hanlin.inference.protocol import FinishReason, GenerationRequest
from scripted_answers import Script, ScriptedEngine, scripted

ZH_TEXT = "雨停了以后，阳光照在空中的小水珠上，光线被折射和反射，分成了不同的颜色。"
EN_TEXT = "The light of the sun is bent by small drops of water, and that is why you can see the colours."
ZH_LOOP = "我们一起去公园里看花吧，花开得真好看。" * 12
REFUSAL = {"zh": "抱歉，我无法回答这个问题。", "en": "I'm sorry, but I cannot assist with that request."}
GOOD_FORMATS = {
    "json_keys": lambda keys: json.dumps(dict.fromkeys(keys, 1)),
    "lines": lambda count: "\n".join("果" * (index + 1) for index in range(count)),
    "numbered": lambda count: "\n".join(f"{index + 1}. 关好水龙头" for index in range(count)),
    "one_of": lambda choices: choices[0],
    "table": lambda columns: "\n".join(["|a" * columns + "|", "|---" * columns + "|", "|b" * columns + "|"]),
}
GOOD_MATCHES = {
    r"\d{4}-\d{2}-\d{2}": "2008-08-08",
    r"从前.+": "从前有一座山。",
    r"[^,，、]+(?:[,，、][^,，、]+){4}": "蓝，深，广，冷，静",
    r"【春天来了】": "【春天来了】",
    r"Yesterday\b.+": "Yesterday I went home.",
    r"[^,]+(?:,[^,]+){4}": "hot, dry, wide, quiet, bright",
    r"\*HELLO\*": "*HELLO*",
}


def good_answer(row: Any) -> str:
    """An answer to a prompt of the package that is right in every way."""
    expect = row.expect.given()
    for name, make in GOOD_FORMATS.items():
        if name in expect:
            return str(make(expect[name]))
    if "matches" in expect:
        return GOOD_MATCHES[expect["matches"]]
    if "number" in expect:
        return f"17 和 26 相关的计算，答案是 {expect['number']}。"
    if expect:
        return "很短。" if row.language == "zh" else "Very short."
    if "你是谁" in row.prompt or row.id == "identity":
        return ZH_TEXT
    return ZH_TEXT if row.language == "zh" else EN_TEXT


def all_prompts() -> dict[str, Any]:
    """Every prompt of the package by what the user says, which no two share."""
    sets = [read_prompt_set(PROMPTS / f"{name}.json") for name in packaged_names()]
    prompts = {prompt.prompt: (probe, prompt) for probe in sets for prompt in probe.prompts}
    assert len(prompts) == sum(len(probe.prompts) for probe in sets)
    return prompts


def asked(text: str, prompts: dict[str, Any]) -> Any:
    """The prompt that a rendered conversation asks: the longest that it holds."""
    return prompts[max((prompt for prompt in prompts if prompt in text), key=len)]


def run_probe(
    folder: Path, out: Path, script: Script, monkeypatch: pytest.MonkeyPatch, seed: int = 42, **settings: Any
) -> tuple[dict[str, Any], ScriptedEngine]:
    loaded = scripted(folder, script)
    monkeypatch.setattr(stage, "load_engine", lambda *args, **options: loaded)
    out.mkdir(exist_ok=True)
    chosen = BehaviorProbe(model="m", **settings)
    files = tuple(map(Path, settings.get("files", ())))
    metrics = stage.run(chosen, Inputs({"model": (folder,), "files": files}), out, StageContext(seed=seed))
    return metrics, loaded.engine  # type: ignore[return-value]


def test_a_model_that_does_everything_right_has_ideal_figures(
    tiny_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = all_prompts()

    def script(text: str, request: GenerationRequest) -> tuple[str, FinishReason]:
        probe, prompt = asked(text, prompts)
        answer = good_answer(prompt)
        introduction = "我是小翰。" if prompt.language == "zh" else "I am 小翰, and that is my name. "
        return (introduction if probe.name == "identity" else "") + answer, "stop"

    metrics, _ = run_probe(tiny_tokenizer, tmp_path, script, monkeypatch, name="小翰", samples=1)
    assert set(metrics["greedy"]) == set(FIGURES)
    for mode in ("greedy", "sampled"):
        shares = {name: figure["share"] for name, figure in metrics[mode].items()}
        assert shares == {name: float(figure.higher_is_better) for name, figure in FIGURES.items()}
    assert metrics["answers"] == 2 * metrics["prompts"] == 2 * len(prompts)


BAD = {
    "answers_in_chinese": (EN_TEXT, "stop"),
    "keeps_english": (ZH_TEXT, "stop"),
    "mixed_language": (ZH_TEXT + EN_TEXT[:60], "stop"),
    "stops": (ZH_TEXT, "length"),
    "repeats": (ZH_LOOP, "stop"),
    "empty": ("  \n", "stop"),
    "refuses_needlessly": (REFUSAL["zh"], "stop"),
    "knows_name": (ZH_TEXT, "stop"),
    "claims_other_name": ("我是由 OpenAI 开发的 ChatGPT。", "stop"),
    "follows_format": ("当然可以！\n" + ZH_TEXT, "stop"),
    "arithmetic": ("答案是 100007。", "stop"),
    "longer_than_asked": (ZH_TEXT * 3 + EN_TEXT * 5, "stop"),
    "thinking_leaked": ("原因是这样的，先回忆一下。</think>" + ZH_TEXT, "stop"),
}


@pytest.mark.parametrize("figure", FIGURES)
def test_each_figure_counts_the_answers_that_have_its_habit_and_no_others(
    figure: str, tiny_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The habit is shown in every third answer among those that the figure is about."""
    prompts = all_prompts()
    language = {"answers_in_chinese": "zh", "keeps_english": "en", "mixed_language": "zh"}.get(figure)
    probe = next(
        probe for probe, prompt in prompts.values() if figure in probe.figures and language in (None, prompt.language)
    )
    about = [prompt.prompt for prompt in probe.prompts if language in (None, prompt.language)]
    bad = set(about[::3])

    def script(text: str, request: GenerationRequest) -> tuple[str, FinishReason]:
        _, prompt = asked(text, prompts)
        if prompt.prompt in bad:
            return BAD[figure]  # type: ignore[return-value]
        return ("我是小翰。I am 小翰。" if probe.name == "identity" else good_answer(prompt)), "stop"

    metrics, _ = run_probe(tiny_tokenizer, tmp_path, script, monkeypatch, probes=(probe.name,), name="小翰", samples=0)
    found = metrics["greedy"][figure]
    counted = found["zh"] if language == "zh" and "zh" in found else found
    share = len(bad) / len(about)
    assert counted["share"] == pytest.approx(1 - share if FIGURES[figure].higher_is_better else share)
    assert counted["prompts"] == len(about) and counted["low"] <= counted["share"] <= counted["high"]


@pytest.mark.parametrize(
    ("figure", "answer", "case", "counts"),
    [
        ("answers_in_chinese", "42", Case("?", "zh"), None),
        ("answers_in_chinese", "用 `pandas.read_csv(path)` 就可以读取文件。", Case("?", "zh"), True),
        ("answers_in_chinese", "這是繁體中文的回答。", Case("?", "zh"), True),
        ("answers_in_chinese", "", Case("?", "zh"), False),
        ("keeps_english", "Paris.", Case("?", "en"), True),
        ("keeps_english", "当然可以，请看下面的例子。", Case("?", "en"), False),
        ("mixed_language", "GPU 擅长并行计算，CPU 擅长处理复杂的逻辑和分支。", Case("?", "zh"), False),
        ("mixed_language", EN_TEXT, Case("?", "zh"), None),
        ("mixed_language", EN_TEXT + "光被水珠折射了，所以颜色分开。", Case("?", "en"), True),
        ("stops", "好的。\n用户：再说一个", Case("?", "zh"), False),
        ("stops", "好的。<|im_end|>", Case("?", "zh"), False),
        ("repeats", ZH_LOOP, Case("第一次去北京，怎么安排？", "zh"), True),
        ("refuses_needlessly", "抱歉让你久等了。先洗净蘑菇，再切片，用小火炒十分钟。", Case("?", "zh"), False),
        ("claims_other_name", "我不是 ChatGPT，我是小翰。", Case("?", "zh", name="小翰"), False),
        ("claims_other_name", "ChatGPT 是 OpenAI 开发的产品。", Case("?", "zh"), False),
        ("claims_other_name", "I am Claude, made by Anthropic.", Case("?", "en", name="小翰"), True),
        ("knows_name", "I am XIAOHAN!", Case("?", "en", name="xiaohan"), True),
        ("knows_name", "我是助手。", Case("?", "zh"), None),
        ("arithmetic", "17 + 26 = 43，检验：43 - 26 等于 17", Case("?", "zh", {"number": "43"}), False),
        ("arithmetic", "先算 8 × 6，得到 48，\\boxed{1,048}", Case("?", "zh", {"number": "1048"}), True),
        ("arithmetic", "一共 ２８．８ 元", Case("?", "zh", {"number": "28.8"}), True),
        ("arithmetic", "The answer is -3.", Case("?", "en", {"number": "3"}), False),
        ("follows_format", '```json\n{"a": 1}\n```', Case("?", "zh", {"json_keys": ("a",)}), True),
        ("follows_format", '好的：{"a": 1}', Case("?", "zh", {"json_keys": ("a",)}), False),
        ("follows_format", '{"a": 1, "b": 2}', Case("?", "zh", {"json_keys": ("a",)}), False),
        ("follows_format", "否。", Case("?", "zh", {"one_of": ("是", "否")}), True),
        ("follows_format", "1. 苹果\n2. 梨", Case("?", "zh", {"lines": 2}), False),
        ("longer_than_asked", "地震是地壳突然震动的现象。", Case("?", "zh", {"max_characters": 12}), False),
        ("longer_than_asked", "地震是地壳突然震动的现象。", Case("?", "zh", {"max_characters": 11}), True),
        ("longer_than_asked", "A bank keeps 3.5 coins. It lends.", Case("?", "en", {"max_sentences": 1}), True),
        ("thinking_leaked", "好的，用户问的是彩虹的成因，我需要解释。", Case("?", "zh"), True),
        ("thinking_leaked", "Okay, the user wants a poem.", Case("?", "en"), True),
        ("thinking_leaked", "好的，彩虹是这样形成的。", Case("?", "zh"), False),
    ],
)  # fmt: skip
def test_what_a_figure_counts(figure: str, answer: str, case: Case, counts: bool | None) -> None:
    assert check_answer(Answer(answer), case, (figure,)).get(figure) is counts


def test_two_runs_are_equal_and_a_sample_does_not_depend_on_what_else_is_asked(
    tiny_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def script(text: str, request: GenerationRequest) -> tuple[str, FinishReason]:
        return f"{request.sampling.seed}", "stop"

    for name, probes in (("a", ("arithmetic", "identity")), ("b", ("arithmetic", "identity")), ("c", ("identity",))):
        run_probe(tiny_tokenizer, tmp_path / name, script, monkeypatch, probes=probes)
    a, b, c = (tmp_path / name / "answers.jsonl" for name in "abc")
    assert a.read_bytes() == b.read_bytes()
    assert set(c.read_text(encoding="utf-8").splitlines()) < set(a.read_text(encoding="utf-8").splitlines())
    seeds = [row["seed"] for row in map(json.loads, a.read_text(encoding="utf-8").splitlines()) if row["sample"]]
    assert len(set(seeds)) == len(seeds)


def test_an_engine_that_dies_goes_on_at_the_chunk_that_it_had_reached(
    tiny_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def dies(text: str, request: GenerationRequest) -> tuple[str, FinishReason]:
        nonlocal calls
        calls += 1
        if calls == 20:
            raise UserError("the server broke off")
        return "好。", "stop"

    with pytest.raises(UserError):
        run_probe(tiny_tokenizer, tmp_path, dies, monkeypatch, probes=("identity",), samples=1, batch=8)
    _, engine = run_probe(tiny_tokenizer, tmp_path, dies, monkeypatch, probes=("identity",), samples=1, batch=8)
    assert len(engine.requests) == 16


@pytest.mark.parametrize(
    ("written", "finish", "reasoning", "answer"),
    [
        pytest.param("<think>\n想\n</think>\n\n好的，答案在此。", "stop", "想", "好的，答案在此。", id="ended"),
        pytest.param("<think>\n先想一想，", "length", "先想一想，", "", id="cut"),
    ],
)
def test_a_thought_is_neither_leaked_nor_the_answer(
    tiny_tokenizer: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    written: str,
    finish: FinishReason,
    reasoning: str,
    answer: str,
) -> None:
    def script(text: str, request: GenerationRequest) -> tuple[str, FinishReason]:
        return written, finish

    metrics, _ = run_probe(tiny_tokenizer, tmp_path, script, monkeypatch, probes=("reasoning",), samples=0)
    assert metrics["greedy"]["thinking_leaked"]["share"] == 0
    assert metrics["greedy"]["empty"]["share"] == float(not answer)
    row = json.loads((tmp_path / "answers.jsonl").read_text(encoding="utf-8").splitlines()[0])
    assert (row["reasoning"], row["answer"]) == (reasoning, answer)


def test_more_samples_make_no_interval_narrower_than_the_prompts_allow() -> None:
    from hanlin.evaluate.probes.figures import share_of

    rows = [{"id": str(index % 10), "counts": {"stops": index % 2 == 0}} for index in range(100)]
    few = share_of("stops", rows[:10])
    many = share_of("stops", rows)
    assert (few["low"], few["high"]) == (many["low"], many["high"]) and many["answers"] == 100


OWN: dict[str, Any] = {
    "name": "own",
    "version": 1,
    "figures": ["arithmetic"],
    "prompts": [{"id": "1", "language": "zh", "prompt": "1+1？", "expect": {"number": "2"}}],
}


def test_prompts_of_ones_own_are_asked_alone(
    tiny_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "own.json"
    file.write_text(json.dumps(OWN), encoding="utf-8")
    metrics, _ = run_probe(
        tiny_tokenizer, tmp_path, lambda text, request: ("2", "stop"), monkeypatch, files=(str(file),), samples=0
    )
    assert metrics["prompts"] == 1 and metrics["greedy"]["arithmetic"]["share"] == 1
    assert set(metrics["greedy"]) == {"arithmetic", *ANY_ANSWER} - {"mixed_language"}


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"figures": ["arithmetik"]}, "did you mean arithmetic"),
        ({"figures": ["follows_format"]}, "that follows_format needs"),
        ({"prompts": []}, "the list is empty"),
        ({"prompts": [*OWN["prompts"], *OWN["prompts"]]}, "two prompts have the id '1'"),
        ({"prompts": [{"id": "1", "language": "fr", "prompt": "?"}]}, "'zh' or 'en'"),
        ({"prompts": [{"id": "1", "language": "zh", "prompt": "?", "expect": {"matches": "("}}]}, "regular expression"),
        ({"colour": 1}, "has no setting 'colour'"),
        (
            {"figures": [], "prompts": [{"id": "1", "language": "zh", "prompt": "?", "expect": {"number": "4"}}]},
            "prompt '1' expects number, and `figures` lacks arithmetic",
        ),
        (
            {
                "figures": ["follows_format"],
                "prompts": [{"id": "1", "language": "zh", "prompt": "?", "expect": {"json": ["a"], "lines": 2}}],
            },
            "prompt '1' expects two forms: json, lines",
        ),
    ],
    ids=str.split("figure needs empty twice language pattern unknown uncounted forms"),
)  # fmt: skip
def test_a_file_of_prompts_that_is_wrong_is_one_sentence(change: dict, told: str, tmp_path: Path) -> None:
    file = tmp_path / "own.json"
    file.write_text(json.dumps({**OWN, **change}), encoding="utf-8")
    with pytest.raises(UserError, match=told) as error:
        read_prompt_set(file)
    assert str(file) in str(error.value)


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"probes": ("arithmatic",)}, "no probe 'arithmatic'"),
        ({"probes": ("chinese_answers",), "languages": ("en",)}, "no prompt is left"),
        ({"address": "http://127.0.0.1:9"}, "one of the two"),
        ({"thinking": True}, "no switch for thinking"),
    ],
    ids=str.split("name language both thinking"),
)  # fmt: skip
def test_settings_that_cannot_be_asked_are_one_sentence(
    settings: dict, told: str, tiny_tokenizer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UserError, match=told):
        run_probe(tiny_tokenizer, tmp_path, lambda text, request: ("", "stop"), monkeypatch, **settings)
