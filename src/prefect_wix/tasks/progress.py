"""Progress of a load or a marking: an artifact in the UI, and a log line every 10 seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self
from uuid import UUID

import httpx
from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact
from prefect.exceptions import PrefectException

from prefect_wix.client.client import Log
from prefect_wix.load.mark_recordings import MarkSummary
from prefect_wix.load.partition_load import PartitionResult
from prefect_wix.planning.estimate import counted
from prefect_wix.planning.partitions import JobState
from prefect_wix.tasks.reports import describe_marks

LOAD_KEY = "wix-sessions-load-progress"
MARK_KEY = "wix-session-marks-progress"
_ARTIFACT_EVERY_SECONDS = 2.0
_LOG_EVERY_SECONDS = 10.0


class _Progress:
    """Reports the progress of a run. Use it as ``async with``.

    Args:
        key: the artifact key.
        log: the run's logger.
    """

    def __init__(self, key: str, log: Log) -> None:
        self._key = key
        self._log = log
        self._artifact_id: UUID | None = None
        self._written_at = self._logged_at = time.monotonic()
        self._writing = asyncio.Lock()

    async def __aenter__(self) -> Self:
        with self._ignore_errors():
            self._artifact_id = await acreate_progress_artifact(
                progress=0.0, key=self._key, description=self._sentence()
            )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._write()

    def _share(self) -> float:
        """The completed share, 0 to 1."""
        raise NotImplementedError

    def _sentence(self) -> str:
        """The progress as text."""
        raise NotImplementedError

    async def _publish(self) -> None:
        now = time.monotonic()
        if now - self._logged_at >= _LOG_EVERY_SECONDS:
            self._logged_at = now
            self._log.info("%s", self._sentence())
        if now - self._written_at >= _ARTIFACT_EVERY_SECONDS and not self._writing.locked():
            self._written_at = now
            await self._write()

    async def _write(self) -> None:
        if self._artifact_id is None:
            return
        async with self._writing:
            with self._ignore_errors():
                await aupdate_progress_artifact(
                    self._artifact_id,
                    progress=100.0 * self._share(),
                    description=self._sentence(),
                )

    @contextmanager
    def _ignore_errors(self) -> Iterator[None]:
        """A failed artifact update must not fail the run."""
        try:
            yield
        except (httpx.HTTPError, PrefectException) as error:
            self._log.warning("Progress artifact not written, updates stopped: %s", error)
            self._artifact_id = None


class LoadProgress(_Progress):
    """The progress of a load in partitions. Use it as ``async with``.

    Args:
        total: the number of partitions.
        log: the run's logger.
    """

    def __init__(self, total: int, log: Log) -> None:
        super().__init__(LOAD_KEY, log)
        self._total = total
        self._done = self._failed = self._sessions = 0

    async def update(self, result: PartitionResult) -> None:
        """Count one partition."""
        self._done += 1
        self._failed += result.state is JobState.FAILED
        self._sessions += result.sessions
        await self._publish()

    def _share(self) -> float:
        return self._done / max(self._total, 1)

    def _sentence(self) -> str:
        done = f"{self._done:,} of {counted(self._total, 'partition')}"
        failed = f", {self._failed:,} failed" if self._failed else ""
        return f"{done}, {counted(self._sessions, 'session')}{failed}"


class MarkProgress(_Progress):
    """The progress of a marking in session IDs. Use it as ``async with``.

    Args:
        log: the run's logger.
    """

    def __init__(self, log: Log) -> None:
        super().__init__(MARK_KEY, log)
        self._summary: MarkSummary | None = None

    async def update(self, summary: MarkSummary) -> None:
        """Replace the summary so far."""
        self._summary = summary
        await self._publish()

    def _share(self) -> float:
        if self._summary is None:
            return 0.0
        return 1 - self._summary.not_sent / max(self._summary.to_send, 1)

    def _sentence(self) -> str:
        return describe_marks(self._summary) if self._summary else "nothing sent yet"
