//! Which upstream is asked next (pure).

mod pool;

pub use pool::{Candidate, Endpoint, EndpointId, Health, Outcome, Plan, Pool, State};
