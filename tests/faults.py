"""Makers of random faults of the sandbox, for tests that combine them."""

from __future__ import annotations

from prefect_wix.sandbox import Fault

TRUTHFUL = [
    lambda draw: Fault(
        "rate_limited", rate=draw.choice([0.1, 0.3]), retry_after=draw.choice([None, 1, "date"])
    ),
    lambda draw: Fault(
        "server_error", rate=draw.choice([0.1, 0.4]), status=draw.choice([500, 502, 503, 504])
    ),
    lambda draw: Fault("html", rate=0.2, status=draw.choice([200, 502])),
    lambda draw: Fault("expired_token", rate=0.02),
    lambda draw: Fault("forbidden", rate=draw.choice([0.05, 0.2])),
    lambda draw: Fault("dropped_before", rate=0.2),
    lambda draw: Fault("dropped_after", rate=0.2),
    lambda draw: Fault("truncated", rate=0.2),
    lambda draw: Fault("cut_body", rate=0.2),
    lambda draw: Fault("limit_violation", threshold=draw.choice([10, 30, 49])),
    lambda draw: Fault("unknown_job", polls=draw.choice([1, 3, 5]), times=draw.choice([1, None])),
    lambda draw: Fault("slow", seconds=0.002, rate=0.1),
    lambda draw: Fault("job_error", rate=0.5),
    lambda draw: Fault("job_never_finishes", rate=0.2),
    lambda draw: Fault("unknown_status", polls=draw.choice([1, 3, None]), rate=0.5),
    # Not both at once: pages of 1 ID in a random order take thousands of requests.
    lambda draw: draw.choice(
        [
            Fault("small_pages", size=draw.choice([1, 9, 33]), rate=draw.choice([0.3, 1.0])),
            Fault("unstable_order", ties=draw.choice([2, 10, 70])),
        ]
    ),
    # Not both at once: the sandbox would return IDs that do not exist.
    lambda draw: Fault(draw.choice(["repeats", "lossy_repeats"]), n=draw.choice([1, 5, 40])),
    lambda draw: Fault("clamped_offset", largest=draw.choice([0, 60, 100])),
    lambda draw: Fault("large_pages", rate=0.2),
    lambda draw: Fault("bad_ids", rate=0.05, value=draw.choice(["null", "number", "empty"])),
    lambda draw: Fault("missing_fields", field=draw.choice(["jobStatus", "result"]), rate=0.2),
]
"""Faults under which every ID and total that the server returns is true."""

HIDDEN_TOTALS = [
    lambda draw: Fault("null_total", rate=draw.choice([0.3, 1.0])),
    lambda draw: Fault("missing_fields", field="total", rate=draw.choice([0.3, 1.0])),
]
HIDDEN_PAGES = [
    lambda draw: Fault("empty_page", rate=draw.choice([0.1, 0.5])),
    lambda draw: Fault("missing_fields", field="sessionIds", rate=0.2),
]
