"""How many tokens the records of a dataset have for a model's tokenizer: counted in the background, of a sample.

Two thousand records of conversations take some seconds, for which nobody is to wait: the page shows how far the count
is, and then the figures. One thread counts at a time, so that answers that are streamed meanwhile keep their pace.
"""

from __future__ import annotations

import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hanlin.core.errors import UserError
from hanlin.core.i18n import Language, language, use_language
from hanlin.web.data.dataset import Dataset
from hanlin.web.data.tokens import TokenDesk, read_record

if TYPE_CHECKING:
    from hanlin.chat.template import ChatTemplate
    from hanlin.tokenizer.tokenizer import Tokenizer

LIMITS = (512, 1024, 2048, 4096, 8192)
"""Lengths in tokens of which is told how many examples are longer: usual values of `max_seq_length`."""
_KEPT = 16
_BREATH_SECONDS = 0.0005
"""What the counting thread leaves to others after each record."""


@dataclass(slots=True)
class TokenLengths:
    """A count that goes on, or is done.

    Attributes:
        total: Records of the sample; 0 until it is drawn.
        done: Records of it that were counted.
        rows: Records that the dataset keeps, of which the sample is.
        lengths: Tokens of each training example; a preference pair has two.
        learned: Tokens of them that carry loss.
        refused: Records that the template has no form for, or that carry no loss.
        problem: Why nothing can be counted; empty if it can.
        is_done: Whether the count has ended.
    """

    total: int = 0
    done: int = 0
    rows: int = 0
    lengths: list[int] = field(default_factory=list)
    learned: list[int] = field(default_factory=list)
    refused: int = 0
    problem: str = ""
    is_done: bool = False
    is_unwanted: bool = False

    @property
    def estimated_tokens(self) -> int:
        """Tokens of all rows, if the others are as those of the sample."""
        return round(sum(self.lengths) * self.rows / self.done) if self.done else 0

    @property
    def longer(self) -> list[tuple[int, float]]:
        """For each of `LIMITS` the share of examples that are longer."""
        count = len(self.lengths)
        return [(limit, sum(length > limit for length in self.lengths) / count) for limit in LIMITS] if count else []


class TokenLengthDesk:
    """Starts counts, and keeps the last ones.

    Args:
        desk: Opens the tokenizers.
    """

    def __init__(self, desk: TokenDesk) -> None:
        self._desk = desk
        self._counts: OrderedDict[tuple[Path, int, Path, str, Language], TokenLengths] = OrderedDict()
        self._lock = threading.Lock()
        self._waiting: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def count(self, dataset: Dataset, folder: Path, template: str) -> TokenLengths:
        """The count of a dataset's kept rows, which is begun if it was not yet.

        Args:
            dataset: The dataset.
            folder: The folder of a model or tokenizer.
            template: The name of a packaged template; empty for the folder's own.
        """
        name = (dataset.folder, dataset.folder.stat().st_mtime_ns, folder, template, language())
        with self._lock:
            if name in self._counts:
                self._counts.move_to_end(name)
                return self._counts[name]
            counted = self._counts[name] = TokenLengths()
            while len(self._counts) > _KEPT:
                _, unwanted = self._counts.popitem(last=False)
                unwanted.is_unwanted = True
            self._waiting.put(partial(self._run, counted, dataset, folder, template, language()))
            if self._thread is None:  # a daemon: a server that is stopped waits for no count
                self._thread = threading.Thread(target=self._work, name="tokens", daemon=True)
                self._thread.start()
        return counted

    def _work(self) -> None:
        while True:
            self._waiting.get()()

    def _run(self, counted: TokenLengths, dataset: Dataset, folder: Path, template: str, spoken: Language) -> None:
        try:
            if counted.is_unwanted:
                return
            with use_language(spoken):
                tokenizer, chosen = self._desk.open(folder, template, dataset.kind != "documents")
                sample = dataset.sample("kept")
                counted.rows, counted.total = dataset.count_lines("kept"), len(sample)
                for row in sample:
                    if counted.is_unwanted:
                        return
                    _count_row(counted, dataset.kind, row, tokenizer, chosen)
                    counted.done += 1
                    time.sleep(_BREATH_SECONDS)
        except (UserError, OSError) as error:
            counted.problem = str(error)
        except Exception as error:  # nobody reads what a thread raises
            counted.problem = f"{type(error).__name__}: {error}"
        finally:
            counted.is_done = True


def _count_row(
    counted: TokenLengths, kind: str, row: Mapping[str, Any], tokenizer: Tokenizer, template: ChatTemplate | None
) -> None:
    from hanlin.chat.examples import render_documents, training_turns

    try:
        record = read_record(kind, row)
        if template is None:
            examples = list(render_documents([record.text], tokenizer))
        else:
            examples = [
                example
                for _, turns in training_turns(record)
                for example in template.render_examples(turns, record.tools, record.id)
            ]
    except UserError:
        examples = []
    if not examples:
        counted.refused += 1
    counted.lengths += [len(example.ids) for example in examples]
    counted.learned += [sum(map(bool, example.loss_mask)) for example in examples]
