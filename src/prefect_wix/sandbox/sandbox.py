"""What a test holds in its hands: a running sandbox's address, secrets, record and truth.

It is reached from the caller's thread while the server answers on its own; how it is served is in
`server`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from prefect_wix.sandbox.faults import Faults

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from prefect_wix.sandbox.access import Identity
    from prefect_wix.sandbox.faults import Fault
    from prefect_wix.sandbox.service import Job, Wix
    from prefect_wix.sandbox.world import World


@dataclass(frozen=True, slots=True)
class RequestRecord:
    """One request that arrived, and how it was answered."""

    endpoint: str
    """Its short name, such as `list` or `result`; see `Fault.on`."""
    method: str
    at: float
    """When it arrived, in seconds of `time.monotonic()`."""
    status: int | None
    """None if the connection was closed without a reply."""
    body: Any
    """The JSON body, None without one."""
    params: Mapping[str, str]
    job_id: str | None
    """The job that a `list` started or that a `result` was asked about."""


class Sandbox:
    """A running sandbox. All of it may be read, and `faults` replaced, at any time."""

    def __init__(self, url: str, wix: Wix, seed: int) -> None:
        self.url = url
        self._wix = wix
        self._seed = seed
        self._requests: list[RequestRecord] = []

    @property
    def world(self) -> World:
        """The sessions of the main site."""
        return self._wix.worlds[self.site_id]

    @property
    def worlds(self) -> Mapping[str, World]:
        """The sessions of every site of the account, by site id."""
        return self._wix.worlds

    @property
    def api_key(self) -> str:
        """A key that may do everything, on site level and on account level."""
        return self._identity.api_key

    @property
    def account_id(self) -> str:
        """The account that owns the sites."""
        return self._identity.account_id

    @property
    def site_id(self) -> str:
        """The main site, which is also the one the app is installed on."""
        return self._identity.site_id

    @property
    def app_id(self) -> str:
        """The app's `client_id`."""
        return self._identity.app_id

    @property
    def app_secret(self) -> str:
        """The app's `client_secret`."""
        return self._identity.app_secret

    @property
    def instance_id(self) -> str:
        """The app's installation on the main site."""
        return self._identity.instance_id

    @property
    def faults(self) -> tuple[Fault, ...]:
        """What goes wrong. Assigning starts every fault afresh."""
        return self._wix.faults.faults

    @faults.setter
    def faults(self, faults: Iterable[Fault]) -> None:
        self._wix.faults = Faults(faults, self._seed)

    @property
    def requests(self) -> list[RequestRecord]:
        """Every request to an endpoint since the start or the last reset, in order of arrival."""
        return sorted(self._requests, key=lambda record: record.at)

    @property
    def submits(self) -> list[Any]:
        """The bodies of all List Sessions requests that arrived, whatever the answer."""
        return [record.body for record in self.requests if record.endpoint == "list"]

    @property
    def jobs(self) -> Mapping[str, Job]:
        """Every job that was started, by its id, in order."""
        return dict(self._wix.jobs)

    @property
    def recorded(self) -> set[str]:
        """Ids that were marked as recorded."""
        return self._wix.recorded

    @property
    def deleted(self) -> set[str]:
        """Ids whose recordings were marked as deleted."""
        return self._wix.deleted

    @property
    def tokens_minted(self) -> int:
        """How many access tokens were handed out since the start or the last reset."""
        return self._wix.access.minted

    def count(self, endpoint: str | None = None) -> int:
        """How many requests arrived, at one endpoint or at all."""
        return sum(endpoint in {None, record.endpoint} for record in self._requests)

    def answer(self, body: Mapping[str, Any], *, site_id: str | None = None) -> set[str]:
        """The true answer to a documented List Sessions body, as of now."""
        site_id = site_id or self.site_id
        ids = self._wix.worlds[site_id].ids
        return {ids[place] for place in self._wix.sessions(site_id, body)}

    def reset_counts(self) -> None:
        """Forget the requests and the number of tokens. Jobs, marks and tokens stay."""
        self._requests.clear()
        self._wix.access.minted = 0

    def note(self, record: RequestRecord) -> None:
        """Keep a request in the record."""
        self._requests.append(record)

    def state(self) -> dict[str, Any]:
        """The record as JSON, for a caller in another process."""
        counts: dict[str, int] = {}
        for record in self._requests:
            counts[record.endpoint] = counts.get(record.endpoint, 0) + 1
        jobs = [
            {"id": job.id, "siteId": job.site_id, "body": job.body, "total": len(job.sessions)}
            for job in self.jobs.values()
        ]
        return {
            "counts": counts,
            "submits": self.submits,
            "jobs": jobs,
            "recorded": len(self.recorded),
            "deleted": len(self.deleted),
            "tokensMinted": self.tokens_minted,
            "faults": [repr(fault) for fault in self.faults],
        }

    @property
    def _identity(self) -> Identity:
        return self._wix.access.identity
