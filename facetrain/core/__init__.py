"""Configuration, artifacts, random numbers, logging: what every other room stands on."""
