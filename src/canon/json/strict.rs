//! A serde serialiser into [`Value`] that refuses what `serde_json` would change silently: NaN
//! becomes `null` there, and of a duplicate key the last wins.

use serde::ser::{self, Serialize};
use serde_json::{Map, Number, Value};

use super::parse::unique_keys;
use super::{JsonError, JsonRule};

/// By which `serde_json` tells its `RawValue` from other structs, and the name of its only field.
const RAW: &str = "$serde_json::private::RawValue";

/// The serialiser; what it allows depends on where the value goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strict {
    floats: bool,
}

impl Strict {
    /// For what is stored: no floats.
    pub(super) const METADATA: Self = Self { floats: false };
    /// For what is only hashed: finite floats.
    pub(super) const ARGUMENTS: Self = Self { floats: true };

    fn float(self, value: f64) -> Result<Value, JsonError> {
        match Number::from_f64(value) {
            None => Err(JsonError::at("", JsonRule::NotFinite)),
            Some(number) if self.floats => Ok(Value::Number(number)),
            Some(_) => Err(JsonError::at("", JsonRule::Float)),
        }
    }

    fn integer<N>(value: N) -> Result<Value, JsonError>
    where
        i128: TryFrom<N>,
    {
        i128::try_from(value)
            .ok()
            .and_then(Number::from_i128)
            .map(Value::Number)
            .ok_or_else(|| JsonError::at("", JsonRule::Integer))
    }
}

/// Prefixes the path of an error with the key it happened under.
pub(super) fn under(key: &str, error: &JsonError) -> JsonError {
    let path = match error.path() {
        "" => key.to_owned(),
        rest => format!("{key}.{rest}"),
    };
    JsonError::at(&path, error.rule().clone())
}

impl ser::Serializer for Strict {
    type Ok = Value;
    type Error = JsonError;
    type SerializeSeq = List;
    type SerializeTuple = List;
    type SerializeTupleStruct = List;
    type SerializeTupleVariant = List;
    type SerializeMap = Object;
    type SerializeStruct = Object;
    type SerializeStructVariant = Object;

    fn serialize_bool(self, v: bool) -> Result<Value, JsonError> {
        Ok(Value::Bool(v))
    }
    fn serialize_i8(self, v: i8) -> Result<Value, JsonError> {
        Self::integer(v)
    }
    fn serialize_i16(self, v: i16) -> Result<Value, JsonError> {
        Self::integer(v)
    }
    fn serialize_i32(self, v: i32) -> Result<Value, JsonError> {
        Self::integer(v)
    }
    fn serialize_i64(self, v: i64) -> Result<Value, JsonError> {
        Self::integer(v)
    }
    fn serialize_i128(self, v: i128) -> Result<Value, JsonError> {
        Self::integer(v)
    }
    fn serialize_u8(self, v: u8) -> Result<Value, JsonError> {
        Self::integer(v)
    }
    fn serialize_u16(self, v: u16) -> Result<Value, JsonError> {
        Self::integer(v)
    }
    fn serialize_u32(self, v: u32) -> Result<Value, JsonError> {
        Self::integer(v)
    }
    fn serialize_u64(self, v: u64) -> Result<Value, JsonError> {
        Self::integer(v)
    }
    fn serialize_u128(self, v: u128) -> Result<Value, JsonError> {
        Self::integer(v)
    }
    fn serialize_f32(self, v: f32) -> Result<Value, JsonError> {
        self.float(f64::from(v))
    }
    fn serialize_f64(self, v: f64) -> Result<Value, JsonError> {
        self.float(v)
    }
    fn serialize_char(self, v: char) -> Result<Value, JsonError> {
        Ok(Value::String(v.into()))
    }
    fn serialize_str(self, v: &str) -> Result<Value, JsonError> {
        Ok(Value::String(v.to_owned()))
    }
    fn serialize_bytes(self, v: &[u8]) -> Result<Value, JsonError> {
        Ok(Value::Array(v.iter().map(|b| Value::from(*b)).collect()))
    }
    fn serialize_none(self) -> Result<Value, JsonError> {
        Ok(Value::Null)
    }
    fn serialize_some<T: Serialize + ?Sized>(self, v: &T) -> Result<Value, JsonError> {
        v.serialize(self)
    }
    fn serialize_unit(self) -> Result<Value, JsonError> {
        Ok(Value::Null)
    }
    fn serialize_unit_struct(self, _: &'static str) -> Result<Value, JsonError> {
        Ok(Value::Null)
    }
    fn serialize_unit_variant(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
    ) -> Result<Value, JsonError> {
        Ok(Value::String(name.to_owned()))
    }
    fn serialize_newtype_struct<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        v: &T,
    ) -> Result<Value, JsonError> {
        v.serialize(self)
    }
    fn serialize_newtype_variant<T: Serialize + ?Sized>(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
        v: &T,
    ) -> Result<Value, JsonError> {
        let value = v.serialize(self).map_err(|e| under(name, &e))?;
        Ok(Value::Object(Map::from_iter([(name.to_owned(), value)])))
    }
    fn serialize_seq(self, len: Option<usize>) -> Result<List, JsonError> {
        Ok(List {
            rules: self,
            items: Vec::with_capacity(len.unwrap_or(0).min(1024)),
            variant: None,
        })
    }
    fn serialize_tuple(self, len: usize) -> Result<List, JsonError> {
        self.serialize_seq(Some(len))
    }
    fn serialize_tuple_struct(self, _: &'static str, len: usize) -> Result<List, JsonError> {
        self.serialize_seq(Some(len))
    }
    fn serialize_tuple_variant(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
        _: usize,
    ) -> Result<List, JsonError> {
        Ok(List {
            rules: self,
            items: Vec::new(),
            variant: Some(name),
        })
    }
    fn serialize_map(self, _: Option<usize>) -> Result<Object, JsonError> {
        Ok(Object {
            rules: self,
            map: Map::new(),
            key: None,
            variant: None,
            raw: false,
        })
    }
    fn serialize_struct(self, name: &'static str, _: usize) -> Result<Object, JsonError> {
        let object = self.serialize_map(None)?;
        Ok(Object {
            raw: name == RAW,
            ..object
        })
    }
    fn serialize_struct_variant(
        self,
        _: &'static str,
        _: u32,
        name: &'static str,
        _: usize,
    ) -> Result<Object, JsonError> {
        Ok(Object {
            rules: self,
            map: Map::new(),
            key: None,
            variant: Some(name),
            raw: false,
        })
    }
}

fn tagged(variant: Option<&'static str>, value: Value) -> Value {
    match variant {
        Some(name) => Value::Object(Map::from_iter([(name.to_owned(), value)])),
        None => value,
    }
}

/// A list under construction.
#[derive(Debug)]
pub(super) struct List {
    rules: Strict,
    items: Vec<Value>,
    variant: Option<&'static str>,
}

impl List {
    fn add<T: Serialize + ?Sized>(&mut self, value: &T) -> Result<(), JsonError> {
        self.items
            .push(value.serialize(self.rules).map_err(|e| under("[]", &e))?);
        Ok(())
    }

    fn finish(self) -> Value {
        tagged(self.variant, Value::Array(self.items))
    }
}

/// An object under construction.
#[derive(Debug)]
pub(super) struct Object {
    rules: Strict,
    map: Map<String, Value>,
    key: Option<String>,
    variant: Option<&'static str>,
    /// It is JSON text that `serde_json` would write as it stands.
    raw: bool,
}

impl Object {
    fn add<T: Serialize + ?Sized>(&mut self, key: String, value: &T) -> Result<(), JsonError> {
        let value = value.serialize(self.rules).map_err(|e| under(&key, &e))?;
        if self.map.contains_key(&key) {
            return Err(JsonError::at(&key, JsonRule::DuplicateKey));
        }
        self.map.insert(key, value);
        Ok(())
    }

    fn finish(self) -> Value {
        tagged(self.variant, Value::Object(self.map))
    }
}

impl ser::SerializeSeq for List {
    type Ok = Value;
    type Error = JsonError;
    fn serialize_element<T: Serialize + ?Sized>(&mut self, v: &T) -> Result<(), JsonError> {
        self.add(v)
    }
    fn end(self) -> Result<Value, JsonError> {
        Ok(self.finish())
    }
}

impl ser::SerializeTuple for List {
    type Ok = Value;
    type Error = JsonError;
    fn serialize_element<T: Serialize + ?Sized>(&mut self, v: &T) -> Result<(), JsonError> {
        self.add(v)
    }
    fn end(self) -> Result<Value, JsonError> {
        Ok(self.finish())
    }
}

impl ser::SerializeTupleStruct for List {
    type Ok = Value;
    type Error = JsonError;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, v: &T) -> Result<(), JsonError> {
        self.add(v)
    }
    fn end(self) -> Result<Value, JsonError> {
        Ok(self.finish())
    }
}

impl ser::SerializeTupleVariant for List {
    type Ok = Value;
    type Error = JsonError;
    fn serialize_field<T: Serialize + ?Sized>(&mut self, v: &T) -> Result<(), JsonError> {
        self.add(v)
    }
    fn end(self) -> Result<Value, JsonError> {
        Ok(self.finish())
    }
}

impl ser::SerializeMap for Object {
    type Ok = Value;
    type Error = JsonError;
    fn serialize_key<T: Serialize + ?Sized>(&mut self, key: &T) -> Result<(), JsonError> {
        self.key = Some(match key.serialize(self.rules)? {
            Value::String(text) => text,
            // Integer keys are written as text, as `serde_json` does.
            Value::Number(number) if !number.is_f64() => number.to_string(),
            _ => return Err(JsonError::at("", JsonRule::KeyNotText)),
        });
        Ok(())
    }
    fn serialize_value<T: Serialize + ?Sized>(&mut self, v: &T) -> Result<(), JsonError> {
        match self.key.take() {
            Some(key) => self.add(key, v),
            None => Err(JsonError::at("", JsonRule::KeyNotText)),
        }
    }
    fn end(self) -> Result<Value, JsonError> {
        Ok(self.finish())
    }
}

impl ser::SerializeStruct for Object {
    type Ok = Value;
    type Error = JsonError;
    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        v: &T,
    ) -> Result<(), JsonError> {
        self.add(key.to_owned(), v)
    }
    fn end(self) -> Result<Value, JsonError> {
        match self.map.get(RAW) {
            Some(Value::String(text)) if self.raw => unique_keys(text)?.serialize(self.rules),
            _ => Ok(self.finish()),
        }
    }
}

impl ser::SerializeStructVariant for Object {
    type Ok = Value;
    type Error = JsonError;
    fn serialize_field<T: Serialize + ?Sized>(
        &mut self,
        key: &'static str,
        v: &T,
    ) -> Result<(), JsonError> {
        self.add(key.to_owned(), v)
    }
    fn end(self) -> Result<Value, JsonError> {
        Ok(self.finish())
    }
}
