"""Progress of a load or a marking: an artifact in the UI, and a log line every 10 seconds."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self
from uuid import UUID

import httpx
from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact
from prefect.exceptions import PrefectException

from prefect_wix.client.client import Log

LOAD_KEY = "wix-sessions-load-progress"
MARK_KEY = "wix-session-marks-progress"
_ARTIFACT_EVERY_SECONDS = 2.0
_LOG_EVERY_SECONDS = 10.0


class Progress:
    """Reports the progress of a run. Use it as ``async with``.

    Args:
        key: the artifact key.
        log: the run's logger.
        describe: the completed share, 0 to 1, and the progress as text.
    """

    def __init__(self, key: str, log: Log, describe: Callable[[], tuple[float, str]]) -> None:
        self._key = key
        self._log = log
        self._describe = describe
        self._artifact_id: UUID | None = None
        self._written_at = self._logged_at = time.monotonic()
        self._writing = asyncio.Lock()

    async def __aenter__(self) -> Self:
        with self._ignore_errors():
            self._artifact_id = await acreate_progress_artifact(
                progress=0.0, key=self._key, description=self._describe()[1]
            )
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        await self._write()

    async def report(self) -> None:
        """Write the log line and the artifact if they are due."""
        now = time.monotonic()
        if now - self._logged_at >= _LOG_EVERY_SECONDS:
            self._logged_at = now
            self._log.info("%s", self._describe()[1])
        if now - self._written_at >= _ARTIFACT_EVERY_SECONDS and not self._writing.locked():
            self._written_at = now
            await self._write()

    async def _write(self) -> None:
        if self._artifact_id is None:
            return
        async with self._writing:
            share, sentence = self._describe()
            with self._ignore_errors():
                await aupdate_progress_artifact(
                    self._artifact_id, progress=100.0 * share, description=sentence
                )

    @contextmanager
    def _ignore_errors(self) -> Iterator[None]:
        """A failed artifact update must not fail the run."""
        try:
            yield
        except (httpx.HTTPError, PrefectException) as error:
            self._log.warning("Progress artifact not written, updates stopped: %s", error)
            self._artifact_id = None
