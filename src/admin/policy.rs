//! Who may change things.

use std::ffi::CString;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use nix::unistd::{Gid, Group, Uid, User, getgrouplist};

use crate::admin::DEADLINE;

/// The user at the other end of the socket, as the kernel knows it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Peer {
    /// Its user id.
    pub uid: u32,
    /// Its primary group id.
    pub gid: u32,
}

/// Who may change things, and how long anybody may take.
#[derive(Clone)]
pub struct Policy {
    may_change: Arc<dyn Fn(Peer) -> bool + Send + Sync>,
    pub(super) deadline: Duration,
}

impl Policy {
    /// Root, the user `service` and the members of `group` may change things.
    #[must_use]
    pub fn new(service: u32, group: Option<String>) -> Self {
        Self::decided_by(move |peer| {
            peer.uid == 0
                || peer.uid == service
                || group.as_deref().is_some_and(|group| is_member(peer, group))
        })
    }

    /// Those may change things for whom `may_change` holds. It may block.
    #[must_use]
    pub fn decided_by(may_change: impl Fn(Peer) -> bool + Send + Sync + 'static) -> Self {
        Self { may_change: Arc::new(may_change), deadline: DEADLINE }
    }

    /// Gives clients `deadline` instead of [`DEADLINE`].
    #[must_use]
    pub fn within(self, deadline: Duration) -> Self {
        Self { deadline, ..self }
    }

    /// Whether `peer` may change things. Looks users and groups up, and so may block.
    #[must_use]
    pub fn may_change(&self, peer: Peer) -> bool {
        (self.may_change)(peer)
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Policy").field("deadline", &self.deadline).finish_non_exhaustive()
    }
}

/// Whether a user belongs to a group, be it the primary one of the process or any of the user's.
fn is_member(peer: Peer, group: &str) -> bool {
    let Ok(Some(group)) = Group::from_name(group) else { return false };
    if Gid::from_raw(peer.gid) == group.gid {
        return true;
    }
    let Ok(Some(user)) = User::from_uid(Uid::from_raw(peer.uid)) else { return false };
    CString::new(user.name)
        .ok()
        .and_then(|name| getgrouplist(&name, user.gid).ok())
        .is_some_and(|groups| groups.contains(&group.gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOBODY: Peer = Peer { uid: 65_534, gid: 65_534 };

    #[test]
    fn root_and_the_service_may_change_things_and_others_may_not() {
        let policy = Policy::new(990, None);

        assert!(policy.may_change(Peer { uid: 0, gid: 0 }));
        assert!(policy.may_change(Peer { uid: 990, gid: 990 }));
        assert!(!policy.may_change(NOBODY));
    }

    #[test]
    fn members_of_the_group_may_change_things() {
        let root = Group::from_gid(Gid::from_raw(0)).unwrap().unwrap().name;
        let policy = Policy::new(990, Some(root));

        assert!(policy.may_change(Peer { uid: 1234, gid: 0 }));
        assert!(!policy.may_change(NOBODY));
        assert!(!Policy::new(990, Some("no-such-group".to_owned())).may_change(NOBODY));
    }
}
