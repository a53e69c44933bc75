"""How many streams may be in flight: strategies behind one contract, and the controller that guards them."""
