"""Comparing arms, and forking a campaign from a trial."""
