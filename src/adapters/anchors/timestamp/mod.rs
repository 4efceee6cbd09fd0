//! A timestamp authority (RFC 3161, with RFC 5816).

mod certificate;
mod der;
#[cfg(feature = "evidence")]
mod roots;
mod token;

use std::sync::Arc;
use std::time::Duration;

use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};

use self::certificate::{Trust, verifies};
use self::der::{NotDer, Reader, integer};
#[cfg(feature = "evidence")]
pub use self::roots::TimestampRoots;
use self::token::{Info, Token};
use super::http::Server;
use crate::audit::anchor::{
    Anchor, AnchorError, AnchorFuture, Inquiry, Kept, Publication, Receipt,
};
use crate::{Clock, SystemClock, Timestamp};

/// Room for a token with a long chain of certificates.
const LONGEST: usize = 256 * 1024;
const TOLERANCE: Duration = Duration::from_mins(5);

/// An authority that stamps checkpoints with the time.
///
/// It keeps nothing, so the signer is not held to it; have another anchor beside it. What it gives is
/// the token: whoever trusts the authority knows that the checkpoint existed then, and so did
/// everything under it. The whole token is the receipt.
///
/// Of a token is checked: that it was granted; that it stamps the SHA-256 of the note; that it answers
/// this request; its policy, if some are [named](Self::policy); the signature over its attributes, and
/// what they say of content and certificate; that the certificate is for timestamps alone, was valid
/// then, and is [pinned](Self::pin) or leads to a [root](Self::root); that the time is right, to
/// [five minutes](Self::tolerance). RSA (2048 to 8192 bits, PKCS #1 v1.5) and ECDSA (P-256, P-384);
/// no SHA-1, also not to name the certificate (`ESSCertIDv2` must be there). Revocation is not asked
/// for.
#[derive(Clone, Debug)]
pub struct TimestampAnchor {
    name: String,
    server: Server,
    trust: Trust,
    policies: Vec<Vec<u8>>,
    tolerance: Duration,
    clock: Arc<dyn Clock>,
}

/// A token that was checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Timestamped {
    /// The time that the authority vouches for.
    pub at: Timestamp,
}

impl TimestampAnchor {
    /// The authority at `url`, as the anchor `name`. It takes a [`root`](Self::root) or a
    /// [`pin`](Self::pin) to be used.
    ///
    /// # Errors
    ///
    /// [`AnchorError::Settings`] if the URL is none of `http` or `https`, or holds a password.
    pub fn new(name: impl Into<String>, url: &str) -> Result<Self, AnchorError> {
        Ok(Self {
            name: name.into(),
            server: Server::at(url)?,
            trust: Trust::default(),
            policies: Vec::new(),
            tolerance: TOLERANCE,
            clock: Arc::new(SystemClock),
        })
    }

    /// Trusts authorities whose certificates lead to this one, in PEM or DER.
    ///
    /// # Errors
    ///
    /// [`AnchorError::Settings`] if it is no certificate.
    pub fn root(mut self, certificate: impl AsRef<[u8]>) -> Result<Self, AnchorError> {
        let bad = AnchorError::Settings("the root is no certificate, in PEM or DER");
        let certificate = read(certificate.as_ref()).ok_or_else(|| bad.clone())?;
        if self.trust.add_root(certificate) {
            Ok(self)
        } else {
            Err(bad)
        }
    }

    /// Trusts the authority with exactly this certificate, in PEM or DER, whoever issued it.
    ///
    /// # Errors
    ///
    /// [`AnchorError::Settings`] if it is no certificate, or not one for timestamps.
    pub fn pin(mut self, certificate: impl AsRef<[u8]>) -> Result<Self, AnchorError> {
        let bad = AnchorError::Settings("what is pinned is no certificate for timestamps");
        let certificate = read(certificate.as_ref()).ok_or_else(|| bad.clone())?;
        if self.trust.pin(certificate) {
            Ok(self)
        } else {
            Err(bad)
        }
    }

    /// Takes tokens under this policy (`1.2.3.4.1`), and others that are named; without any, under
    /// every one.
    ///
    /// # Errors
    ///
    /// [`AnchorError::Settings`] if it is no object identifier.
    pub fn policy(mut self, policy: &str) -> Result<Self, AnchorError> {
        let bad = AnchorError::Settings("a policy is no object identifier, such as 1.2.3.4.1");
        self.policies.push(identifier(policy).ok_or(bad)?);
        Ok(self)
    }

    /// How far the authority's time may be from ours (5 minutes).
    #[must_use]
    pub const fn tolerance(mut self, tolerance: Duration) -> Self {
        self.tolerance = tolerance;
        self
    }

    /// Where our time comes from (the machine).
    #[must_use]
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Another HTTP client: for a proxy, or certificates that the machine does not trust.
    #[must_use]
    pub fn http_client(mut self, client: reqwest::Client) -> Self {
        self.server.set_client(client);
        self
    }

    /// How long the request may take (8 s).
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.server.set_deadline(deadline);
        self
    }

    /// Checks a token that was kept as the receipt of `note`, at any later time. Of the nonce and of
    /// the difference to our clock nothing is known any more.
    ///
    /// # Errors
    ///
    /// [`AnchorError::Invalid`] says what is wrong.
    pub fn verify(&self, note: &str, token: &[u8]) -> Result<Timestamped, AnchorError> {
        self.check(note, token, None)
    }

    fn check(
        &self,
        note: &str,
        token: &[u8],
        asked: Option<(u64, Timestamp)>,
    ) -> Result<Timestamped, AnchorError> {
        let (info, _) = examine(&self.trust, &self.policies, note, token)?;
        let invalid = |problem| Err(AnchorError::Invalid(problem));
        if let Some((nonce, now)) = asked {
            let wanted = integer(&nonce.to_be_bytes());
            let wanted = Reader::new(&wanted)
                .take(der::INTEGER)
                .and_then(der::unsigned);
            if wanted.ok() != info.nonce {
                return invalid("the token answers another request");
            }
            if info.at.since(now).max(now.since(info.at)) > self.tolerance {
                return invalid("the token's time is far from ours; compare the clocks");
            }
        }
        Ok(Timestamped { at: info.at })
    }
}

impl Anchor for TimestampAnchor {
    fn name(&self) -> &str {
        &self.name
    }

    fn kind(&self) -> &'static str {
        "rfc3161"
    }

    fn remembers(&self) -> bool {
        false
    }

    fn latest<'a>(&'a self, _inquiry: &'a Inquiry) -> AnchorFuture<'a, Option<Kept>> {
        Box::pin(async { Ok(None) })
    }

    fn publish<'a>(&'a self, publication: &'a Publication) -> AnchorFuture<'a, Receipt> {
        Box::pin(async {
            if self.trust.is_empty() {
                return Err(AnchorError::Settings("no certificate of it is trusted"));
            }
            let mut nonce = [0; 8];
            getrandom::fill(&mut nonce)
                .map_err(|_| AnchorError::Away("the machine gives no random numbers"))?;
            let nonce = u64::from_be_bytes(nonce);
            let note = publication.note();
            let query = token::request(&imprint(note), nonce);
            let answer = self
                .server
                .post("application/timestamp-query", query, LONGEST)
                .await?;
            match answer.status {
                200 => {}
                429 | 500.. => return Err(AnchorError::Away("the authority cannot answer now")),
                _ => return Err(AnchorError::Refused("the authority does not understand it")),
            }
            let malformed = AnchorError::Invalid("it is no timestamp response");
            let token = token::granted(&answer.body).map_err(|NotDer| malformed)?;
            let token = token.ok_or(AnchorError::Refused("the authority gave no timestamp"))?;
            self.check(note, token, Some((nonce, self.clock.now())))?;
            Ok(Receipt::new("rfc3161", token))
        })
    }
}

/// Checks everything of a token that stays true; answers with what it says, and whose certificate it
/// is that signed it.
fn examine<'t>(
    trust: &'t Trust,
    policies: &[Vec<u8>],
    note: &str,
    token: &'t [u8],
) -> Result<(Info<'t>, &'t [u8]), AnchorError> {
    let malformed = AnchorError::Invalid("the token is malformed, or uses what is not supported");
    let token = Token::parse(token).map_err(|NotDer| malformed)?;
    let info = token.info;
    let invalid = |problem| Err(AnchorError::Invalid(problem));
    if info.imprint_hash != token::SHA256 || info.imprint != imprint(note) {
        return invalid("the token is of something else than the checkpoint");
    }
    if !policies.is_empty() && !policies.iter().any(|known| known == info.policy) {
        return invalid("the token is under a policy that is not allowed");
    }
    let (hash, digest) = token.digest;
    if hash.of(token.content) != digest {
        return invalid("the token's content is not the one that was signed");
    }
    let (hash, named) = token.signer;
    let inside = token.certificates.iter().copied();
    let mut candidates = inside.chain(trust.pinned());
    let Some(signer) = candidates.find(|candidate| hash.of(candidate) == named) else {
        return invalid("the certificate that signed the token is not in it, nor pinned");
    };
    if !verifies(signer, token.scheme, &token.signed, token.signature) {
        return invalid("the token's signature is wrong");
    }
    trust.check(signer, &token.certificates, info.at)?;
    Ok((info, signer))
}

fn imprint(note: &str) -> [u8; 32] {
    Sha256::digest(note).into()
}

/// A certificate, as PEM or as DER.
fn read(bytes: &[u8]) -> Option<CertificateDer<'static>> {
    if bytes.starts_with(&[der::SEQUENCE]) {
        return Some(CertificateDer::from(bytes.to_vec()));
    }
    CertificateDer::from_pem_slice(bytes).ok()
}

/// An object identifier as it is encoded.
fn identifier(text: &str) -> Option<Vec<u8>> {
    let arcs: Vec<u64> = text
        .split('.')
        .map(|arc| arc.parse().ok())
        .collect::<Option<_>>()?;
    let [first @ 0..=2, second, rest @ ..] = arcs.as_slice() else {
        return None;
    };
    if (*first < 2 && *second > 39) || *second > u64::MAX - 80 {
        return None;
    }
    let mut out = Vec::new();
    for arc in std::iter::once(&(first * 40 + second)).chain(rest) {
        let groups = (0..10).rev().map(|group| arc >> (7 * group));
        let groups: Vec<u64> = groups.skip_while(|value| *value == 0).collect();
        let last = groups.len().saturating_sub(1);
        for (place, value) in groups.iter().enumerate() {
            let low = u8::try_from(value & 0x7f).ok()?;
            out.push(if place == last { low } else { low | 0x80 });
        }
        if groups.is_empty() {
            out.push(0);
        }
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn object_identifiers_are_encoded_as_the_standard_does() {
        let sha256 = identifier("2.16.840.1.101.3.4.2.1");
        assert_eq!(sha256.as_deref(), Some(token::SHA256));
        assert_eq!(identifier("1.2.0").unwrap(), [42, 0]);
        for bad in ["", "1", "3.1", "1.40", "1.2.x", "1..2", "1.2.-3"] {
            assert_eq!(identifier(bad), None, "{bad}");
        }
    }
}
