//! Certificate chains accepted under rule R alone, kept until they can be judged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use rustls::pki_types::CertificateDer;

use crate::cache::ChainId;
use crate::tls::CertError;
use crate::upstream::EndpointId;

/// Ids given out. Answers outlive a forwarder that a reload replaces: no id may come twice.
static ISSUED: AtomicU64 = AtomicU64::new(0);

/// The chains seen under rule R. They outlive their sessions, as their answers do.
#[derive(Debug, Default)]
pub(super) struct Chains {
    known: BTreeMap<ChainId, Known>,
}

#[derive(Debug, Eq, PartialEq)]
struct Known {
    endpoint: EndpointId,
    chain: Vec<CertificateDer<'static>>,
}

impl Chains {
    /// The id of `chain` as presented by `endpoint`; the same for the same
    /// until it is settled. The oldest chain makes room when there are too
    /// many: its answers can then never pass.
    pub(super) fn remember(
        &mut self,
        endpoint: EndpointId,
        chain: &[CertificateDer<'static>],
    ) -> ChainId {
        let same = |known: &Known| known.endpoint == endpoint && known.chain == chain;
        if let Some((id, _)) = self.known.iter().find(|(_, known)| same(known)) {
            return *id;
        }
        if self.known.len() >= MOST {
            self.known.pop_first();
        }
        let id = ChainId(ISSUED.fetch_add(1, Ordering::Relaxed) + 1);
        self.known.insert(id, Known { endpoint, chain: chain.to_vec() });
        id
    }

    /// Judges every chain and forgets it. Returns those that passed, and whose failed and why.
    pub(super) fn settle(
        &mut self,
        mut judge: impl FnMut(EndpointId, &[CertificateDer<'static>]) -> Result<(), CertError>,
    ) -> (BTreeSet<ChainId>, Vec<(EndpointId, CertError)>) {
        let (mut passed, mut failed) = (BTreeSet::new(), Vec::new());
        for (id, Known { endpoint, chain }) in std::mem::take(&mut self.known) {
            match judge(endpoint, &chain) {
                Ok(()) => {
                    passed.insert(id);
                }
                Err(error) => failed.push((endpoint, error)),
            }
        }
        (passed, failed)
    }
}

/// Chains kept at most: far more than upstreams have addresses.
const MOST: usize = 256;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_chains_stays_bounded_and_no_id_is_used_twice() {
        let mut chains = Chains::default();
        let chain = |number: u32| vec![CertificateDer::from(number.to_be_bytes().to_vec())];
        let ids: BTreeSet<_> =
            (0..1000).map(|number| chains.remember(EndpointId(0), &chain(number))).collect();

        assert_eq!(chains.remember(EndpointId(0), &chain(999)), *ids.last().unwrap());
        let (passed, _) = chains.settle(|_, _| Ok(()));

        assert_eq!((ids.len(), passed.len()), (1000, MOST));
        assert!(!ids.contains(&chains.remember(EndpointId(0), &chain(0))));
    }
}
