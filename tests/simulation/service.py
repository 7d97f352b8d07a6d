"""The paid service, as one try reaches it."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING

from airflow_provider_modelstudio.inference.tasks import Answer
from tests.inference.fakes import http, vector

from .world import BATCH, CONCURRENCY, gate

if TYPE_CHECKING:
    from .world import Try, World

__all__ = ["Service"]


class Service:
    """Keeps the books: who paid for what, and whether that was right."""

    def __init__(self, world: World, me: Try) -> None:
        self.world = world
        self.me = me

    async def infer(self, task_type, inference_id, body, *, expect_bytes):
        world, me = self.world, self.me
        loop = asyncio.get_running_loop()
        texts = json.loads(body)
        sent = loop.time()
        if world.spender is not me:
            world.violations.append(f"try {me.number} sends although try {world.spender.number} has taken over")
        self._count()
        await gate(world, me)
        await asyncio.sleep(world.dice.uniform(0.01, 0.2))
        if world.dice.random() < world.lossy / 2:
            world.counters["requests turned away"] += 1
            raise http(503)
        if any(map(world.is_bad, texts)):
            raise http(400, "data_inspection_failed", upstream=400)
        if len(texts) == 1 and me.answered >= set(texts):
            world.controls[texts[0]] += 1
        bought = {}
        # Billed from here on, whether or not the answer arrives.
        for text in texts:
            durable = world.store.durable.get(text)
            if durable is not None and durable < me.replayed_at:
                world.violations.append(f"try {me.number} paid for {text!r} although its answer was durable")
            world.bills.append((sent, me.number, text))
            bought[text] = len(world.bills)
        if world.dice.random() < world.lossy:
            world.lost_answers.update(texts)
            world.counters["lost answers"] += 1
            raise http(408)
        me.in_flight.update(texts)
        if sum(me.in_flight.values()) > CONCURRENCY * BATCH:
            world.violations.append(f"try {me.number} has {sum(me.in_flight.values())} rows paid and not durable")
        await asyncio.sleep(world.dice.uniform(0.0, 0.1))
        await gate(world, me)
        me.answered.update(texts)
        return Answer(json.dumps([[*vector(text)[:3], bought[text]] for text in texts]).encode(), "application/json")

    def _count(self):
        """A guard holds over all tries of a run."""
        world = self.world
        if self.me.version == len(world.versions) - 1:
            world.sent += 1
            if world.max_requests is not None and world.sent > world.max_requests:
                world.violations.append(f"{world.sent} requests, and max_requests is {world.max_requests}")

    async def aclose(self):
        pass
