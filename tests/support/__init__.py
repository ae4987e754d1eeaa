"""What the tests are made of, beside what `txsocksx_ext.testing` has for everyone."""
