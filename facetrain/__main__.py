"""`python -m facetrain` is the `facetrain` command, for torchrun."""

from facetrain.cli import main

main()
