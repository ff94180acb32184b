"""kill -9 at every step of a load: the next load is exact and submits at most one job twice.

The partitions contain an old result when a load of a new one is killed. After the kill, each
contains the complete old or the complete new result; after the next load, all contain the new one.
"""

from __future__ import annotations

import asyncio
import json
import random
import signal
import sys
from collections import Counter
from datetime import UTC, date, datetime, timedelta
from urllib.parse import urlsplit

import pytest

from prefect_wix.planning.partitions import JobState, Partition
from prefect_wix.sandbox import World, running
from tests.e2e import consumer, loader
from tests.options import SOAK, repeated
from tests.processes import ROOT

ENGINES = ("duckdb", "postgres", "parquet")
SEEDS = range(repeated(1, soak=10))
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


KILLS = [
    (engine, *step)
    for number, step in enumerate(STEPS)
    for place, engine in enumerate(ENGINES)
    if SOAK or step[0] == "publish" or place == number % len(ENGINES)
]
"""Each step on one engine and each step of a publish on all; in soak, each step on all."""


@pytest.mark.parametrize(("engine", "operation", "moment"), KILLS, ids=map("-".join, KILLS))
async def test_the_load_after_a_killed_one_is_exact(engine, operation, moment, make_bench):
    """A kill leaves no mixed partition and costs at most one extra submit."""
    bench = make_bench(engine)
    for seed in SEEDS:
        await check_kill_and_next_load(bench, kill_at(operation, moment, f"{engine} {seed}"), seed)


@pytest.mark.parametrize("engine", ENGINES)
async def test_a_restarted_sandbox_gives_each_partition_its_own_ids(
    engine, make_bench, monkeypatch
):
    """The load is killed while four jobs run. The restarted sandbox does not know them."""
    monkeypatch.setattr("prefect_wix.jobs.polling.UNKNOWN_SECONDS", 1.0)
    bench, world = make_bench(engine), make_world(0)
    kill = {"operation": "save_record", "moment": "after", "number": 4, "delay": 0}
    with running(world, job_seconds=60) as shop:
        config = load_config(bench, shop, as_of=datetime.now(UTC))
        assert await run_killed_load(config, kill) == -signal.SIGKILL
    with running(world, port=urlsplit(shop.url).port) as shop:
        # The jobs of the last days are submitted while those of the first are polled.
        results = await loader.main({**config, "jobs_in_flight": 6})
        assert {one.state for one in results} == {JobState.LANDED}
        for partition, ids in truth(shop).items():
            assert sorted(await bench.check(partition)) == ids


@pytest.mark.parametrize("engine", ["duckdb", "postgres"])
async def test_the_copy_of_a_killed_consumer_equals_the_table(engine, make_bench, tmp_path):
    """Two loaders of the same days publish meanwhile, and are killed, too."""
    bench, chance, codes = make_bench(engine), random.Random(engine), []
    await bench.ready()
    copy = {"warehouse": bench.url, "schema": bench.schema, "copy": str(tmp_path / "copy.sqlite")}
    for number in range(repeated(2, soak=50)):
        with running(make_world(number), job_seconds=(0.0, 0.1)) as shop:
            config = load_config(bench, shop, as_of=datetime.now(UTC))
            follower = await start("consumer", copy)
            kills = [kill_at(*chance.choice(STEPS), chance.random()) for _ in range(2)]
            codes += await asyncio.gather(*(run_killed_load(config, kill) for kill in kills))
            await asyncio.sleep(chance.uniform(0, 0.2))
            follower.kill()
            assert await exit_code(follower) == -signal.SIGKILL
    assert -signal.SIGKILL in codes
    expected = await load(bench, make_world(-1), as_of=datetime.now(UTC))
    await consumer.consume(copy)
    for partition, ids in expected.items():
        assert consumer.copied(copy, partition) == sorted(await bench.check(partition)) == ids


async def check_kill_and_next_load(bench, kill, seed):
    old = await load(bench, make_world(2 * seed), as_of=datetime.now(UTC))
    with running(make_world(2 * seed + 1), job_seconds=(0.0, 0.1)) as shop:
        config = load_config(bench, shop, as_of=datetime.now(UTC))
        assert await run_killed_load(config, kill) == -signal.SIGKILL
        new = truth(shop)
        for partition in new:
            assert sorted(await bench.check(partition)) in (old[partition], new[partition])
        results = await loader.main(config)
        assert JobState.FAILED not in {one.state for one in results}
        for partition, ids in new.items():
            assert sorted(await bench.check(partition)) == ids
        assert len(shop.submits) <= len(new) + 1
        most_submits = Counter(json.dumps(body) for body in shop.submits).most_common(1)[0][1]
        assert most_submits <= 2


async def load(bench, world, *, as_of):
    """Load a world completely; its IDs by partition."""
    with running(world) as shop:
        await loader.main(load_config(bench, shop, as_of=as_of))
        return truth(shop)


async def run_killed_load(config, kill):
    """Load in another process that kills itself at a step; its exit code."""
    return await exit_code(await start("loader", {**config, "kill": kill}))


async def start(module, config):
    """A process of a module of this folder."""
    command = (sys.executable, "-m", f"tests.e2e.{module}", json.dumps(config))
    pipe = asyncio.subprocess.PIPE
    return await asyncio.create_subprocess_exec(*command, cwd=ROOT, stdout=pipe, stderr=pipe)


async def exit_code(process):
    _, errors = await asyncio.wait_for(process.communicate(), 120)
    assert b"Traceback" not in errors, errors.decode()
    return process.returncode


def kill_at(operation, moment, seed):
    """One of the first five calls of an operation, and for "during" a delay of up to 30 ms."""
    chance = random.Random(f"{operation} {moment} {seed}")
    return {
        "operation": operation,
        "moment": moment,
        "number": chance.randint(1, 5),
        "delay": chance.uniform(0, 0.03),
    }


def load_config(bench, shop, *, as_of):
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


def make_world(seed):
    return World.generate(seed, sessions=400, start=DAYS[0], days=3, timezone=ZONE)


def truth(shop):
    """The sorted IDs at Wix by partition."""
    partitions = [
        Partition(shop.site_id, day, f"device_type={device}", ZONE)
        for day in DAYS
        for device in DEVICES
    ]
    return {one: sorted(shop.answer(one.query.to_wire())) for one in partitions}
