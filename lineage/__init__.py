"""The shared words (records, spec, errors) and, above them, the durable record of every trial."""
