"""The live view of a campaign in a terminal."""
