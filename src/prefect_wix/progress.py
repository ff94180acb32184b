"""How far a load is: an artifact in the UI, and now and then a line in the log."""

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

from prefect_wix.loading import Outcome
from prefect_wix.partitions import AskState
from prefect_wix.result import Log

__all__ = ["LoadProgress"]

ARTIFACT_KEY = "wix-sessions-load-progress"
_ARTIFACT_EVERY_SECONDS = 2.0
_LOG_EVERY_SECONDS = 10.0


class LoadProgress:
    """Tells how many of a load's partitions are through. Use it as ``async with``.

    Args:
        total: how many partitions there are.
        log: the run's logger.
    """

    def __init__(self, total: int, log: Log) -> None:
        self._total = total
        self._log = log
        self._done = self._failed = self._sessions = 0
        self._artifact_id: UUID | None = None
        self._shown_at = self._logged_at = time.monotonic()
        self._showing = asyncio.Lock()

    async def __aenter__(self) -> Self:
        with self._harmless():
            self._artifact_id = await acreate_progress_artifact(
                progress=0.0, key=ARTIFACT_KEY, description=self._sentence()
            )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._show()

    async def tell(self, outcome: Outcome) -> None:
        """Count one partition."""
        self._done += 1
        self._failed += outcome.state is AskState.FAILED
        self._sessions += outcome.sessions
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
                    progress=100.0 * self._done / max(self._total, 1),
                    description=self._sentence(),
                )

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        """A progress bar that can't be drawn is no reason to stop a load."""
        try:
            yield
        except (httpx.HTTPError, PrefectException) as error:
            self._log.warning("The progress artifact can't be written: %s", error)
            self._artifact_id = None

    def _sentence(self) -> str:
        failed = f", {self._failed} failed" if self._failed else ""
        return f"{self._done} of {self._total} partitions, {self._sessions} sessions{failed}"
