//! Checking tokens that others kept, with nothing but the roots of their authorities.

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;

use super::certificate::{Trust, to_be_signed};
use super::der::{OID, SEQUENCE, SET, context};
use super::examine;
use crate::audit::anchor::AnchorError;
use crate::audit::bundle::Stamp;

const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];

/// The roots of timestamp authorities, to check tokens offline: those of a bundle, say, by whoever
/// was given it. As much is checked of a token as [`TimestampAnchor::verify`](super::TimestampAnchor::verify)
/// does.
///
/// ```no_run
/// # fn example(trust: portcullis::audit::bundle::Trust) -> Result<(), Box<dyn std::error::Error>> {
/// use portcullis::adapters::anchors::TimestampRoots;
/// use portcullis::audit::bundle::Bundle;
///
/// let roots = TimestampRoots::from_pem(std::fs::read("/etc/ssl/tsa-roots.pem")?)?;
/// let trust = trust.timestamps(move |note, token| roots.verify(note, token));
/// let report = Bundle::open("acme.bundle")?.verify(&trust)?;
/// println!("{:?}", report.stamped());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
pub struct TimestampRoots {
    trust: Trust,
}

impl TimestampRoots {
    /// The certificates in a text of PEM blocks, one after the other.
    ///
    /// # Errors
    ///
    /// [`AnchorError::Settings`] if there is none in it, or one is no certificate.
    pub fn from_pem(text: impl AsRef<[u8]>) -> Result<Self, AnchorError> {
        let bad = AnchorError::Settings("the roots are no certificates in PEM");
        let mut trust = Trust::default();
        for certificate in CertificateDer::pem_slice_iter(text.as_ref()) {
            let certificate = certificate.map_err(|_| bad.clone())?;
            if !trust.add_root(certificate) {
                return Err(bad);
            }
        }
        if trust.is_empty() {
            return Err(bad);
        }
        Ok(Self { trust })
    }

    /// Checks that `token` stamps `note`, by an authority whose certificate leads to one of the roots.
    ///
    /// # Errors
    ///
    /// [`AnchorError::Invalid`] says what is wrong.
    pub fn verify(&self, note: &str, token: &[u8]) -> Result<Stamp, AnchorError> {
        let (info, signer) = examine(&self.trust, &[], note, token)?;
        let authority = common_name(signer).unwrap_or("an authority without a name");
        Ok(Stamp::new(info.at, authority))
    }
}

/// The name of whom a certificate is for, if it has one that can be shown.
fn common_name(certificate: &[u8]) -> Option<&str> {
    let mut parts = to_be_signed(certificate).ok()?;
    // Version, serial number, signature algorithm, issuer, validity.
    parts.optional(context(0)).ok()?;
    for _ in 0..4 {
        parts.any().ok()?;
    }
    let mut subject = parts.within(SEQUENCE).ok()?;
    while !subject.is_empty() {
        let mut attribute = subject.within(SET).ok()?.within(SEQUENCE).ok()?;
        if attribute.take(OID).ok()? == COMMON_NAME {
            let name = std::str::from_utf8(attribute.any().ok()?.value).ok()?;
            return Some(name).filter(|name| !name.is_empty() && !name.contains(char::is_control));
        }
    }
    None
}
