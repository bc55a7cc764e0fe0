"""The same job on several accelerators, and how sure their ranking is."""
