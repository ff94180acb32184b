-- Fails for rows where a step has more sessions than the step before it.
select *
from {{ ref("funnel_by_day_and_device") }}
where
    sessions < viewed_product
    or viewed_product < added_to_cart
    or added_to_cart < reached_checkout
    or reached_checkout < sessions_converted
