"""The tables of the papers' supplements."""
