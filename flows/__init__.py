"""The deployable flows, one file per flow."""
