"""Admission in virtual time: strategies side by side on a model of an engine."""
