"""airbyte-cdk's AsyncRetriever, as declared in airbyte.yaml."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import yaml
from airbyte_cdk.models import ConfiguredAirbyteCatalogSerializer
from airbyte_cdk.models import Type as MessageType
from airbyte_cdk.sources.declarative.concurrent_declarative_source import (
    ConcurrentDeclarativeSource,
)

from benchmarks.task import Task, measure_work, task_from_arguments

MANIFEST = Path(__file__).with_name("airbyte.yaml")
LOG = logging.getLogger("airbyte")


def fetch_all(task: Task) -> int:
    """Read the stream of every day. Returns the number of IDs."""
    config = _config(task)
    manifest = yaml.safe_load(MANIFEST.read_text())
    manifest["max_concurrent_async_job_count"] = task.slots
    catalog = ConfiguredAirbyteCatalogSerializer.load(_catalog())
    source = ConcurrentDeclarativeSource(
        source_config=manifest, config=config, catalog=catalog, state=[]
    )
    messages = source.read(LOG, config, catalog, [])
    return sum(
        len(message.record.data["sessionIds"])
        for message in messages
        if message.type is MessageType.RECORD
    )


def _config(task: Task) -> dict[str, Any]:
    return {
        "base_url": task.base_url,
        "api_key": task.api_key,
        "site_id": task.site_id,
        "timezone": task.timezone,
        "requests_per_minute": task.requests_per_minute,
        "periods": [f"{first}/{end}" for first, end in task.days],
    }


def _catalog() -> dict[str, Any]:
    stream = {
        "name": "sessions",
        "json_schema": {},
        "supported_sync_modes": ["full_refresh"],
    }
    return {
        "streams": [
            {
                "stream": stream,
                "sync_mode": "full_refresh",
                "destination_sync_mode": "overwrite",
            }
        ]
    }


if __name__ == "__main__":
    the_task = task_from_arguments()
    measure_work(lambda: fetch_all(the_task))
