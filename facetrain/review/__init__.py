"""Going through the cleaner's decisions in a browser; every decision becomes a label overlay."""
