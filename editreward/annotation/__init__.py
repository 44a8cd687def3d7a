"""Annotation of edit groups by people: the app, its database, and the quality control of what it collects."""
