//! The appliance as one pure value; what happens in one leaf reaches another only here.

pub mod ports;
