"""
Adapters for other packages, one module for each, which must be installed to import it.
"""
