//! TLS: how upstreams are verified, and what we serve ourselves.
