"""What belongs to this machine: folders, slots, sandbox level, Prefect server, webhook."""
