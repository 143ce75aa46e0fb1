"""Variation labels: the pose, occluder, blur and group that each image shows."""
