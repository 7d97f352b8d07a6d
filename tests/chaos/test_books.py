"""The judge of the loop, judged: it must see each kind of wrong that it is there for."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
import pytest

from airflow_provider_modelstudio.sandbox.engines.hashed import HashedEngine
from airflow_provider_modelstudio.sandbox.ledger import Paid, fingerprint
from tests.chaos.books import Account, Attempts
from tests.chaos.versions import Shape, make_dice, make_version

SHAPE = Shape(rows=60, texts=40)
ENGINE = HashedEngine(8)


@dataclass
class Server:
    """Keeps a bill, and answers nothing."""

    bill: list[Paid] = field(default_factory=list)

    def pay(self, texts):
        self.bill.append(Paid(1, "text_embedding", "e", tuple(map(fingerprint, texts)), None, None))


@pytest.fixture
def version():
    return make_version(make_dice(1), "d", SHAPE)


def settle(version, *attempts, woken=False):
    """``attempts``: texts paid by each, and what its end allows."""
    server, account = Server(), Account("lane")
    server.pay(["a text of somebody else"])
    books = Attempts(server, version)
    for texts, allowed in attempts:
        server.pay(texts)
        if allowed is not None:
            books.ended(allowed)
    books.settle(account, woken=woken)
    return account


def test_what_a_woken_attempt_sent_is_within_its_bound(version):
    """Its calls are paid for after its end, so that the bound holds for both together, and no text is paid three times."""
    bill = (version.texts[:20], 10), (version.texts[20:] + version.texts[20:30], None)
    assert settle(version, *bill, woken=True).faults == []
    assert settle(version, *bill).faults != []
    more = (version.texts[:20], 5), bill[1]
    assert settle(version, *more, woken=True).faults != []
    thrice = (version.texts[:20], 40), (version.texts[20:] + version.texts[20:30] * 2, None)
    assert settle(version, *thrice, woken=True).faults != []


def test_what_was_in_flight_may_be_paid_again(version):
    """A kill with ten texts in flight costs ten payments, which its bound allows."""
    account = settle(version, (version.texts[:30], 10), (version.texts[20:], None))
    assert account.faults == []
    assert (account.paid, account.again, account.worst, account.bound) == (40, 10, 10, 10)


@pytest.mark.parametrize(
    ("attempts", "fault"),
    [
        ([(slice(0, 30), 9), (slice(20, 40), None)], "attempt 1 of 2 cost 10 again, not 9"),
        ([(slice(0, 39), None)], "1 texts have an answer that nobody paid for"),
        ([(slice(0, 40), 80), (slice(0, 0), 80), (slice(0, 1), None), (slice(0, 1), None)], "paid for twice by one"),
    ],
)
def test_each_wrong_bill_is_seen(version, attempts, fault):
    """Too much paid again, nothing paid at all, and the same paid twice by one attempt are faults."""
    account = settle(version, *((version.texts[texts], allowed) for texts, allowed in attempts))
    assert any(fault in found for found in account.faults), account.faults


def test_what_an_earlier_version_has_is_not_paid(version):
    """Half of the texts of the next version stay, and paying for one of them is a fault."""
    following = make_version(make_dice(2), "d", SHAPE, version)
    assert len(following.new) == 20
    assert settle(following, (sorted(following.new), None)).faults == []
    assert "an earlier version has" in settle(following, (following.texts, None)).faults[0]


def test_rows_tell_all_texts_in_order_of_their_first_use():
    """Each text is used, and a text that comes again comes after its first use."""
    version = make_version(make_dice(3), "d", SHAPE)
    firsts = np.unique(version.numbers, return_index=True)
    assert firsts[0].tolist() == list(range(SHAPE.texts))
    assert (np.diff(firsts[1]) > 0).all()


def rows_of(version):
    vectors = ENGINE.embed(version.texts, query=False)[version.numbers]
    column = pa.FixedSizeListArray.from_arrays(pa.array(vectors.ravel()), ENGINE.dimensions)
    errors = pa.nulls(version.rows, pa.string())
    return version.table.append_column("embedding", column).append_column("embedding_error", errors)


def swapped(table):
    """Two rows with different texts have each other's vector."""
    column = table["embedding"].combine_chunks()
    order = [0, 2, 1, *range(3, len(table))]
    return table.set_column(table.schema.get_field_index("embedding"), "embedding", column.take(pa.array(order)))


@pytest.mark.parametrize(
    ("spoil", "fault"),
    [
        (lambda table: table, None),
        (lambda table: table.slice(1), "not the 60 in order"),
        (lambda table: pa.concat_tables([table.slice(1), table.slice(0, 1)]), "not the 60 in order"),
        (lambda table: pa.concat_tables([table, table]), "not the 60 in order"),
        (swapped, "2 rows with another vector"),
    ],
)
def test_each_wrong_dataset_is_seen(version, spoil, fault):
    """A row that is missing, twice there, out of order, or has another row's vector is a fault."""
    account = Account("lane")
    account.check_rows(version, spoil(rows_of(version)), ENGINE.embed(version.texts, query=False))
    assert [fault in found for found in account.faults] == ([] if fault is None else [True])
