//! Bytes that mean one thing: what is hashed, signed or `MACed`.
//!
//! Every field is absent (`00`) or present (`01`, its length as a big-endian u32, its bytes). The
//! first field is a versioned label. Nothing is joined with separators, so bytes cannot move from
//! one field to the next, and two different lists of fields never have the same bytes.
//!
//! Structured values go through [`json`] first: sorted keys, no floats where they would not come
//! back as they went in, no duplicate keys.

mod json;

pub(crate) use json::{
    BadDocument, Document, Flat, FlatWriter, Pieces, canonical_arguments, write_text,
};
pub use json::{JsonError, JsonRule, Metadata};

/// Writes the fields of one thing, in order.
#[derive(Debug, Default)]
pub(crate) struct Fields {
    bytes: Vec<u8>,
}

impl Fields {
    /// Begins the bytes of the thing that `label` names, version included.
    pub(crate) fn labelled(label: &str) -> Self {
        let mut fields = Self::default();
        fields.present(label.as_bytes());
        fields
    }

    /// Begins again with `label`, keeping the memory.
    pub(crate) fn restart(&mut self, label: &str) {
        self.bytes.clear();
        self.present(label.as_bytes());
    }

    /// Adds a field that is there.
    pub(crate) fn present(&mut self, bytes: &[u8]) -> &mut Self {
        // INVARIANT: no field reaches 4 GiB; every input is bounded far below (ids 256 bytes,
        // metadata 64 KiB). A longer one would be cut in its length only, so it is made absent.
        match u32::try_from(bytes.len()) {
            Ok(len) => {
                self.bytes.push(1);
                self.bytes.extend_from_slice(&len.to_be_bytes());
                self.bytes.extend_from_slice(bytes);
            }
            Err(_) => self.bytes.push(0),
        }
        self
    }

    /// Adds a field that may be absent.
    pub(crate) fn maybe(&mut self, bytes: Option<&[u8]>) -> &mut Self {
        if let Some(bytes) = bytes {
            self.present(bytes)
        } else {
            self.bytes.push(0);
            self
        }
    }

    /// Adds a text that may be absent.
    pub(crate) fn text(&mut self, text: Option<&str>) -> &mut Self {
        self.maybe(text.map(str::as_bytes))
    }

    /// The bytes so far.
    pub(crate) fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn encode(fields: &[Option<Vec<u8>>]) -> Vec<u8> {
        let mut out = Fields::labelled("portcullis/test/v1");
        for field in fields {
            out.maybe(field.as_deref());
        }
        out.as_bytes().to_vec()
    }

    #[test]
    fn golden() {
        let mut fields = Fields::labelled("a/v1");
        fields.maybe(None).present(b"").present(b"xy");
        assert_eq!(
            hex::encode(fields.as_bytes()),
            "0100000004612f7631000100000000010000000278 79".replace(' ', "")
        );
    }

    #[test]
    fn f11_bytes_cannot_move_between_fields() {
        let two = |a: &str, b: &str| encode(&[Some(a.into()), Some(b.into())]);
        assert_ne!(two("a|b", "c"), two("a", "b|c"));
        assert_ne!(two("ab", ""), two("a", "b"));
        assert_ne!(encode(&[None, Some(vec![])]), encode(&[Some(vec![]), None]));
    }

    fn fields() -> impl Strategy<Value = Vec<Option<Vec<u8>>>> {
        let field = proptest::option::of(proptest::collection::vec(any::<u8>(), 0..6));
        proptest::collection::vec(field, 0..6)
    }

    proptest! {
        #[test]
        fn different_fields_have_different_bytes(a in fields(), b in fields()) {
            prop_assert_eq!(a == b, encode(&a) == encode(&b));
        }

        #[test]
        fn any_change_of_one_byte_shows(a in fields(), at in any::<prop::sample::Index>(), x in 1..=255_u8) {
            let mut b = a.clone();
            let mut places: Vec<&mut u8> = b.iter_mut().flatten().flatten().collect();
            if !places.is_empty() {
                let i = at.index(places.len());
                *places[i] ^= x;
                prop_assert_ne!(encode(&a), encode(&b));
            }
        }
    }
}
