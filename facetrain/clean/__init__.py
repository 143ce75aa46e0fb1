"""Label cleaning after ADC: which images of an identity to keep."""
