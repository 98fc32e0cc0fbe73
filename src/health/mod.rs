//! Named conditions of the appliance, in words for a person (pure).
