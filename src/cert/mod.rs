//! The life of the appliance's own certificate (pure).
