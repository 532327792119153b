"""Runs one untrusted program at a time, measures it from outside and ends all of it."""
