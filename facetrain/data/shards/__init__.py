"""RecordIO shards in InsightFace's layouts, read at random and written whole."""
