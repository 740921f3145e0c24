"""Judging models: errors, symmetries, smoothness, conservation, and the report of it all."""
