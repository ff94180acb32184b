"""The block documents and rate limits that the flows need on the Prefect server, as code."""
