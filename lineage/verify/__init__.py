"""Re-hashing a store and checking its rows."""
