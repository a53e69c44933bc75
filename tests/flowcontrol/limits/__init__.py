"""The limit on streams in flight: its strategies and the controller that guards them."""
