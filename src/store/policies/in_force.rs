//! One name for all policies that are in force in a process.

use sha2::{Digest, Sha256};

use crate::canon::Fields;

/// One policy in force: whose it is, where it comes from, and the hash of its text.
pub(crate) type InForce<'p> = (&'p str, &'static str, &'p [u8]);

/// Names everything that is in force, in whatever order it is given: the same in every process that has
/// the same in force. From the hashes of the policies, which the trail has too.
pub(crate) fn hash_in_force(label: &str, mut all: Vec<InForce<'_>>) -> [u8; 32] {
    all.sort_unstable();
    let mut hash = Sha256::new();
    let mut fields = Fields::labelled("");
    for (name, origin, policy) in all {
        fields.restart(label);
        fields
            .present(name.as_bytes())
            .present(origin.as_bytes())
            .present(policy);
        hash.update(fields.as_bytes());
    }
    hash.finalize().into()
}
