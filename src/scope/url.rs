//! URLs that can be read in one way only.
//!
//! What is checked here is then parsed a second time, by whatever client makes the call. Where two
//! parsers disagree (user info, back slashes, dot segments, encoded slashes, octal addresses) an
//! allow-list can be walked around, so such a URL is refused instead of repaired. What is accepted
//! has the same scheme, host, port and path for every reader.

use std::fmt::{self, Write as _};
use std::net::{Ipv4Addr, Ipv6Addr};

/// The longest URL that is looked at, in bytes.
const MAX_URL: usize = 8_192;
/// The longest host name (RFC 1035).
const MAX_HOST: usize = 253;

/// A URL's parts, normalised, without allocating.
#[derive(Debug)]
pub(super) struct ApiUrl<'u> {
    pub(super) https: bool,
    pub(super) host: Host,
    pub(super) port: u16,
    /// As written; empty if there was none.
    pub(super) raw_path: &'u str,
}

impl<'u> ApiUrl<'u> {
    /// Reads `text`. Query and fragment are checked for their characters only.
    pub(super) fn parse(text: &'u str) -> Result<Self, UrlProblem> {
        if text.len() > MAX_URL {
            return Err(UrlProblem::TooLong);
        }
        // A back slash is a slash to some readers; white space and controls vanish for some.
        if !text.bytes().all(|b| b.is_ascii_graphic() && b != b'\\') {
            return Err(UrlProblem::Characters);
        }
        let (https, rest) = scheme(text)?;
        let rest = rest.split(['?', '#']).next().unwrap_or(rest);
        let at = rest.find('/').unwrap_or(rest.len());
        let (authority, raw_path) = rest.split_at_checked(at).unwrap_or((rest, ""));
        if authority.contains('@') {
            return Err(UrlProblem::UserInfo);
        }
        let (host, port) = host_and_port(authority)?;
        check_path(raw_path)?;
        let default = if https { 443 } else { 80 };
        Ok(Self {
            https,
            host,
            port: port.unwrap_or(default),
            raw_path,
        })
    }

    /// The path, at least `/`.
    pub(super) const fn path(&self) -> &'u str {
        if self.raw_path.is_empty() {
            "/"
        } else {
            self.raw_path
        }
    }

    /// Scheme, host, and port where it is not the scheme's own.
    pub(super) fn origin(&self) -> String {
        origin(self.https, self.host.as_str(), self.port)
    }
}

/// Scheme, host, and port where it is not the scheme's own.
pub(super) fn origin(https: bool, host: &str, port: u16) -> String {
    match (https, port) {
        (true, 443) => format!("https://{host}"),
        (false, 80) => format!("http://{host}"),
        (true, port) => format!("https://{host}:{port}"),
        (false, port) => format!("http://{host}:{port}"),
    }
}

fn scheme(text: &str) -> Result<(bool, &str), UrlProblem> {
    let (scheme, rest) = text.split_once("://").ok_or(UrlProblem::Scheme)?;
    if scheme.eq_ignore_ascii_case("https") {
        Ok((true, rest))
    } else if scheme.eq_ignore_ascii_case("http") {
        Ok((false, rest))
    } else {
        Err(UrlProblem::Scheme)
    }
}

fn host_and_port(authority: &str) -> Result<(Host, Option<u16>), UrlProblem> {
    if let Some(rest) = authority.strip_prefix('[') {
        let (address, after) = rest.split_once(']').ok_or(UrlProblem::Host)?;
        let address: Ipv6Addr = address.parse().map_err(|_| UrlProblem::Host)?;
        let host = Host::of(format_args!("[{address}]"))?;
        return match after.strip_prefix(':') {
            Some(digits) => Ok((host, Some(port(digits)?))),
            None if after.is_empty() => Ok((host, None)),
            None => Err(UrlProblem::Host),
        };
    }
    let (name, port) = match authority.split_once(':') {
        Some((name, digits)) => (name, Some(port(digits)?)),
        None => (authority, None),
    };
    Ok((host_name(name)?, port))
}

fn port(digits: &str) -> Result<u16, UrlProblem> {
    // `parse` would take a sign, and readers differ on leading zeros.
    let plain = digits.bytes().all(|b| b.is_ascii_digit()) && !digits.starts_with('0');
    if plain {
        digits.parse().map_err(|_| UrlProblem::Port)
    } else {
        Err(UrlProblem::Port)
    }
}

fn host_name(name: &str) -> Result<Host, UrlProblem> {
    let is_label = |label: &str| {
        let fine = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_');
        (1..=63).contains(&label.len()) && label.bytes().all(fine)
    };
    if name.len() > MAX_HOST || !name.split('.').all(is_label) {
        return Err(UrlProblem::Host);
    }
    // A name that ends in a number is an address to every reader, but `0x7f.1`, `2130706433` and
    // `0177.0.0.1` are not the same one to all of them: only the four plain numbers are.
    let last = name.rsplit('.').next().unwrap_or(name);
    let hex = last.strip_prefix("0x").or_else(|| last.strip_prefix("0X"));
    let numeric = last.bytes().all(|b| b.is_ascii_digit())
        || hex.is_some_and(|hex| hex.bytes().all(|b| b.is_ascii_hexdigit()));
    if numeric && name.parse::<Ipv4Addr>().is_err() {
        return Err(UrlProblem::Host);
    }
    Host::of(format_args!("{name}"))
}

fn check_path(path: &str) -> Result<(), UrlProblem> {
    let mut bytes = path.bytes();
    while let Some(byte) = bytes.next() {
        let fine = match byte {
            b'%' => {
                let mut nibble = || bytes.next().and_then(|b| char::from(b).to_digit(16));
                let (Some(high), Some(low)) = (nibble(), nibble()) else {
                    return Err(UrlProblem::Encoding);
                };
                // An encoded dot, slash, back slash, per cent sign or control is another path to
                // whoever decodes once more or once less.
                !matches!(
                    high * 16 + low,
                    0x00..=0x1f | 0x25 | 0x2e | 0x2f | 0x5c | 0x7f
                )
            }
            b'"' | b'<' | b'>' | b'^' | b'`' | b'{' | b'|' | b'}' => false,
            _ => true,
        };
        if !fine {
            return Err(UrlProblem::Encoding);
        }
    }
    // Some servers drop `;parameters` before they resolve dots, so `..;x` is a dot segment too.
    let dots = |segment: &str| matches!(segment.split(';').next(), Some("." | ".."));
    if path.split('/').any(dots) {
        return Err(UrlProblem::Dots);
    }
    Ok(())
}

/// A host in lower case, on the stack.
#[derive(Clone, Copy)]
pub(super) struct Host {
    bytes: [u8; MAX_HOST],
    len: usize,
}

impl Host {
    fn of(text: fmt::Arguments<'_>) -> Result<Self, UrlProblem> {
        let mut host = Self {
            bytes: [0; MAX_HOST],
            len: 0,
        };
        host.write_fmt(text).map_err(|_| UrlProblem::Host)?;
        Ok(host)
    }

    pub(super) fn as_str(&self) -> &str {
        let bytes = self.bytes.get(..self.len).unwrap_or_default();
        // INVARIANT: only ASCII is written.
        std::str::from_utf8(bytes).unwrap_or_default()
    }
}

impl fmt::Write for Host {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.len + text.len();
        let slot = self.bytes.get_mut(self.len..end).ok_or(fmt::Error)?;
        slot.copy_from_slice(text.as_bytes());
        slot.make_ascii_lowercase();
        self.len = end;
        Ok(())
    }
}

impl fmt::Debug for Host {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self.as_str(), f)
    }
}

/// Why a URL is not compared with anything. Never repeats it: URLs may hold secrets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum UrlProblem {
    /// Longer than 8,192 bytes.
    TooLong,
    /// White space, a control or non-ASCII character, or a back slash.
    Characters,
    /// Neither `https://` nor `http://`.
    Scheme,
    /// A user name or password before the host.
    UserInfo,
    /// No host name or address in its plain form.
    Host,
    /// No port from 1 to 65535 in its plain form.
    Port,
    /// `.` or `..` as a part of the path.
    Dots,
    /// A character that must be percent-encoded, or an encoded one that readers take differently.
    Encoding,
}

impl UrlProblem {
    /// What to do about it.
    #[must_use]
    pub const fn remedy(self) -> &'static str {
        match self {
            Self::TooLong => "shorten it to 8192 bytes",
            Self::Characters => {
                "percent-encode white space and characters that are not ASCII, and use / for \\"
            }
            Self::Scheme => "begin it with https:// or http://",
            Self::UserInfo => "leave out the user name and password before the host",
            Self::Host => {
                "write the host as a plain name in ASCII (xn-- for others) or a plain address"
            }
            Self::Port => {
                "write the port as a number from 1 to 65535, or leave it out with its colon"
            }
            Self::Dots => "resolve . and .. in the path",
            Self::Encoding => {
                "percent-encode the path once, and no dot, slash, back slash, per cent sign or control"
            }
        }
    }
}

impl fmt::Display for UrlProblem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.remedy())
    }
}
