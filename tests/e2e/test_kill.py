"""kill -9 at every step of a load: the next load makes it exact, and asks little twice.

The partitions hold an old answer; a load of the new one is killed. What is there then must be the
old or the new answer, whole; and after one more load, which nobody kills, the new one everywhere.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import sys
from collections import Counter
from datetime import UTC, date, datetime, timedelta

import pytest

from prefect_wix.planning.partitions import JobState, Partition
from prefect_wix.sandbox import World, running
from tests.e2e import loader
from tests.processes import ROOT

ENGINES = ("duckdb", "postgres", "parquet")
SEEDS = range(int(os.environ.get("KILL_SEEDS", "1")))
DAYS = [date(2024, 3, day) for day in (1, 2, 3)]
DEVICES = ("DESKTOP", "MOBILE")
ZONE = "Asia/Jerusalem"
STEPS = [
    ("claim", "before"),
    ("claim", "during"),
    ("claim", "after"),
    ("submit", "before"),
    ("submit", "during"),
    ("submit", "after"),
    ("save_record", "during"),
    ("save_record", "after"),
    ("page", "during"),
    ("page", "after"),
    ("publish", "before"),
    ("publish", "during"),
    ("publish", "after"),
]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("verb", "moment"), STEPS, ids=map("-".join, STEPS))
async def test_a_killed_load_is_made_whole_by_the_next(engine, verb, moment, make_bench):
    """Old or new, never a mix; then new everywhere, with one submit a kill too many at most."""
    bench = make_bench(engine)
    for seed in SEEDS:
        await killed_and_made_whole(bench, kill_at(verb, moment, f"{engine} {seed}"), seed)


async def killed_and_made_whole(bench, kill, seed):
    old = await load(bench, a_world(2 * seed), as_of=datetime.now(UTC))
    with running(a_world(2 * seed + 1), job_seconds=(0.0, 0.1)) as shop:
        told = orders(bench, shop, as_of=datetime.now(UTC))
        assert await killed(told, kill) == -signal.SIGKILL
        new = truth(shop)
        for partition in new:
            assert sorted(await bench.check(partition)) in (old[partition], new[partition])
        outcomes = await loader.main(told)
        assert JobState.FAILED not in {one.state for one in outcomes}
        for partition, ids in new.items():
            assert sorted(await bench.check(partition)) == ids
        assert len(shop.submits) <= len(new) + 1
        most_asked = Counter(json.dumps(body) for body in shop.submits).most_common(1)[0][1]
        assert most_asked <= 2


async def load(bench, world, *, as_of):
    """Land a world whole; its answers."""
    with running(world) as shop:
        await loader.main(orders(bench, shop, as_of=as_of))
        return truth(shop)


async def killed(told, kill):
    """Load in another process, which dies at a step; how it ended."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.e2e.loader",
        json.dumps({**told, "kill": kill}),
        cwd=ROOT,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, errors = await asyncio.wait_for(process.communicate(), 60)
    assert b"Traceback" not in errors, errors.decode()
    return process.returncode


def kill_at(verb, moment, seed):
    """The step, at one of the times it is taken, and for "during" after some milliseconds."""
    chance = random.Random(f"{verb} {moment} {seed}")
    return {
        "verb": verb,
        "moment": moment,
        "number": chance.randint(1, 5),
        "delay": chance.uniform(0, 0.03),
    }


def orders(bench, shop, *, as_of):
    return {
        "warehouse": bench.url,
        "schema": bench.schema,
        "base_url": shop.url,
        "api_key": shop.api_key,
        "site_id": shop.site_id,
        "days": [str(DAYS[0]), str(DAYS[-1] + timedelta(1))],
        "segments": [f"device_type={device}" for device in DEVICES],
        "as_of": as_of.isoformat(),
        "page_limit": 20,
    }


def a_world(seed):
    return World.generate(seed, sessions=400, start=DAYS[0], days=3, timezone=ZONE)


def truth(shop):
    """Partition -> the ids that Wix has, sorted."""
    partitions = [
        Partition(shop.site_id, day, f"device_type={device}", ZONE)
        for day in DAYS
        for device in DEVICES
    ]
    return {one: sorted(shop.answer(one.query.to_wire())) for one in partitions}
