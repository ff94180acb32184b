-- Sessions on phones that filled a cart and did not reach the checkout. A load needs both segments:
-- device_type=MOBILE and conversion_funnel=+ADDED_TO_CART-REACHED_CHECKOUT.
SELECT cart.session_date, cart.session_id
FROM wix_landed_sessions cart
JOIN wix_landed_sessions phone
  ON phone.site_id = cart.site_id
 AND phone.session_date = cart.session_date
 AND phone.session_id = cart.session_id
WHERE cart.segment = 'conversion_funnel=+ADDED_TO_CART-REACHED_CHECKOUT'
  AND phone.segment = 'device_type=MOBILE'
ORDER BY cart.session_date, cart.session_id
