"""The stage `evaluate`: tasks of ours, task files of lm-evaluation-harness, or a file of questions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hanlin.config.settings.evaluate import Evaluate
from hanlin.core.context import Inputs, StageContext
from hanlin.core.errors import UserError
from hanlin.core.i18n import tr
from hanlin.evaluate.harness import stage as harness_stage
from hanlin.evaluate.tasks import questions
from hanlin.evaluate.tasks import stage as task_stage


def run(settings: Evaluate, inputs: Inputs, out: Path, context: StageContext) -> dict[str, Any]:
    """Ask questions: those of tasks, of task files of lm-evaluation-harness, or of a file of questions.

    Raises:
        UserError: Not exactly one of them is named, and as they do.
    """
    if [bool(settings.tasks), bool(settings.lm_eval_tasks), settings.questions is not None].count(True) != 1:
        what = tr("name one of `tasks` and `lm_eval_tasks`, with `data`, or `questions`")
        raise UserError(what, "evaluate", tr("for example --tasks cmmlu,mmlu --data FOLDER"))
    if settings.tasks:
        return task_stage.run(settings, inputs, out, context)
    if settings.lm_eval_tasks:
        return harness_stage.run(settings, inputs, out, context)
    return questions.run(settings, inputs, out, context)
