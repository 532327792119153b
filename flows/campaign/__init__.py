"""A campaign: lanes, confirmations, a person's control, and the two ways to run it."""
