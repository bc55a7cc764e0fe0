"""Is serving right? Measured services against predicted ones."""
