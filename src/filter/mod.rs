//! Which questions are answered with a policy instead of the truth (pure).
