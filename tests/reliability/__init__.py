"""A seeded campaign of damage, signals, limits and hostile input against every command."""
