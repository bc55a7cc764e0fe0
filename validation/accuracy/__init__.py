"""How accurate the simulator is: figures that are committed, checked and shown."""
