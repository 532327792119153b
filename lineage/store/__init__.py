"""Objects, results, blobs and the event log on a local folder or S3."""
