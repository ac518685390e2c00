"""All weights."""
