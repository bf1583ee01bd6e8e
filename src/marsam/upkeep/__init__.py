"""What an operator does to a store now and then: collect what nothing refers to, read everything back."""
