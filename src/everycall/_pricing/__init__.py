"""What a call costs, for the server: the price list, a user's own prices, and the arithmetic."""
