"""Everything on one machine with nothing installed. For `mailroom demo` and the tests."""
