"""What was recorded, for people: from rows to typed documents and screens. Pure, as the core is."""
