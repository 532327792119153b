"""The only place that knows the order of the stages: flows, tasks, settings and the command line."""
