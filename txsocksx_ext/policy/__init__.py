"""
Where a request may go, and by which route: rules, address protection and name resolution.
"""
