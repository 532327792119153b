"""The judge: sandbox, metrics, gates, statistics, labels. Never imports candidate code."""
