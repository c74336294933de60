"""Loaders of published data sets: one file a format, each returns a list of tasks."""
