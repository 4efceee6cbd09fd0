//! Timestamp tokens: RFC 3161 section 2.4.2, in CMS (RFC 5652), with RFC 5816.

use sha2::{Digest as _, Sha256, Sha384, Sha512};

use super::der::{
    BOOLEAN, INTEGER, NotDer, OCTETS, OID, Reader, SEQUENCE, SET, TIME, context, encode, integer,
    sequence, unsigned,
};
use crate::Timestamp;

pub(super) const SHA256: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x01];
const SHA384: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x02];
const SHA512: &[u8] = &[0x60, 0x86, 0x48, 0x01, 0x65, 0x03, 0x04, 0x02, 0x03];
const SIGNED_DATA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x07, 0x02];
const TST_INFO: &[u8] = &[
    0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x10, 0x01, 0x04,
];
const CONTENT_TYPE: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x03];
const MESSAGE_DIGEST: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x04];
const SIGNING_CERTIFICATE_V2: &[u8] = &[
    0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x09, 0x10, 0x02, 0x2f,
];
const RSA: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];
const RSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0b];
const RSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0c];
const RSA_SHA512: &[u8] = &[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x0d];
const ECDSA_SHA256: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x02];
const ECDSA_SHA384: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x03];
const ECDSA_SHA512: &[u8] = &[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03, 0x04];

/// A hash function that may stand in a token. SHA-1 may not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hash {
    Sha256,
    Sha384,
    Sha512,
}

impl Hash {
    fn named(oid: &[u8]) -> Result<Self, NotDer> {
        match oid {
            SHA256 => Ok(Self::Sha256),
            SHA384 => Ok(Self::Sha384),
            SHA512 => Ok(Self::Sha512),
            _ => Err(NotDer),
        }
    }

    pub(super) fn of(self, bytes: &[u8]) -> Vec<u8> {
        match self {
            Self::Sha256 => Sha256::digest(bytes).to_vec(),
            Self::Sha384 => Sha384::digest(bytes).to_vec(),
            Self::Sha512 => Sha512::digest(bytes).to_vec(),
        }
    }
}

/// Whose signature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    Rsa(Hash),
    Ecdsa(Hash),
}

/// A token taken apart; nothing of it is checked but that its parts fit each other in form.
#[derive(Debug)]
pub(super) struct Token<'t> {
    /// What is stamped, byte for byte, and what it says.
    pub(super) content: &'t [u8],
    pub(super) info: Info<'t>,
    pub(super) certificates: Vec<&'t [u8]>,
    /// What is signed: the attributes, as a SET.
    pub(super) signed: Vec<u8>,
    pub(super) scheme: Scheme,
    pub(super) signature: &'t [u8],
    /// The hash of the content, by the attributes.
    pub(super) digest: (Hash, &'t [u8]),
    /// The hash of the signer's certificate, by the attributes.
    pub(super) signer: (Hash, &'t [u8]),
}

/// What a token says.
#[derive(Clone, Copy, Debug)]
pub(super) struct Info<'t> {
    pub(super) policy: &'t [u8],
    pub(super) imprint_hash: &'t [u8],
    pub(super) imprint: &'t [u8],
    pub(super) at: Timestamp,
    pub(super) nonce: Option<&'t [u8]>,
}

/// A request for a stamp on `imprint`, a SHA-256; with the authority's certificate in the answer.
pub(super) fn request(imprint: &[u8], nonce: u64) -> Vec<u8> {
    let algorithm = sequence(&[encode(OID, SHA256), encode(0x05, &[])]);
    sequence(&[
        integer(&[1]),
        sequence(&[algorithm, encode(OCTETS, imprint)]),
        integer(&nonce.to_be_bytes()),
        encode(BOOLEAN, &[0xff]),
    ])
}

/// The token of a response, if it was granted: `None` if it was not.
pub(super) fn granted(response: &[u8]) -> Result<Option<&[u8]>, NotDer> {
    let mut outer = Reader::new(response);
    let mut parts = outer.within(SEQUENCE)?;
    outer.end()?;
    let status = parts.within(SEQUENCE)?.small()?;
    // Granted, and granted with modifications (which are checked like everything else).
    if status > 1 {
        return Ok(None);
    }
    let token = parts.any()?;
    parts.end()?;
    if token.tag == SEQUENCE {
        Ok(Some(token.whole))
    } else {
        Err(NotDer)
    }
}

impl<'t> Token<'t> {
    pub(super) fn parse(token: &'t [u8]) -> Result<Self, NotDer> {
        let mut outer = Reader::new(token);
        let mut content_info = outer.within(SEQUENCE)?;
        outer.end()?;
        if content_info.take(OID)? != SIGNED_DATA {
            return Err(NotDer);
        }
        let mut data = content_info.within(context(0))?.within(SEQUENCE)?;
        content_info.end()?;
        data.small()?;
        data.take(SET)?;
        let mut encapsulated = data.within(SEQUENCE)?;
        if encapsulated.take(OID)? != TST_INFO {
            return Err(NotDer);
        }
        let content = encapsulated.within(context(0))?.take(OCTETS)?;
        encapsulated.end()?;
        let mut certificates = Vec::new();
        if let Some(set) = data.optional(context(0))? {
            let mut set = Reader::new(set);
            while !set.is_empty() {
                let certificate = set.any()?;
                // Other kinds than X.509 are of no use.
                if certificate.tag == SEQUENCE {
                    certificates.push(certificate.whole);
                }
            }
        }
        data.optional(context(1))?;
        let mut signers = data.within(SET)?;
        data.end()?;
        let mut signer = signers.within(SEQUENCE)?;
        // One authority, one signature.
        signers.end()?;
        signer.small()?;
        signer.any()?;
        let digest_hash = Hash::named(algorithm(&mut signer)?)?;
        let attributes = signer.take(context(0))?;
        let scheme = scheme(algorithm(&mut signer)?, digest_hash)?;
        let signature = signer.take(OCTETS)?;
        signer.optional(context(1))?;
        signer.end()?;
        let (digest, certificate) = read_attributes(attributes)?;
        Ok(Self {
            content,
            info: Info::parse(content)?,
            certificates,
            signed: encode(SET, attributes),
            scheme,
            signature,
            digest: (digest_hash, digest),
            signer: certificate,
        })
    }
}

impl<'t> Info<'t> {
    fn parse(content: &'t [u8]) -> Result<Self, NotDer> {
        let mut outer = Reader::new(content);
        let mut info = outer.within(SEQUENCE)?;
        outer.end()?;
        if info.small()? != 1 {
            return Err(NotDer);
        }
        let policy = info.take(OID)?;
        let mut stamped = info.within(SEQUENCE)?;
        let imprint_hash = algorithm(&mut stamped)?;
        let imprint = stamped.take(OCTETS)?;
        stamped.end()?;
        unsigned(info.take(INTEGER)?)?;
        let at = moment(info.take(TIME)?)?;
        // Accuracy and ordering.
        info.optional(SEQUENCE)?;
        info.optional(BOOLEAN)?;
        let nonce = info.optional(INTEGER)?.map(unsigned).transpose()?;
        info.optional(context(0))?;
        info.optional(context(1))?;
        info.end()?;
        Ok(Self {
            policy,
            imprint_hash,
            imprint,
            at,
            nonce,
        })
    }
}

/// The name of an algorithm; parameters are passed over.
fn algorithm<'d>(reader: &mut Reader<'d>) -> Result<&'d [u8], NotDer> {
    reader.within(SEQUENCE)?.take(OID)
}

fn scheme(oid: &[u8], digest: Hash) -> Result<Scheme, NotDer> {
    Ok(match oid {
        RSA => Scheme::Rsa(digest),
        RSA_SHA256 => Scheme::Rsa(Hash::Sha256),
        RSA_SHA384 => Scheme::Rsa(Hash::Sha384),
        RSA_SHA512 => Scheme::Rsa(Hash::Sha512),
        ECDSA_SHA256 => Scheme::Ecdsa(Hash::Sha256),
        ECDSA_SHA384 => Scheme::Ecdsa(Hash::Sha384),
        ECDSA_SHA512 => Scheme::Ecdsa(Hash::Sha512),
        _ => return Err(NotDer),
    })
}

type Attributes<'d> = (&'d [u8], (Hash, &'d [u8]));

/// The content's hash and the hash of the signer's certificate; each must be there once.
fn read_attributes(attributes: &[u8]) -> Result<Attributes<'_>, NotDer> {
    let (mut kind, mut digest, mut certificate) = (None, None, None);
    let mut reader = Reader::new(attributes);
    while !reader.is_empty() {
        let mut attribute = reader.within(SEQUENCE)?;
        let name = attribute.take(OID)?;
        let mut values = attribute.within(SET)?;
        attribute.end()?;
        let known = match name {
            CONTENT_TYPE => kind.replace(values.take(OID)?).is_none(),
            MESSAGE_DIGEST => digest.replace(values.take(OCTETS)?).is_none(),
            SIGNING_CERTIFICATE_V2 => certificate.replace(signer(&mut values)?).is_none(),
            _ => continue,
        };
        values.end()?;
        if !known {
            return Err(NotDer);
        }
    }
    if kind != Some(TST_INFO) {
        return Err(NotDer);
    }
    Ok((digest.ok_or(NotDer)?, certificate.ok_or(NotDer)?))
}

/// The first certificate that a `SigningCertificateV2` names, which is the signer's.
fn signer<'d>(values: &mut Reader<'d>) -> Result<(Hash, &'d [u8]), NotDer> {
    let mut named = values
        .within(SEQUENCE)?
        .within(SEQUENCE)?
        .within(SEQUENCE)?;
    let hash = match named.optional(SEQUENCE)? {
        None => Hash::Sha256,
        Some(algorithm) => Hash::named(Reader::new(algorithm).take(OID)?)?,
    };
    Ok((hash, named.take(OCTETS)?))
}

/// `YYYYMMDDhhmmss[.f]Z`, in UTC.
pub(super) fn moment(value: &[u8]) -> Result<Timestamp, NotDer> {
    let text = std::str::from_utf8(value).map_err(|_| NotDer)?;
    let text = text.strip_suffix('Z').ok_or(NotDer)?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    if whole.len() != 14 || !digits(whole) || !digits(fraction) || fraction.len() > 9 {
        return Err(NotDer);
    }
    let part = |from: usize, to: usize| whole.get(from..to).ok_or(NotDer);
    let (year, month, day) = (part(0, 4)?, part(4, 6)?, part(6, 8)?);
    let (hour, minute, second) = (part(8, 10)?, part(10, 12)?, part(12, 14)?);
    // To the microsecond, as all our times.
    let micros: String = fraction.chars().chain("000000".chars()).take(6).collect();
    let text = format!("{year}-{month}-{day}T{hour}:{minute}:{second}.{micros}Z");
    Timestamp::parse(&text).map_err(|_| NotDer)
}
