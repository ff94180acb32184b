"""The tables that profiles of sessions are kept in. What is written there is in `profiles`."""

from __future__ import annotations

__all__ = ["PROFILE_COLUMNS", "PROFILE_KEYS", "PROFILE_TYPES", "RECONCILIATION"]

PROFILE_COLUMNS = {
    # One row per site, local day and session.
    "wix_sessions": (
        *("site_id", "session_date", "timezone", "session_id", "device", "deepest_step"),
        *("dropped_before", "kind", "continued", "first_seen_at", "last_seen_at"),
    ),
    # The navigation flows that each session followed.
    "wix_session_flows": ("site_id", "session_date", "session_id", "flow"),
    # What each day's rows were computed from.
    "wix_session_profiles": (
        *("site_id", "session_date", "timezone", "fingerprint", "segments", "sessions"),
        "computed_at",
    ),
    "wix_completeness": (
        *("site_id", "session_date", "timezone", "relation", "says", "state", "sessions"),
        *("exceptions", "examples", "missing", "computed_at"),
    ),
    # Wix's own count of sessions, which it keeps for 62 days only.
    "wix_session_counts": ("site_id", "session_date", "timezone", "counted", "counted_at"),
}
PROFILE_KEYS = {
    "wix_sessions": ("site_id", "session_date", "session_id"),
    "wix_session_flows": ("site_id", "session_date", "flow", "session_id"),
    "wix_session_profiles": ("site_id", "session_date"),
    "wix_completeness": ("site_id", "session_date", "relation"),
    "wix_session_counts": ("site_id", "session_date", "timezone"),
}
PROFILE_TYPES = {
    "continued": "BOOLEAN",
    **dict.fromkeys(("segments", "exceptions", "counted"), "BIGINT"),
    **dict.fromkeys(("first_seen_at", "last_seen_at", "computed_at", "counted_at"), "TIMESTAMPTZ"),
}
RECONCILIATION = (
    "SELECT site_id, session_date, timezone, landed, counted, ratio, ratio - avg(ratio) OVER ("
    "PARTITION BY site_id, timezone ORDER BY session_date "
    "ROWS BETWEEN 7 PRECEDING AND 1 PRECEDING) AS trend, counted_at FROM ("
    "SELECT c.site_id, c.session_date, c.timezone, p.sessions AS landed, c.counted, "
    "p.sessions * 1.0 / NULLIF(c.counted, 0) AS ratio, c.counted_at FROM {counts} c "
    "JOIN {profiles} p ON p.site_id = c.site_id AND p.session_date = c.session_date "
    "AND p.timezone = c.timezone) reconciled"
)
"""The view ``wix_reconciliation``: profiled sessions beside Wix's count, by day.

``trend`` is the ratio less the mean ratio of the seven counted days before.
"""
