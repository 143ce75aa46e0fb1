"""`pack`: images to shards."""
