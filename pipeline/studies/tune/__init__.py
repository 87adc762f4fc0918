"""From clips to a profile: the cheapest setting whose quality holds on other frames."""
