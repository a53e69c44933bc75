"""The live terminal view of `penstock top`: pure, from Status messages to what rich shows."""
