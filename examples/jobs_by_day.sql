-- Jobs of each day on which they were submitted: how many, how long at Wix, and why some failed.
SELECT CAST(intended_at AS DATE) AS day,
       state,
       count(*) AS jobs,
       round(CAST(avg(finished_seconds) AS NUMERIC), 1) AS mean_seconds,
       max(reason) AS one_reason
FROM wix_session_jobs
WHERE site_id <> 'prefect-wix-check'  -- the record that `prefect-wix check` writes
GROUP BY CAST(intended_at AS DATE), state
ORDER BY day DESC, state
