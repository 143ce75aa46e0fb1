"""Stage `train`: data set -> backbone."""
