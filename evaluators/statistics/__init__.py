"""What measurements mean: labels, noise, promotion, pruning, and their recomputation."""
