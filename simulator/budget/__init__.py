"""From money and time to a model: size, tokens, shape and plan at simulated utilisation."""
