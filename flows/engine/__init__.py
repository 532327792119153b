"""One campaign opened on this machine: configuration, settings, proposers, budget."""
