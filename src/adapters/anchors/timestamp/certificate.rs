//! Whether a certificate is that of a timestamp authority, and whom it is trusted for.

use std::time::Duration;

use rustls::pki_types::{CertificateDer, SignatureVerificationAlgorithm, TrustAnchor, UnixTime};
use webpki::{EndEntityCert, KeyUsage, anchor_from_trusted_cert, ring};

use super::der::{BOOLEAN, NotDer, OCTETS, OID, Reader, SEQUENCE, TIME, context};
use super::token::{Hash, Scheme, moment};
use crate::Timestamp;
use crate::audit::anchor::AnchorError;

/// id-kp-timeStamping, 1.3.6.1.5.5.7.3.8.
const TIME_STAMPING: &[u8] = &[0x2b, 0x06, 0x01, 0x05, 0x05, 0x07, 0x03, 0x08];
const EXTENDED_KEY_USAGE: &[u8] = &[0x55, 0x1d, 0x25];
const UTC_TIME: u8 = 0x17;

/// Signatures in certificates.
const CHAIN: &[&dyn SignatureVerificationAlgorithm] = &[
    ring::ECDSA_P256_SHA256,
    ring::ECDSA_P256_SHA384,
    ring::ECDSA_P384_SHA256,
    ring::ECDSA_P384_SHA384,
    ring::RSA_PKCS1_2048_8192_SHA256,
    ring::RSA_PKCS1_2048_8192_SHA384,
    ring::RSA_PKCS1_2048_8192_SHA512,
];

/// The certificates that are trusted: of authorities' issuers, and of authorities themselves.
#[derive(Clone, Debug, Default)]
pub(super) struct Trust {
    roots: Vec<CertificateDer<'static>>,
    pinned: Vec<CertificateDer<'static>>,
}

impl Trust {
    pub(super) fn add_root(&mut self, certificate: CertificateDer<'static>) -> bool {
        let good = anchor_from_trusted_cert(&certificate).is_ok();
        if good {
            self.roots.push(certificate);
        }
        good
    }

    pub(super) fn pin(&mut self, certificate: CertificateDer<'static>) -> bool {
        let good = is_for_timestamps(&certificate) == Ok(true);
        if good {
            self.pinned.push(certificate);
        }
        good
    }

    pub(super) const fn is_empty(&self) -> bool {
        self.roots.is_empty() && self.pinned.is_empty()
    }

    /// Those that were pinned; an authority may leave its own out of a token.
    pub(super) fn pinned(&self) -> impl Iterator<Item = &[u8]> {
        self.pinned.iter().map(AsRef::as_ref)
    }

    /// Checks that `certificate` may stamp, and did so while it was valid.
    pub(super) fn check(
        &self,
        certificate: &[u8],
        others: &[&[u8]],
        at: Timestamp,
    ) -> Result<(), AnchorError> {
        let untrusted = AnchorError::Invalid("the authority's certificate is not trusted");
        if is_for_timestamps(certificate) != Ok(true) {
            return Err(AnchorError::Invalid(
                "the authority's certificate is not for timestamps alone, as a critical extension must say",
            ));
        }
        if self.pinned().any(|pinned| pinned == certificate) {
            let (from, to) = validity(certificate).map_err(|NotDer| untrusted.clone())?;
            return if (from..=to).contains(&at) {
                Ok(())
            } else {
                Err(AnchorError::Invalid(
                    "the authority's certificate was not valid then",
                ))
            };
        }
        let roots: Vec<TrustAnchor<'_>> = self
            .roots
            .iter()
            .filter_map(|root| anchor_from_trusted_cert(root).ok())
            .collect();
        let certificate = CertificateDer::from(certificate);
        let end = EndEntityCert::try_from(&certificate).map_err(|_| untrusted.clone())?;
        let others: Vec<CertificateDer<'_>> = others
            .iter()
            .map(|other| CertificateDer::from(*other))
            .collect();
        let seconds = u64::try_from(at.as_micros() / 1_000_000).map_err(|_| untrusted.clone())?;
        let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let usage = KeyUsage::required(TIME_STAMPING);
        end.verify_for_usage(CHAIN, &roots, &others, time, usage, None, None)
            .map(drop)
            .map_err(|_| untrusted)
    }
}

/// Checks a signature by the key of `certificate`.
pub(super) fn verifies(
    certificate: &[u8],
    scheme: Scheme,
    message: &[u8],
    signature: &[u8],
) -> bool {
    let algorithms: &[&dyn SignatureVerificationAlgorithm] = match scheme {
        Scheme::Rsa(Hash::Sha256) => &[ring::RSA_PKCS1_2048_8192_SHA256],
        Scheme::Rsa(Hash::Sha384) => &[ring::RSA_PKCS1_2048_8192_SHA384],
        Scheme::Rsa(Hash::Sha512) => &[ring::RSA_PKCS1_2048_8192_SHA512],
        Scheme::Ecdsa(Hash::Sha256) => &[ring::ECDSA_P256_SHA256, ring::ECDSA_P384_SHA256],
        Scheme::Ecdsa(Hash::Sha384) => &[ring::ECDSA_P256_SHA384, ring::ECDSA_P384_SHA384],
        Scheme::Ecdsa(Hash::Sha512) => &[],
    };
    let certificate = CertificateDer::from(certificate);
    let Ok(certificate) = EndEntityCert::try_from(&certificate) else {
        return false;
    };
    // One that is not for the key's kind fails.
    algorithms.iter().any(|algorithm| {
        certificate
            .verify_signature(*algorithm, message, signature)
            .is_ok()
    })
}

/// RFC 3161 section 2.3: one extended key usage, critical, and no other purpose in it.
fn is_for_timestamps(certificate: &[u8]) -> Result<bool, NotDer> {
    let mut to_be_signed = to_be_signed(certificate)?;
    let mut found = None;
    while !to_be_signed.is_empty() {
        let part = to_be_signed.any()?;
        if part.tag != context(3) {
            continue;
        }
        let mut extensions = Reader::new(part.value).within(SEQUENCE)?;
        while !extensions.is_empty() {
            let mut extension = extensions.within(SEQUENCE)?;
            let name = extension.take(OID)?;
            let critical = extension.optional(BOOLEAN)? == Some(&[0xff]);
            let value = extension.take(OCTETS)?;
            extension.end()?;
            if name != EXTENDED_KEY_USAGE {
                continue;
            }
            let mut purposes = Reader::new(value).within(SEQUENCE)?;
            let stamps = purposes.take(OID)? == TIME_STAMPING && purposes.is_empty();
            if found.replace(stamps && critical).is_some() {
                return Err(NotDer);
            }
        }
    }
    Ok(found.unwrap_or(false))
}

/// From when to when a certificate is valid.
fn validity(certificate: &[u8]) -> Result<(Timestamp, Timestamp), NotDer> {
    let mut parts = to_be_signed(certificate)?;
    // Version, serial number, signature algorithm, issuer.
    parts.optional(context(0))?;
    for _ in 0..3 {
        parts.any()?;
    }
    let mut validity = parts.within(SEQUENCE)?;
    let (from, to) = (validity.any()?, validity.any()?);
    validity.end()?;
    let read = |tag: u8, value: &[u8]| match (tag, value) {
        // Two digits of the year: RFC 5280 section 4.1.2.5.1.
        (UTC_TIME, [b'5'..=b'9', ..]) => moment(&[b"19", value].concat()),
        (UTC_TIME, _) => moment(&[b"20", value].concat()),
        (TIME, _) => moment(value),
        _ => Err(NotDer),
    };
    Ok((read(from.tag, from.value)?, read(to.tag, to.value)?))
}

pub(super) fn to_be_signed(certificate: &[u8]) -> Result<Reader<'_>, NotDer> {
    let mut outer = Reader::new(certificate);
    let mut parts = outer.within(SEQUENCE)?;
    outer.end()?;
    parts.within(SEQUENCE)
}
