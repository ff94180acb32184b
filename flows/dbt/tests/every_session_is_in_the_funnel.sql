-- Fails for days whose sessions are not all in the model.
select site_id, session_date, sessions, in_funnel
from (
    select site_id, session_date, count(*) as sessions
    from {{ source("wix", "wix_sessions") }}
    group by site_id, session_date
) as landed
full join (
    select site_id, session_date, sum(sessions) as in_funnel
    from {{ ref("funnel_by_day_and_device") }}
    group by site_id, session_date
) as modelled using (site_id, session_date)
where sessions is distinct from in_funnel
