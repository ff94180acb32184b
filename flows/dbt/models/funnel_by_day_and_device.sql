-- Sessions that reached each funnel step, by local day and device.
{%- set steps = [
    "VIEWED_PRODUCT", "ADDED_TO_CART", "REACHED_CHECKOUT", "SESSIONS_CONVERTED"
] %}

select
    site_id,
    session_date,
    coalesce(device, 'unknown') as device,
    count(*) as sessions,
    {%- for step in steps %}
    count(*) filter (where deepest_step in ('{{ steps[loop.index0:] | join("', '") }}'))
        as {{ step | lower }},
    {%- endfor %}
    count(*) filter (where deepest_step = 'SESSIONS_CONVERTED') * 1.0 / count(*)
        as conversion_rate
from {{ source("wix", "wix_sessions") }}
group by site_id, session_date, coalesce(device, 'unknown')
