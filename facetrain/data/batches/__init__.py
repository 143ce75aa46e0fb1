"""What a step gets: which rows (sampler), decoded (loader), augmented on the device."""
