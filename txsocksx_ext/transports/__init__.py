"""
Managed pluggable transports: run a transport's program as a child process (Tor's pt-spec).
"""
