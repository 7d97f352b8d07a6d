"""Who asks what: read all keys once, and find for each row where its answer comes from.

Keys go to local disk and are matched in buckets, so that memory does not grow with the dataset.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from airflow_provider_modelstudio.inference.errors import InterruptedRunError, RowsRefusedError
from airflow_provider_modelstudio.inference.tasks import Question, Refused

from .buckets import MOST_BUCKETS, Buckets
from .recall import KEY

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from airflow_provider_modelstudio.inference.dataset import Source
    from airflow_provider_modelstudio.inference.plan import Part
    from airflow_provider_modelstudio.inference.tasks import InferenceTask

__all__ = ["REFUSED", "RowSurvey", "Survey", "survey"]

Step = TypeVar("Step")

REFUSED = -1
"""Origin of a row that is not asked at all."""
BUCKET_KEYS = 250_000
"""Keys matched at a time: 7 MB of keys, and about three times that while they are sorted."""
BLOCK_ROWS = 32_768
"""Rows of the survey that are in memory at a time, however large a part is."""
_PAIR = np.dtype([("position", "<i8"), ("origin", "<i8")])
_NO_KEY = bytes(KEY.itemsize)


class RowSurvey(NamedTuple):
    """Some rows, side by side."""

    keys: np.ndarray
    origins: np.ndarray
    """For each row: its own number (ask), an earlier row's number (same answer), -1 (not asked), or ``-2 - n``: the
    answer on record with number ``n``."""


@dataclass(frozen=True, slots=True)
class Survey:
    """Where each row of the parts that are left gets its answer."""

    folder: Path
    offsets: dict[int, int]
    """Part → position of its first row in the survey."""
    bounds: np.ndarray
    """For each bucket and block of the survey: the first pair of the block in the bucket's file."""
    shared: np.ndarray
    """Ascending numbers of the rows whose answer is used by other rows, too."""
    asked: int
    """Rows to ask."""
    tokens: int
    """Estimated tokens of the rows to ask."""
    refused: Mapping[str, int]
    """Why rows are not asked → how many."""
    removed: int
    """Rows of the previous version whose key is in no part of this run."""
    journalled: int
    """Rows whose answer is in the journal: paid for, not in a part yet."""
    groups: int
    """Groups with a row to ask, each of which needs a request; 0 where rows are in none."""

    @property
    def refused_rows(self) -> int:
        """Rows that are not asked."""
        return sum(self.refused.values())

    @property
    def most_refused(self) -> str:
        """The reason of most of them; at least one row must be refused."""
        return max(self.refused, key=self.refused.__getitem__)

    def read(self, blocks: dict[int, RowSurvey], part: Part, first_row: int, rows: int) -> RowSurvey:
        """Some rows of a part.

        :param blocks: where the blocks read last are kept; whoever reads in order needs two.
        """
        start = self.offsets[part.index] + first_row - part.first_row
        pieces = []
        for block in range(start // BLOCK_ROWS, (start + rows - 1) // BLOCK_ROWS + 1):
            if block not in blocks:
                blocks[block] = self._block(block)
                for earlier in sorted(blocks)[:-2]:
                    del blocks[earlier]
            at = block * BLOCK_ROWS
            here = slice(max(start - at, 0), start + rows - at)
            pieces.append(RowSurvey(*(column[here] for column in blocks[block])))
        return (
            pieces[0]
            if len(pieces) == 1
            else RowSurvey(*(np.concatenate(columns) for columns in zip(*pieces, strict=True)))
        )

    def _block(self, block: int) -> RowSurvey:
        at = block * BLOCK_ROWS
        keys = np.fromfile(self.folder / "keys", KEY, BLOCK_ROWS, offset=at * KEY.itemsize)
        origins = np.full(len(keys), REFUSED, np.int64)
        for bucket in range(len(self.bounds)):
            start, end = self.bounds[bucket, block], self.bounds[bucket, block + 1]
            path = self.folder / f"origins-{bucket}"
            pairs = np.fromfile(path, _PAIR, end - start, offset=start * _PAIR.itemsize)
            origins[pairs["position"] - at] = pairs["origin"]
        return RowSurvey(keys, origins)


def survey(
    source: Source,
    task: InferenceTask,
    parts: Sequence[Part],
    known_keys: Path,
    sealed_keys: Path,
    folder: Path,
    *,
    share: bool,
    previous: range,
    journal: range,
    built: int,
    stopped: Callable[[], bool] = lambda: False,
) -> Survey:
    """Read the keys of ``parts`` and match them with each other and with the keys on record.

    :param known_keys: file of the keys on record, most believed first.
    :param sealed_keys: file of the keys of other parts of this run, which are finished.
    :param folder: local folder for the keys of this run.
    :param share: rows with equal keys share one answer; else each occurrence has its own.
    :param previous: numbers of the keys on record that belong to the version before this one.
    :param journal: numbers of the keys on record that are in the journal of this run; those of other runs come later.
    :param built: keys at the head of ``sealed_keys`` whose rows took answers of other runs, or asked.
    :param stopped: whether the run was asked to stop; then :class:`~..errors.InterruptedRunError` is raised.
    """
    columns = {column.split(".", 1)[0] for column in task.input_columns} | set(task.input_columns)
    offsets, at = {}, 0
    for part in parts:
        offsets[part.index] = at
        at += part.rows
    known_rows = (known_keys.stat().st_size + sealed_keys.stat().st_size) // KEY.itemsize
    number = min(max(1, -(-(known_rows + at) // BUCKET_KEYS)), MOST_BUCKETS)
    known, sealed, own = (Buckets(folder, name, number) for name in ("known", "sealed", "own"))
    with known:
        known.read(known_keys)
    with sealed:
        sealed.read(sealed_keys)
    numbering, refused = _Numbering(), Counter[str]()
    with own, ExitStack() as stack:
        all_keys, all_groups = (stack.enter_context((folder / name).open("wb")) for name in ("keys", "groups"))
        for first_row, batch in _unless(stopped, source.windows(_ranges(parts), sorted(columns))):
            questions = task.questions(batch)
            _check_fatal(questions, first_row)
            refused.update(q.reason for q in questions if isinstance(q, Refused))
            keys = b"".join([q.key if isinstance(q, Question) else _NO_KEY for q in questions])
            tokens = np.array([q.tokens if isinstance(q, Question) else 0 for q in questions], np.int32)
            all_keys.write(keys)
            all_groups.write(numbering.numbers(questions).tobytes())
            own.add(np.frombuffer(keys, KEY), tokens)
    starts = np.array([*offsets.values(), at])
    # Row numbers of the dataset, not positions of the survey, are what other rooms know.
    numbers = np.array([part.first_row for part in parts] or [0]) - starts[: max(len(parts), 1)]
    blocks = np.arange(0, at + BLOCK_ROWS, BLOCK_ROWS)
    bounds = np.zeros((number, len(blocks)), np.int64)
    shared: list[np.ndarray] = []
    asked = token_sum = removed = journalled = 0
    groups = np.memmap(folder / "groups", np.int32, "r") if at else np.zeros(0, np.int32)
    groups_asked = np.zeros(numbering.count + 1, bool)  # the last place is that of rows in no group
    for bucket in _unless(stopped, range(number)):
        before, here, finished = known.take(bucket), own.take(bucket), sealed.take(bucket)
        rows = here["at"] + numbers[np.searchsorted(starts, here["at"], side="right") - 1] if at else here["at"]
        free = before if share else before[_free(before, finished[finished["at"] < built], journal)]
        origins = (_match_shared if share else _match_single)(free["key"], -2 - free["at"], here["key"], rows)
        first = origins == rows
        asked += int(first.sum())
        token_sum += int(here["tokens"][first].sum())
        groups_asked[groups[here["at"][first]]] = True
        paid = (origins <= -2 - journal.start) & (origins > -2 - journal.stop)  # see RowSurvey
        journalled += int(paid.sum())
        shared.append(_distinct(origins[(origins >= 0) & ~first]))
        shown = before["key"][(before["at"] >= previous.start) & (before["at"] < previous.stop)]
        removed += _missing(shown, np.concatenate([here["key"], finished["key"]]))
        pairs = np.empty(len(here), _PAIR)
        pairs["position"], pairs["origin"] = here["at"], origins
        pairs.tofile(folder / f"origins-{bucket}")
        bounds[bucket] = np.searchsorted(here["at"], blocks)
    return Survey(
        folder,
        offsets,
        bounds,
        np.sort(np.concatenate(shared)),
        asked,
        token_sum,
        refused,
        removed,
        journalled,
        int(groups_asked[:-1].sum()),
    )


class _Numbering:
    """Numbers the groups of a dataset as they come; -1 for a row in none."""

    def __init__(self) -> None:
        self.count = 0
        self._last: bytes | None = None

    def numbers(self, questions: Sequence[Question | Refused]) -> np.ndarray:
        numbers = np.full(len(questions), -1, np.int32)
        one = next((question for question in questions if isinstance(question, Question)), None)
        if one is None or one.group is None:  # of a task all questions have a group, or none
            return numbers
        for at, question in enumerate(questions):
            if isinstance(question, Question):
                self.count += question.group != self._last
                self._last, numbers[at] = question.group, self.count - 1
        return numbers


def _unless(stopped: Callable[[], bool], steps: Iterable[Step]) -> Iterator[Step]:
    for step in steps:
        if stopped():
            raise InterruptedRunError(
                "asked to stop while the source was looked through; this try asked nothing, and the next one begins there"
            )
        yield step


def _check_fatal(questions: Sequence[Question | Refused], first_row: int) -> None:
    for i, question in enumerate(questions):
        if isinstance(question, Refused) and question.fatal:
            raise RowsRefusedError(
                f"row {first_row + i} of the source cannot be asked: {question.reason}; nothing was sent. "
                "Mend the row, or choose a policy that keeps such rows without an answer"
            )


def _ranges(parts: Sequence[Part]) -> list[tuple[int, int]]:
    return [(part.first_row, part.end_row) for part in parts if part.rows]


def _match_shared(
    known_keys: np.ndarray, known_codes: np.ndarray, own_keys: np.ndarray, own_rows: np.ndarray
) -> np.ndarray:
    """Each row gets the first answer with its key: on record if there is one, else of the first row that asks."""
    codes = np.concatenate([known_codes, own_rows])
    starts, group, order = _groups(known_keys, own_keys)
    firsts = codes[order[starts]]
    origins = np.empty(len(codes), np.int64)
    origins[order] = firsts[group]
    return origins[len(known_codes) :]


def _match_single(
    known_keys: np.ndarray, known_codes: np.ndarray, own_keys: np.ndarray, own_rows: np.ndarray
) -> np.ndarray:
    """The k-th row with a key gets the k-th answer on record with that key, or asks."""
    starts, group, order = _groups(known_keys, own_keys)
    is_known = order < len(known_codes)
    known_per_group = np.bincount(group, is_known, len(starts)).astype(np.int64)
    rank = np.arange(len(order)) - starts[group]
    own_rank = rank - known_per_group[group]
    origins = np.empty(len(own_rows), np.int64)
    own = ~is_known
    served = own & (own_rank < known_per_group[group])
    origins[order[own] - len(known_codes)] = own_rows[order[own] - len(known_codes)]
    origins[order[served] - len(known_codes)] = known_codes[order[starts[group[served]] + own_rank[served]]]
    return origins


def _free(known: np.ndarray, built: np.ndarray, journal: range) -> np.ndarray:
    """Which answers on record no row in a finished part has taken: those rows came first, in the same order as now."""
    others = known[known["at"] >= journal.stop]
    taken = _match_single(others["key"], -2 - others["at"], built["key"], built["at"])
    free: np.ndarray = ~np.isin(-2 - known["at"], taken)
    return free


def _groups(known_keys: np.ndarray, own_keys: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Equal keys side by side, first come first: start of each group, group of each place, place → index."""
    keys = np.concatenate([known_keys, own_keys])
    order = _by_key(keys)
    ordered = keys[order]
    new = np.ones(len(ordered), bool)
    new[1:] = (ordered["high"][1:] != ordered["high"][:-1]) | (ordered["low"][1:] != ordered["low"][:-1])
    return np.flatnonzero(new), np.cumsum(new) - 1, order


def _by_key(keys: np.ndarray) -> np.ndarray:
    """Indices of the keys, so that equal ones are side by side, first come first."""
    order = np.argsort(keys["high"])
    high = keys["high"][order]
    group = np.zeros(len(keys), np.int64)
    group[1:] = np.cumsum(high[1:] != high[:-1])
    # Sorting whole numbers that are all different is many times as fast as a sort that keeps the order of equal ones.
    order = np.sort(group * len(keys) + order) % max(len(keys), 1)
    low = keys["low"][order]
    if bool(((group[1:] == group[:-1]) & (low[1:] != low[:-1])).any()):
        return np.lexsort((keys["low"], keys["high"]))
    return order


def _distinct(rows: np.ndarray) -> np.ndarray:
    """Ascending row numbers, each once."""
    rows = np.sort(rows)
    return rows[np.diff(rows, prepend=-1) > 0]


def _missing(keys: np.ndarray, there: np.ndarray) -> int:
    """How many of the keys are not there."""
    starts, group, order = _groups(there, keys)
    wanted = order >= len(there)
    found = np.bincount(group, ~wanted, len(starts)) > 0
    return int((wanted & ~found[group]).sum())
