//! Which upstream is asked next (pure).
