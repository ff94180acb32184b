-- The log of sessions that were added to a partition (site, local day, segment) or removed from it.
{{ config(materialized="incremental") }}

select
    changes.site_id,
    changes.session_date,
    changes.segment,
    changes.session_id,
    changes.change,
    changes.changed_at,
    changes.version
from {{ source("wix", "wix_session_changes") }} as changes
{%- if is_incremental() %}
left join (
    -- Not a time: loads commit in another order than they read the clock.
    select site_id, session_date, segment, max(version) as version
    from {{ this }}
    group by site_id, session_date, segment
) as known
    on changes.site_id = known.site_id
    and changes.session_date = known.session_date
    and changes.segment = known.segment
where changes.version > coalesce(known.version, 0)
{%- endif %}
