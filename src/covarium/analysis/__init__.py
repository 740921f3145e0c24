"""Judging models: errors over labelled frames, symmetries, smoothness, consistency, pictures and reports."""
