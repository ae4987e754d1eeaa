"""
The client: factory and protocol, endpoints, endpoint strings, look-ups and agents.
"""
