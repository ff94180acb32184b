-- Days that changed when they were loaded again: late sessions, and sessions that Wix removed.
SELECT site_id, session_date, segment, sessions, added, removed, landed_at
FROM wix_session_receipts
WHERE kept > 0 AND added + removed > 0
ORDER BY landed_at DESC
