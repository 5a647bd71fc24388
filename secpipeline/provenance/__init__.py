"""Evidence: who did what to which bytes, signed, logged, and checked again."""
