"""Where `pack` finds images: a folder, a `.lst`, a tar."""
