"""How far a load or a marking is: an artifact in the UI, and now and then a line in the log."""

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
from prefect_wix.planning.partitions import JobState
from prefect_wix.tasks.reports import describe_marks

__all__ = ["LoadProgress", "MarkProgress"]

LOAD_KEY = "wix-sessions-load-progress"
MARK_KEY = "wix-session-marks-progress"
_ARTIFACT_EVERY_SECONDS = 2.0
_LOG_EVERY_SECONDS = 10.0


class _Progress:
    """Tells how much of a run's work is through. Use it as ``async with``.

    Args:
        key: of the artifact.
        log: the run's logger.
    """

    def __init__(self, key: str, log: Log) -> None:
        self._key = key
        self._log = log
        self._artifact_id: UUID | None = None
        self._shown_at = self._logged_at = time.monotonic()
        self._showing = asyncio.Lock()

    async def __aenter__(self) -> Self:
        with self._harmless():
            self._artifact_id = await acreate_progress_artifact(
                progress=0.0, key=self._key, description=self._sentence()
            )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._show()

    def _share(self) -> float:
        """How much is through, 0 to 1."""
        raise NotImplementedError

    def _sentence(self) -> str:
        """How far it is, in words."""
        raise NotImplementedError

    async def _moved(self) -> None:
        now = time.monotonic()
        if now - self._logged_at >= _LOG_EVERY_SECONDS:
            self._logged_at = now
            self._log.info("%s", self._sentence())
        if now - self._shown_at >= _ARTIFACT_EVERY_SECONDS and not self._showing.locked():
            self._shown_at = now
            await self._show()

    async def _show(self) -> None:
        if self._artifact_id is None:
            return
        async with self._showing:
            with self._harmless():
                await aupdate_progress_artifact(
                    self._artifact_id,
                    progress=100.0 * self._share(),
                    description=self._sentence(),
                )

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        """A progress bar that can't be drawn is no reason to stop a run."""
        try:
            yield
        except (httpx.HTTPError, PrefectException) as error:
            self._log.warning("The progress artifact can't be written: %s", error)
            self._artifact_id = None


class LoadProgress(_Progress):
    """How many of a load's partitions are through. Use it as ``async with``.

    Args:
        total: how many partitions there are.
        log: the run's logger.
    """

    def __init__(self, total: int, log: Log) -> None:
        super().__init__(LOAD_KEY, log)
        self._total = total
        self._done = self._failed = self._sessions = 0

    async def tell(self, outcome: PartitionResult) -> None:
        """Count one partition."""
        self._done += 1
        self._failed += outcome.state is JobState.FAILED
        self._sessions += outcome.sessions
        await self._moved()

    def _share(self) -> float:
        return self._done / max(self._total, 1)

    def _sentence(self) -> str:
        failed = f", {self._failed} failed" if self._failed else ""
        return f"{self._done} of {self._total} partitions, {self._sessions} sessions{failed}"


class MarkProgress(_Progress):
    """How many of the ids that are to be marked are through. Use it as ``async with``.

    Args:
        log: the run's logger.
    """

    def __init__(self, log: Log) -> None:
        super().__init__(MARK_KEY, log)
        self._summary: MarkSummary | None = None

    async def tell(self, summary: MarkSummary) -> None:
        """Take note of how far it is."""
        self._summary = summary
        await self._moved()

    def _share(self) -> float:
        if self._summary is None:
            return 0.0
        return 1 - self._summary.not_sent / max(self._summary.to_send, 1)

    def _sentence(self) -> str:
        return describe_marks(self._summary) if self._summary else "nothing is sent yet"
