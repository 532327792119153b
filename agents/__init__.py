"""Proposers: lineage rows in, an edit out. No store, no engine."""
