"""Settings of the kind `compare`: the results of several models beside each other."""

from __future__ import annotations

from hanlin.config.settings.base import Settings, ref, setting


class Judge(Settings):
    """A model that says which of two open answers is better, each pair in both orders."""

    address: str = setting(
        ..., description="address of a server with OpenAI's chat API; its key goes into HANLIN_API_KEY", min_length=1
    )
    model: str = setting("", description="the server's model; empty: the first that it lists")
    questions: int = setting(50, description="open questions to judge at most, from the first", ge=1)
    max_new_tokens: int = setting(512, description="maximum number of tokens of a judgment", ge=16)


class Compare(Settings):
    """Results of any number of models over the same questions; the first model is what the others are compared with."""

    results: tuple[str, ...] = ref(
        "evaluation", description="results to compare: evaluations, exams, probes, perplexities of one or more models"
    )
    names: tuple[str, ...] = setting(
        (), description="the model of each result, in order; equal names mean the same model; empty: as the results say"
    )
    contamination: tuple[str, ...] = ref(
        "documents",
        "conversations",
        "preferences",
        "unpaired_preferences",
        default=(),
        description="data stages with `decontaminate`: scores without the questions found in their data are given too",
    )
    common: bool = setting(
        False, description="compare the questions that all models were asked, instead of refusing different ones"
    )
    resamples: int = setting(5000, description="draws of the paired bootstrap", ge=100)
    judge: Judge | None = setting(None, description="have a model judge the open answers; none: nobody does")
