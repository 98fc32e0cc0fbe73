//! Authenticated time from the Date header of HTTPS servers.
