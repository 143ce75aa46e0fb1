"""Stage `embed`: data set + backbone -> embeddings."""
