"""Finding, loading, preparing and creating environments."""
