"""Jobs on their way, from the claim to the settlement, and who wins each race."""
