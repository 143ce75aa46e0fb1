"""Stage `export`: a trained backbone in other people's formats."""
