//! The firstlight daemon and its commands.

fn main() {}
