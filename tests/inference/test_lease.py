"""Who may spend at a destination, and how many requests a run has sent: leases and meters, in virtual time."""

from __future__ import annotations

import asyncio
import json
import random
from dataclasses import replace

import pytest

from airflow_provider_modelstudio.inference.budget import Budget, Spent
from airflow_provider_modelstudio.inference.engine import StopSignal
from airflow_provider_modelstudio.inference.errors import (
    BudgetError,
    EndpointError,
    InterruptedRunError,
    ModelStudioError,
    StorageError,
    SupersededError,
)
from airflow_provider_modelstudio.inference.storage import ObjectExistsError, ObjectMissingError
from airflow_provider_modelstudio.inference.storage.local import LocalStorage
from airflow_provider_modelstudio.inference.vault.lease import Lease, Process
from airflow_provider_modelstudio.inference.vault.meter import Meter
from tests.inference.fakes import Hashes, Scripted, http
from tests.inference.virtual_time import run_in_virtual_time

TEXTS = [f"row number {i}" for i in range(357)]
NAMES = random.Random(0)  # noqa: S311  # the same each time
ELSEWHERE = Process("another machine", "boot", "", 1, "1")


class Memory:
    """Objects in memory, as one attempt reaches them: slowly, and not at all while it is frozen."""

    def __init__(self, objects, dice):
        self.objects = objects
        self.dice = dice
        self.frozen_until = 0.0

    has_clock = True

    async def pause(self):
        loop = asyncio.get_running_loop()
        await asyncio.sleep(self.dice.uniform(0.0, 0.05))
        await asyncio.sleep(max(0.0, self.frozen_until - loop.time()))

    async def create(self, key, *pieces):
        await self.pause()
        content = b"".join(pieces)
        if self.objects.setdefault(key, (content, asyncio.get_running_loop().time()))[0] != content:
            raise ObjectExistsError(key)
        await self.pause()

    async def replace(self, key, content):
        await self.pause()
        self.objects[key] = content, asyncio.get_running_loop().time()
        await self.pause()

    async def read(self, key):
        await self.pause()
        return self._get(key)[0]

    async def modified(self, key):
        await self.pause()
        return self._get(key)[1]

    def _get(self, key):
        if key not in self.objects:
            raise ObjectMissingError(key)
        return self.objects[key]

    async def list_keys(self, prefix):
        await self.pause()
        return sorted(key for key in self.objects if key.startswith(prefix + "/"))


def lease(objects, owner, dice=None):
    storage = Memory(objects, dice or random.Random(0))  # noqa: S311  # the same each time
    return Lease(
        storage,
        owner,
        attempt=f"{NAMES.getrandbits(48):012x}",
        clock=asyncio.get_running_loop().time,
        ttl=3.0,
        process=ELSEWHERE,
    )


def test_a_newer_try_of_the_same_task_takes_over():
    """The older one finds out at its next renewal and may not spend; the newer one waits until that is certain."""

    async def history():
        objects = {}
        old, new = lease(objects, "task"), lease(objects, "task")
        await old.acquire()
        keeping = asyncio.create_task(old.keep())
        old.check()
        await new.acquire()
        new.check()
        with pytest.raises(SupersededError, match="another attempt of this run"):
            old.check()
        keeping.cancel()

    run_in_virtual_time(history())


def test_another_task_waits_its_turn():
    """As long as the first holds its lease nobody else may spend, and nobody throws it out."""

    async def history():
        objects = {}
        first, second, third = (lease(objects, owner) for owner in "abc")
        await first.acquire()
        keeping = asyncio.create_task(first.keep())
        queue = [asyncio.create_task(one.acquire()) for one in (second, third)]
        await asyncio.sleep(100.0)
        first.check()
        assert not any(one.done() for one in queue)
        keeping.cancel()
        await first.release()
        await asyncio.wait(queue, return_when=asyncio.FIRST_COMPLETED)
        assert sorted(one.done() for one in queue) == [False, True]
        earlier, later = sorted((second, third), key=lambda one: one.epoch)
        earlier.check()
        await earlier.release()
        await asyncio.gather(*queue)
        later.check()

    run_in_virtual_time(history())


def test_who_let_its_lease_run_out_is_passed():
    """One that was frozen leaves when somebody waited and went on; its renewal does not bring it back."""

    async def history():
        objects = {}
        frozen, other = lease(objects, "a"), lease(objects, "b")
        await frozen.acquire()
        await other.acquire()  # nobody renews the first
        with pytest.raises(SupersededError, match="could not be renewed"):
            frozen.check()
        keeping = asyncio.create_task(frozen.keep())
        await asyncio.sleep(2.0)
        with pytest.raises(SupersededError, match="another run into this destination"):
            frozen.check()
        keeping.cancel()

    run_in_virtual_time(history())


def test_a_clock_that_was_set_takes_nobodys_lease():
    """Where a store takes the time of the machine, an hour that passed at once tells nothing about a lease."""

    class Unclocked(Memory):
        has_clock = False

        async def modified(self, key):
            return await super().modified(key) + (3600.0 if key.startswith("epoch") else 0.0)

    async def history():
        objects, clock = {}, asyncio.get_running_loop().time
        first, second = (
            Lease(Unclocked(objects, random.Random(0)), owner, attempt=owner, clock=clock, ttl=3.0, process=ELSEWHERE)  # noqa: S311
            for owner in "ab"
        )
        await first.acquire()
        keeping = asyncio.create_task(first.keep())
        waiting = asyncio.create_task(second.acquire())
        await asyncio.sleep(20.0)
        first.check()
        assert not waiting.done()
        keeping.cancel()
        await first.release()
        await waiting

    run_in_virtual_time(history())


@pytest.mark.parametrize("seed", range(60))
def test_never_two_at_once(seed):
    """Tasks and tries that start, freeze, die and end: who may spend is always the newest that was let in."""
    dice = random.Random(seed)  # noqa: S311  # the same each time
    spending, objects = [], {}

    async def attempt(number):
        loop = asyncio.get_running_loop()
        mine = lease(objects, dice.choice("aab"), dice)
        storage = mine._storage
        try:
            await mine.acquire()
        except ModelStudioError:
            return
        spending.append(mine.epoch)
        keeping = asyncio.create_task(mine.keep())
        for _ in range(dice.randint(1, 30)):
            if dice.random() < 0.1:
                storage.frozen_until = loop.time() + dice.uniform(0.5, 8.0)
            await storage.pause()
            try:
                mine.check()
            except SupersededError:
                break
            assert max(spending) == mine.epoch, f"{mine.epoch} spends although {max(spending)} was let in"
            await asyncio.sleep(dice.uniform(0.0, 0.5))
        keeping.cancel()
        if dice.random() < 0.6:
            await mine.release()

    async def history():
        tries = []
        for number in range(8):
            tries.append(asyncio.create_task(attempt(number)))
            await asyncio.sleep(dice.uniform(0.0, 4.0))
        await asyncio.gather(*tries)

    run_in_virtual_time(history())
    assert len(spending) > 1


def test_two_models_into_one_destination_take_turns(place):
    """The second of two runs with different settings asks its first question after the first is shown, and both finish."""
    place.write(TEXTS[:60])
    order = []

    def slow(name):
        def script(number, texts):
            order.append(name)
            return asyncio.sleep(0.2)

        return Scripted(script)

    async def both():
        first = asyncio.create_task(place.start(slow("a"), Hashes(setting="a"), owner="one", lease_seconds=3.0))
        await asyncio.sleep(0.1)
        second = asyncio.create_task(place.start(slow("b"), Hashes(setting="b"), owner="two", lease_seconds=3.0))
        return await asyncio.gather(first, second)

    summaries = run_in_virtual_time(both())
    assert [summary.embedded for summary in summaries] == [60, 60]
    assert order == sorted(order)
    assert set(order) == {"a", "b"}
    place.check(TEXTS[:60])


def test_a_run_that_waits_can_be_stopped(place):
    """Asked to stop while another run holds the destination, it leaves at once and asks nothing."""
    place.write(TEXTS[:60])
    stop, service = StopSignal(), Scripted()

    async def both():
        first = asyncio.create_task(place.start(Scripted(lambda n, t: asyncio.sleep(50.0)), owner="one"))
        await asyncio.sleep(1.0)
        second = asyncio.create_task(place.start(service, owner="two", stop=stop))
        await asyncio.sleep(1.0)
        stop.request()
        with pytest.raises(InterruptedRunError):
            await second
        return await first

    assert run_in_virtual_time(both()).embedded == 60
    assert service.requests == 0


def dead(number, texts):
    return http(401, kind="security_exception")


def test_two_that_claim_at_once_have_two_epochs(tmp_path):
    """Both have seen the same epochs when they claim the next one: their own names tell the two apart."""

    class Slow(LocalStorage):
        async def list_keys(self, prefix):
            found = await super().list_keys(prefix)
            await asyncio.sleep(0.01)
            return found

    async def both():
        storage = Slow(tmp_path / "state", tmp_path / "out", single_file=False)
        clock = asyncio.get_running_loop().time
        leases = [Lease(storage, owner, attempt=owner, clock=clock) for owner in ("one", "another")]
        await asyncio.gather(*(lease.acquire() for lease in leases))
        return sorted(lease.epoch for lease in leases)

    first, second = run_in_virtual_time(both())
    assert first < second


@pytest.mark.parametrize("tries", [1, 2, 5])
def test_requests_of_all_tries_count(place, tries):
    """max_requests holds over tries that failed in order: exactly so many are sent in all."""
    place.write(TEXTS)
    sent = 0
    for _ in range(tries):
        service = Scripted(lambda number, texts: dead(number, texts) if number > 4 else None)
        with pytest.raises(EndpointError):
            place.run(service, Hashes(), budget=Budget(max_requests=90))
        sent += service.requests
    service = Scripted(lambda number, texts: http(503) if number % 3 else None)
    with pytest.raises(BudgetError, match="max_requests is 90"):
        place.run(service, budget=Budget(max_requests=90))
    assert sent + service.requests == 90


def put_back(place, kept):
    """What a dying try still wrote was never written."""
    for file in place.state.glob("*/runs/*/spent/*"):
        if file not in kept:
            file.unlink()
    for file, content in kept.items():
        file.write_bytes(content)


@pytest.mark.parametrize("nth", [1, 2])
def test_a_write_that_was_given_up_does_not_count(place, nth):
    """Of a try that ended by itself the exact sum counts, whatever it wrote down before, and whenever that lands."""
    place.write(TEXTS)
    books, hanging = [], asyncio.Event()

    class Hanging(LocalStorage):
        async def replace(self, key, content):
            await super().replace(key, content)
            if "/spent/" in key and not key.endswith(".exact"):
                books.append(key)
                if len(books) == nth:
                    hanging.set()
                    await asyncio.get_running_loop().create_future()

    async def stopped():
        stop, service = StopSignal(), Scripted(lambda number, texts: asyncio.sleep(0.2))
        trying = asyncio.create_task(place.start(service, storage=Hanging, stop=stop))
        await hanging.wait()
        stop.request()
        await asyncio.gather(trying, return_exceptions=True)
        return service

    first, second = run_in_virtual_time(stopped()), Scripted()
    (landed,) = place.state.glob("*/runs/*/spent/*[!t]")
    landed.write_text(json.dumps({"requests": 500, "tokens": 10_000, "written": 0}))
    requests = -(-len(TEXTS) // 10)
    place.run(second, budget=Budget(max_requests=requests))
    assert first.requests + second.requests == requests
    place.check(TEXTS)


def test_requests_of_a_killed_try_count(place):
    """A try that was killed without a word counts what it may have sent: never more than max_requests are sent in all."""
    place.write(TEXTS)
    sent = 0

    async def killed():
        service = Scripted(lambda number, texts: asyncio.sleep(1e6) if number > 9 else None)
        trying = asyncio.create_task(place.start(service, budget=Budget(max_requests=90)))
        await asyncio.sleep(1.0)
        kept = {file: file.read_bytes() for file in place.state.glob("*/runs/*/spent/*")}
        trying.cancel()
        await asyncio.gather(trying, return_exceptions=True)
        put_back(place, kept)
        return service.requests

    for _ in range(2):
        sent += run_in_virtual_time(killed())
    written = [json.loads(file.read_text())["requests"] for file in place.state.glob("*/runs/*/spent/*")]
    assert len(written) == 2
    assert sent <= sum(written) <= sent + 2 * 2 * 8
    service = Scripted(lambda number, texts: http(503) if number % 3 else None)
    with pytest.raises(BudgetError):
        place.run(service, budget=Budget(max_requests=90))
    assert sent + service.requests <= 90


@pytest.mark.parametrize(
    ("spent", "covered"),
    [
        (Spent(8, 100, 50), True),
        (Spent(1, 1), True),
        (Spent(9, 50), False),
        (Spent(3, 101), False),
        (Spent(3, 50, 51), False),
    ],
)
def test_what_is_written_down_covers_requests_and_tokens(tmp_path, spent, covered):
    """Neither many small requests nor a few large ones go beyond what a later try will read."""

    async def cover():
        meter = Meter(LocalStorage(tmp_path / "state", tmp_path / "out", single_file=False), "spent")
        await meter.open(1)
        assert not meter.covers(Spent(1, 1))
        await meter.allow(Spent(8, 100, 50))
        later = Meter(LocalStorage(tmp_path / "state", tmp_path / "out", single_file=False), "spent")
        await later.open(2)
        return meter.covers(spent), later.before

    assert run_in_virtual_time(cover()) == (covered, (8, 100, 50))


def test_an_answer_is_kept_before_it_is_counted(place):
    """A store that cannot write down what a model wrote fails the run, and costs no answer."""

    class Writes(Hashes):
        def decode(self, answer, questions):
            return replace(super().decode(answer, questions), written=1000)

    class Fails(LocalStorage):
        counted = 0

        async def replace(self, key, content):
            if "/spent/" in key:
                Fails.counted += 1
                if Fails.counted > 1:
                    raise StorageError("not now")
            await super().replace(key, content)

    place.write(TEXTS)
    first, second = Scripted(), Scripted()
    with pytest.raises(StorageError, match="not now"):
        place.run(first, Writes(), storage=Fails)
    assert first.billed
    place.run(second, Writes())
    place.check(TEXTS)
    assert max((first.billed + second.billed).values()) == 1


def test_what_was_given_up_counts_as_if_it_was_written(place):
    """A model may go on writing for a request that a stop gave up: as much as for the others, for all we know."""

    class Writes(Hashes):
        def decode(self, answer, questions):
            return replace(super().decode(answer, questions), written=1000)

    async def stopped():
        stop, service = StopSignal(), Scripted(lambda number, texts: asyncio.sleep(0.1 if number < 6 else 100.0))
        trying = asyncio.create_task(place.start(service, Writes(), stop=stop))
        await asyncio.sleep(1.0)
        stop.request()
        await asyncio.gather(trying, return_exceptions=True)
        return service.requests

    place.write(TEXTS)
    requests = run_in_virtual_time(stopped())
    (exact,) = place.state.glob("*/runs/*/spent/*.exact")
    assert requests > 5
    assert json.loads(exact.read_text())["written"] == 1000 * requests


def test_tokens_of_a_killed_try_count(place):
    """The same for max_cost, with requests of very different sizes: what is paid in all stays below it."""
    texts = [f"row number {i} " + "word " * (400 if i > 100 else 1) for i in range(300)]
    place.write(texts)

    async def killed(stuck_after):
        service = Scripted(lambda number, texts: asyncio.sleep(1e6) if number > stuck_after else None)
        seen = count(service)
        trying = asyncio.create_task(place.start(service))
        await asyncio.sleep(1.0)
        kept = {file: file.read_bytes() for file in place.state.glob("*/runs/*/spent/*")}
        trying.cancel()
        await asyncio.gather(trying, return_exceptions=True)
        put_back(place, kept)
        return sum(seen)

    def count(service):
        seen, ask = [], service.infer

        async def infer(task_type, inference_id, body, **rest):
            seen.append(sum(max(1, len(text) // 4) for text in json.loads(body)))
            return await ask(task_type, inference_id, body, **rest)

        service.infer = infer
        return seen

    paid = run_in_virtual_time(killed(3)) + run_in_virtual_time(killed(9))
    written = [json.loads(file.read_text())["tokens"] for file in place.state.glob("*/runs/*/spent/*")]
    assert len(written) == 2
    assert paid <= sum(written)
    service = Scripted(lambda number, texts: http(503) if number % 3 else None)  # which costs more than was estimated
    seen = count(service)
    most = sum(written) + 110_000
    with pytest.raises(BudgetError, match=f"max_cost is {most}"):
        place.run(service, budget=Budget(max_cost=most, price=1e6, currency="CNY"))
    assert seen
    assert paid + sum(seen) <= most


def test_another_settings_counts_its_own_requests(place):
    """Requests count for the run that sent them, though all runs share the lease of the destination."""
    place.write(TEXTS)
    service = Scripted(lambda number, texts: dead(number, texts) if number > 20 else None)
    with pytest.raises(EndpointError):
        place.run(service, Hashes(setting="a"), budget=Budget(max_requests=40))
    place.run(Scripted(), Hashes(setting="b"), budget=Budget(max_requests=40))
    with pytest.raises(BudgetError):
        place.run(Scripted(), Hashes(setting="a"), budget=Budget(max_requests=service.requests + 5))
    place.check(TEXTS)
