-- Sessions of each local day by device, newest day first.
SELECT site_id,
       session_date,
       sum(CASE WHEN segment = 'device_type=DESKTOP' THEN 1 ELSE 0 END) AS desktop,
       sum(CASE WHEN segment = 'device_type=MOBILE' THEN 1 ELSE 0 END) AS mobile,
       sum(CASE WHEN segment = 'device_type=TABLET' THEN 1 ELSE 0 END) AS tablet
FROM wix_landed_sessions
GROUP BY site_id, session_date
ORDER BY session_date DESC, site_id
