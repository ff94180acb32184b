-- Ranges of days without a receipt between two landed days. The next load fills those of the
-- 30 days before its own.
SELECT site_id, segment, last_before, first_after, first_after - last_before - 1 AS missing_days
FROM (
    SELECT site_id,
           segment,
           session_date AS last_before,
           lead(session_date) OVER (PARTITION BY site_id, segment ORDER BY session_date)
               AS first_after
    FROM wix_session_receipts
) AS days
WHERE first_after - last_before > 1
ORDER BY last_before DESC
