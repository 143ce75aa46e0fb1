"""Graphs over embeddings: nearest neighbours, classes, affinity, and the graph network's inputs."""
