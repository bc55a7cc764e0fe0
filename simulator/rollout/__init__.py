"""Steps of reinforcement learning: generate, score, train, send the weights back."""
