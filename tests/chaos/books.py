"""Is the dataset right, and was each row paid once? Judged by the rows themselves and by the server's own bill."""

from __future__ import annotations

from bisect import bisect_right
from collections import Counter, defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from airflow_provider_modelstudio.sandbox.ledger import fingerprint

if TYPE_CHECKING:
    import pyarrow as pa

    from airflow_provider_modelstudio.sandbox.server import Sandbox
    from tests.chaos.versions import Version

__all__ = ["Account", "Attempts"]


@dataclass
class Account:
    """What one lane has seen. Added up over lanes for the table."""

    lane: str
    strikes: Counter[str] = field(default_factory=Counter)
    """Signal → how often."""
    found: Counter[str] = field(default_factory=Counter)
    """How far the attempt was when it was struck → how often."""
    datasets: int = 0
    rows: int = 0
    paid: int = 0
    """Texts that were to be paid for."""
    again: int = 0
    """Payments beyond the first."""
    worst: int = 0
    """Payments that one strike made necessary again, at most."""
    bound: int = 0
    lost: int = 0
    """Rows without an answer, or not there at all."""
    wrong: int = 0
    """Rows out of order, or with another row's answer."""
    looks: Counter[str] = field(default_factory=Counter)
    """What the reader found → how often."""
    faults: list[str] = field(default_factory=list)
    """Everything that must not be. Empty in a good run."""

    def check_rows(self, version: Version, found: pa.Table, engine_vectors: np.ndarray) -> None:
        """Every row once, in order, with its own vector."""
        self.datasets += 1
        self.rows += version.rows
        if found["row"].to_pylist() != list(range(version.rows)):
            self.lost += max(version.rows - found.num_rows, 0)
            self.wrong += 1
            self.faults.append(
                f"{version.name} v{version.number}: {found.num_rows} rows, not the {version.rows} in order"
            )
            return
        wanted = version.table
        missing = found["embedding"].null_count
        self.lost += missing
        if missing or found["embedding_error"].null_count != version.rows:
            self.faults.append(f"{version.name} v{version.number}: {missing} rows without an answer")
            return
        vectors = found["embedding"].combine_chunks().flatten().to_numpy().reshape(version.rows, -1)
        good = np.isclose(vectors, engine_vectors[version.numbers], atol=1e-6).all(axis=1)
        same = found.select(["version", "text"]).equals(wanted.select(["version", "text"]))
        if not good.all() or not same:
            self.wrong += int((~good).sum()) or 1
            self.faults.append(
                f"{version.name} v{version.number}: {(~good).sum()} rows with another vector; texts {same=}"
            )

    def fault(self, text: str) -> None:
        """Note something that must not be."""
        self.faults.append(text)


class Attempts:
    """Who paid for what, over the attempts at one version."""

    def __init__(self, sandbox: Sandbox, version: Version) -> None:
        self._sandbox = sandbox
        self._version = version
        self._start = len(sandbox.bill)
        self._ends: list[int] = []
        self._allowed: list[int] = []

    def paid(self) -> int:
        """Texts of this version that are on the bill so far, each as often as it is."""
        texts = {fingerprint(text) for text in self._version.texts}
        return sum(text in texts for paid in self._sandbox.bill[self._start :] for text in paid.inputs)

    def ended(self, allowed: int) -> None:
        """An attempt is over; the next ones may pay again for at most so many texts because of that."""
        self._ends.append(len(self._sandbox.bill))
        self._allowed.append(allowed)

    def settle(self, account: Account, *, woken: bool = False) -> None:
        """Compare the bill with what was to be paid.

        :param woken: an attempt went on after its end: a call that had passed its check when it was frozen goes when it
            wakes. It is one of those in flight, but when it is paid does not tell any more by whom.
        """
        version = self._version
        texts = {fingerprint(text): text in version.new for text in version.texts}
        payers: dict[str, list[int]] = defaultdict(list)
        for number, paid in enumerate(self._sandbox.bill[self._start :], self._start):
            for text in paid.inputs:
                if text in texts:
                    payers[text].append(bisect_right(self._ends, number))
        name = f"{version.name} v{version.number}"
        carried = sum(len(payers[text]) for text, is_new in texts.items() if not is_new)
        if carried:
            account.fault(f"{name}: paid {carried} times for texts that an earlier version has")
        unpaid = sum(1 for text, is_new in texts.items() if is_new and not payers[text])
        if unpaid:
            account.fault(f"{name}: {unpaid} texts have an answer that nobody paid for")
        wasted = Counter(attempt for attempts in payers.values() for attempt in attempts[:-1])
        if woken:
            wasted = Counter({0: wasted.total()})
        most = {text: len(self._ends) + 1 if woken else len(set(attempts)) for text, attempts in payers.items()}
        twice = sum(1 for text, attempts in payers.items() if len(attempts) > most[text])
        if twice:
            account.fault(f"{name}: {twice} texts were paid for twice by one attempt")
        for attempt, times in sorted(wasted.items()):
            allowed = self._allowed[attempt] if attempt < len(self._allowed) else 0
            account.worst = max(account.worst, times)
            if times > allowed:
                account.fault(
                    f"{name}: attempt {attempt + 1} of {len(self._ends) + 1} cost {times} again, not {allowed}"
                )
        account.paid += len(version.new)
        account.again += wasted.total()
        account.bound += sum(self._allowed)
