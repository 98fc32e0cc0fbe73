//! Local names and what they stand for (pure).
