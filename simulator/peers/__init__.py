"""Training among peers that only slow links join: volunteers, sites, spot machines."""
