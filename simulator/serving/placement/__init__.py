"""Several models on one fleet: the joint cheapest placement that keeps every model's promises."""
