"""Scripts that build the embedded example model; not part of the wheel."""
