"""How fast the server and the client are, beside others. ``make bench`` runs it; ``docs/speed.rst`` says how."""
