"""RecordIO shards, data sets, label overlays, loading, augmentation, synthetic faces."""
