"""The embedded proposer: techniques as data, numbers from past outcomes, choices from lineage. No key, no network."""
