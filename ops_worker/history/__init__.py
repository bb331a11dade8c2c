"""What was recorded, for people: rows in, typed documents and tables out. Pure, as the core is."""
