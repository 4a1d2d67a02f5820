"""What a network is and does: its table, what ails it, its pictures."""
