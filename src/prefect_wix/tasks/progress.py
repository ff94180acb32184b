"""Progress of a load or a marking: an artifact in the UI and a log line, every 10 seconds.

Work that takes less time has no progress artifact.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Self
from uuid import UUID

import httpx
from prefect.artifacts import acreate_progress_artifact, aupdate_progress_artifact
from prefect.exceptions import PrefectException

from prefect_wix.client.client import Log

LOAD_KEY = "wix-sessions-load-progress"
MARK_KEY = "wix-session-marks-progress"
_EVERY_SECONDS = 10.0


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
        self._is_rejected = False
        self._begun_at = time.monotonic()
        self._ended = asyncio.Event()

    async def __aenter__(self) -> Self:
        self._reporting = asyncio.create_task(self._report())
        return self

    async def __aexit__(self, *exc_info: object) -> None:
        # Not cancelled: the server could apply an update in flight after the last one.
        self._ended.set()
        await self._reporting

    async def _report(self) -> None:
        while not await self._ends_within(_EVERY_SECONDS):
            self._log.info("%s", self._sentence())
            await self._write()
        if self._artifact_id is not None:
            await self._write()

    async def _ends_within(self, seconds: float) -> bool:
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ended.wait(), seconds)
        return self._ended.is_set()

    def _sentence(self) -> str:
        share, sentence = self._describe()
        if not 0 < share < 1:
            return sentence
        seconds = round((time.monotonic() - self._begun_at) * (1 / share - 1))
        return f"{sentence}, ends in about {timedelta(seconds=seconds)}"

    async def _write(self) -> None:
        if self._is_rejected:
            return
        progress, sentence = 100.0 * self._describe()[0], self._sentence()
        try:
            if self._artifact_id is None:
                self._artifact_id = await acreate_progress_artifact(
                    progress, self._key, description=sentence
                )
            else:
                await aupdate_progress_artifact(
                    self._artifact_id, progress=progress, description=sentence
                )
        except (httpx.HTTPError, PrefectException) as error:
            # A failed update must not fail the run. Without the text of the error: it has the URL,
            # which may have a password.
            kind = type(error).__name__
            self._log.warning("Progress artifact not written, updates stopped (%s).", kind)
            self._is_rejected = True
