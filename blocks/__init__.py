"""What must exist on a Prefect server before the flows run: block documents as code."""
