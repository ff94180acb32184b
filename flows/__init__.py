"""The deployable pipelines, one entry point per file."""
