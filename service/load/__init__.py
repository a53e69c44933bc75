"""Load on a server, and the numbers that it answers with: what `penstock bench` is made of."""
