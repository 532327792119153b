"""A stand-in without content."""
