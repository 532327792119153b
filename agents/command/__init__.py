"""The `command` proposer: any coding agent that runs headless, boxed, in a workspace of its own."""
