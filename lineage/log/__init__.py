"""The event log: appended events, compacted parts, packs, anchors, and their reader."""
