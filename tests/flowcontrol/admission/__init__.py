"""Admission, against small reference models and in small scenarios."""
