"""Pure decisions, against small reference models."""
