"""The process mesh, collectives and sharding; the only room that imports torch.distributed."""
