"""A trial: its Prefect flow, the six stages, and the row that it leaves."""
