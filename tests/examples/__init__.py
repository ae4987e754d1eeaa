"""Small programs outside the package, and the hand-made peers that tests put before it."""
