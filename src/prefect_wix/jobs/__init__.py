"""One query to a verified set of session IDs: submit, poll, read all pages, verify, write."""

from prefect_wix.jobs.listing import Listing, ListingSummary, submit_job
from prefect_wix.jobs.split_window import drained

__all__ = ["Listing", "ListingSummary", "drained", "submit_job"]
