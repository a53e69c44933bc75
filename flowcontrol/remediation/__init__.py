"""What is done about breaches: rules from signals to actions, and a policy that brakes and undoes them."""
