"""Clean a noisily labelled face-image set and train a face-recognition model on it."""

__version__ = "0.2.0"
