"""Rules, brakes and the policy engine: what is done about breaches, and what is not."""
