//! What the system allows this process.

use nix::sys::resource::{Resource, getrlimit, rlim_t, setrlimit};

/// Raises the number of descriptors this process may hold as far as it is allowed to: every
/// connection takes one, and shells and service managers start programs with 1024.
pub fn raise_descriptors() {
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
    {
        // Refused, the connections are capped by what there is.
        let _ = setrlimit(Resource::RLIMIT_NOFILE, hard.min(ENOUGH), hard);
    }
}

/// Connections of all listeners, upstreams, and some to spare.
const ENOUGH: rlim_t = 16_384;
