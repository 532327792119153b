"""What belongs to this machine: its home, slots, sandbox level, Prefect server, webhook."""
