"""One query to a verified set of session IDs: submit, poll, read all pages, verify, write."""

from prefect_wix.jobs.listing import Listing, ListingSummary, submit_job
from prefect_wix.jobs.split_window import complete_listing

__all__ = ["Listing", "ListingSummary", "complete_listing", "submit_job"]
