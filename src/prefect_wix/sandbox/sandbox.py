"""The handle of a running sandbox: its address, credentials, request log, jobs and sessions.

The caller uses it from its own thread while the server runs on another thread (see `server`).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefect_wix.sandbox.faults import Faults

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prefect_wix.sandbox.faults import Fault
    from prefect_wix.sandbox.service import Job, Service


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One received request and its response."""

    endpoint: str
    """The short name of the endpoint, such as `list` or `result`; see `Fault.on`."""
    method: str
    at: float
    """The time of arrival in seconds of `time.monotonic()`."""
    status: int | None
    """The HTTP status, or None if the connection was closed without a response."""
    body: Any
    """The JSON body, or None."""
    params: Mapping[str, str]
    job_id: str | None
    """The job that a `list` request created or that a `result` request names."""


class Sandbox:
    """A running sandbox. Everything may be read, and `faults` replaced, at any time."""

    def __init__(self, url: str, service: Service, seed: int) -> None:
        credentials = service.access.credentials
        self.url = url
        self.api_key = credentials.api_key
        """A key with all permissions, at site level and at account level."""
        self.account_id = credentials.account_id
        """The account that owns the sites."""
        self.site_id = credentials.site_id
        """The main site. The app is installed on it."""
        self.app_id = credentials.app_id
        """The app's `client_id`."""
        self.app_secret = credentials.app_secret
        """The app's `client_secret`."""
        self.instance_id = credentials.instance_id
        """The app's installation on the main site."""
        self.worlds = service.worlds
        """The sessions of every site of the account, by site ID."""
        self.world = service.worlds[self.site_id]
        """The sessions of the main site."""
        self.site_names = service.site_names
        """The display names of sites by site ID. The default is "Shop" and a number."""
        self.recorded = service.recorded
        """The IDs that were marked as recorded."""
        self.deleted = service.deleted
        """The IDs whose recordings were marked as deleted."""
        self._service = service
        self._seed = seed
        self._requests: list[RequestRecord] = []

    @property
    def faults(self) -> tuple[Fault, ...]:
        """The active faults. An assignment restarts the counters of every fault."""
        return self._service.faults.faults

    @faults.setter
    def faults(self, faults: Iterable[Fault]) -> None:
        self._service.faults = Faults(faults, self._seed)

    @property
    def requests(self) -> list[RequestRecord]:
        """All requests to endpoints since the start or the last reset, in order of arrival."""
        return sorted(self._requests, key=lambda record: record.at)

    @property
    def submits(self) -> list[Any]:
        """The bodies of all List Sessions requests, whatever the response."""
        return [record.body for record in self.requests if record.endpoint == "list"]

    @property
    def jobs(self) -> Mapping[str, Job]:
        """All jobs by ID, in order of submission."""
        return dict(self._service.jobs)

    @property
    def tokens_minted(self) -> int:
        """The number of access tokens issued since the start or the last reset."""
        return self._service.access.tokens_minted

    def count(self, endpoint: str | None = None) -> int:
        """Return the number of requests, to one endpoint or to all."""
        return sum(endpoint in {None, record.endpoint} for record in self._requests)

    def answer(self, body: Mapping[str, Any], *, site_id: str | None = None) -> set[str]:
        """Return the IDs that a List Sessions body matches now, without faults."""
        site_id = site_id or self.site_id
        ids = self.worlds[site_id].ids
        return {ids[index] for index in self._service.find_site_sessions(site_id, body)}

    def reset_counts(self) -> None:
        """Clear the request log and the number of tokens. Jobs, marks and tokens remain."""
        self._requests.clear()
        self._service.access.tokens_minted = 0

    def add_record(self, record: RequestRecord) -> None:
        """Add a request to the request log."""
        self._requests.append(record)

    def state(self) -> dict[str, Any]:
        """Return the request log, jobs and faults as JSON for another process."""
        jobs = [
            {"id": job.id, "siteId": job.site_id, "body": job.body, "total": len(job.sessions)}
            for job in self.jobs.values()
        ]
        return {
            "counts": Counter(record.endpoint for record in self._requests),
            "submits": self.submits,
            "jobs": jobs,
            "recorded": len(self.recorded),
            "deleted": len(self.deleted),
            "tokensMinted": self.tokens_minted,
            "faults": [repr(fault) for fault in self.faults],
        }
