"""One executable stub for every stress case of the design: a tiny method of that shape, and what is peculiar to it."""
