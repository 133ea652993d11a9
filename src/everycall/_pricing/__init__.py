"""What a call costs: the price list, custom prices, and the price book that joins them."""
