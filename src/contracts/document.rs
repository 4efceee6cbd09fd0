//! Contracts as JSON: what is stored, and what an operator writes.

use std::collections::BTreeSet;
use std::time::Duration;

use serde_json::{Map, Value, json};

use super::declared::{Field, Is, Named};
use super::error::InvalidContract;
use super::model::{Condition, Contract, Of, OnBroken, Promise};
use crate::canon::{Metadata, write_text};
use crate::ids::ModelName;
use crate::money::Usd;
use crate::usage::{Ceiling, CeilingAmount, Tier};

type Invalid<T> = Result<T, InvalidContract>;

const fn wrong<T>(field: &'static str, problem: &'static str) -> Invalid<T> {
    Err(InvalidContract { field, problem })
}

impl Contract {
    /// Reads a contract that an operator wrote, or that [`to_json`](Self::to_json) did.
    ///
    /// ```
    /// use portcullis::contracts::Contract;
    ///
    /// let contract = Contract::from_json(r#"{
    ///     "name": "refunds",
    ///     "tools": ["refund_payment"],
    ///     "requires": ["approved", "audited", {"check": "office_hours", "deadline_ms": 200},
    ///                  {"budget_available": {"usd_nanos": 250000000}}],
    ///     "ensures": ["completed", {"result": "paid", "pointer": "/status", "equals": "paid"}]
    /// }"#)?;
    /// # Ok::<(), portcullis::contracts::InvalidContract>(())
    /// ```
    ///
    /// | Member | |
    /// |---|---|
    /// | `name` | the contract's |
    /// | `tools`, or `any: true` | of which calls |
    /// | `requires` | `"not_halted"`, `"scope_allowed"`, `"approved"`, `"audited"`, a check, `{"budget_available": {..}}` with `usd_nanos`, `tokens`, or `input` and `output`, and `model`, `provider`, `tier` |
    /// | `ensures` | `"completed"`, `"audited"`, a check, `{"result": name, "pointer": "/a/b", ..}` with one of `equals`, `one_of`, `at_least`, `at_most`, `present: true` |
    /// | a check | `{"check": name}`, with `deadline_ms` |
    /// | `on_broken` | `"fail"`, `"report"` |
    /// | `record_passed` | `true`, `false` |
    ///
    /// # Errors
    ///
    /// [`InvalidContract`] names the member that cannot be; one that is not known is none.
    pub fn from_json(text: &str) -> Result<Self, InvalidContract> {
        // Strict: no member twice, no fractions.
        let Ok(document) = Metadata::parse(text) else {
            return wrong(
                "document",
                "must be a JSON object of at most 64 KiB, without fractions or a member twice",
            );
        };
        let document = document.to_value();
        let mut members = Members::of(&document, "document")?;
        let mut contract = Self::new(members.text("name")?.unwrap_or_default());
        if let Some(tools) = members.list("tools")? {
            let tools = tools.iter().map(|tool| tool.as_str().unwrap_or_default());
            contract = contract.for_tools(tools);
        }
        match members.truth("any")? {
            Some(true) => contract = contract.for_any(),
            Some(false) => return wrong("any", "must be true, or not there"),
            None => {}
        }
        for value in members.list("requires")?.into_iter().flatten() {
            contract = contract.requires(condition(value)?);
        }
        for value in members.list("ensures")?.into_iter().flatten() {
            contract = contract.ensures(promise(value)?);
        }
        match members.text("on_broken")?.as_deref() {
            None => {}
            Some("fail") => contract = contract.on_broken(OnBroken::Fail),
            Some("report") => contract = contract.on_broken(OnBroken::Report),
            Some(_) => return wrong("on_broken", "must be fail or report"),
        }
        if members.truth("record_passed")? == Some(true) {
            contract = contract.record_passed();
        }
        members.end()?;
        contract.validate()?;
        Ok(contract)
    }

    /// The contract as JSON, always in the same words.
    ///
    /// # Errors
    ///
    /// [`InvalidContract`] if it holds a check or a predicate that is code, or cannot be.
    pub fn to_json(&self) -> Result<String, InvalidContract> {
        self.validate()?;
        if self.requires.iter().any(is_code) {
            return wrong(
                "requires",
                "has a check that is code; define it by a name, and require Condition::named",
            );
        }
        if self.ensures.iter().any(promises_code) {
            return wrong(
                "ensures",
                "has a check that is code; define it by a name and use Promise::named, or Promise::field",
            );
        }
        let text = self.written();
        // What is too large to be read again is not written.
        Self::from_json(&text).map(|_| text)
    }

    /// Everything of it that is not code.
    pub(super) fn written(&self) -> String {
        let mut members = Map::new();
        members.insert("name".into(), json!(self.name));
        match &self.of {
            Of::Tools(tools) => members.insert("tools".into(), json!(tools)),
            Of::Any | Of::Nothing | Of::Both => members.insert("any".into(), json!(true)),
        };
        let requires: Vec<_> = self.requires.iter().map(write_condition).collect();
        let ensures: Vec<_> = self.ensures.iter().map(write_promise).collect();
        members.insert("requires".into(), requires.into());
        members.insert("ensures".into(), ensures.into());
        if let Some(what) = self.on_broken {
            let word = match what {
                OnBroken::Fail => "fail",
                OnBroken::Report => "report",
            };
            members.insert("on_broken".into(), json!(word));
        }
        members.insert("record_passed".into(), json!(self.record_passed));
        write_text(&Value::Object(members))
    }
}

const fn is_code(condition: &Condition) -> bool {
    matches!(condition, Condition::Custom(_))
}

const fn promises_code(promise: &Promise) -> bool {
    matches!(promise, Promise::Custom(_) | Promise::Result(_))
}

fn condition(value: &Value) -> Invalid<Condition> {
    if let Some(word) = value.as_str() {
        return match word {
            "not_halted" => Ok(Condition::NotHalted),
            "scope_allowed" => Ok(Condition::ScopeAllowed),
            "approved" => Ok(Condition::Approved),
            "audited" => Ok(Condition::Audited),
            _ => wrong("requires", "has a word that is no condition"),
        };
    }
    let mut members = Members::of(value, "requires")?;
    let condition = if let Some(named) = named(&mut members)? {
        Condition::Named(named)
    } else if let Some(ceiling) = members.take("budget_available") {
        Condition::BudgetAvailable(read_ceiling(ceiling)?)
    } else {
        return wrong("requires", "has an entry that is no condition");
    };
    members.end().map(|()| condition)
}

fn write_condition(condition: &Condition) -> Value {
    match condition {
        Condition::Named(named) => write_named(named),
        Condition::BudgetAvailable(ceiling) => {
            json!({"budget_available": write_ceiling(ceiling)})
        }
        word => json!(word.word()),
    }
}

fn promise(value: &Value) -> Invalid<Promise> {
    if let Some(word) = value.as_str() {
        return match word {
            "completed" => Ok(Promise::Completed),
            "audited" => Ok(Promise::Audited),
            _ => wrong("ensures", "has a word that is no promise"),
        };
    }
    let mut members = Members::of(value, "ensures")?;
    let promise = if let Some(named) = named(&mut members)? {
        Promise::Named(named)
    } else if let Some(name) = members.text("result")? {
        let Some(pointer) = members.text("pointer")? else {
            return wrong("pointer", "must say where in the result");
        };
        let is = read_is(&mut members)?;
        Promise::Field(Field { name, pointer, is })
    } else {
        return wrong("ensures", "has an entry that is no promise");
    };
    members.end().map(|()| promise)
}

fn write_promise(promise: &Promise) -> Value {
    match promise {
        Promise::Named(named) => write_named(named),
        Promise::Field(field) => {
            let (key, value) = match &field.is {
                Is::Present => ("present", json!(true)),
                Is::Equals(value) => ("equals", value.clone()),
                Is::OneOf(values) => ("one_of", json!(values)),
                Is::AtLeast(least) => ("at_least", json!(least)),
                Is::AtMost(most) => ("at_most", json!(most)),
            };
            json!({"result": field.name, "pointer": field.pointer, key: value})
        }
        word => json!(word.word()),
    }
}

fn read_is(members: &mut Members<'_>) -> Invalid<Is> {
    let mut all = Vec::new();
    match members.truth("present")? {
        Some(true) => all.push(Is::Present),
        Some(false) => return wrong("present", "must be true, or not there"),
        None => {}
    }
    if let Some(value) = members.take("equals") {
        all.push(Is::Equals(value.clone()));
    }
    if let Some(values) = members.list("one_of")? {
        all.push(Is::OneOf(values.clone()));
    }
    all.extend(members.whole("at_least")?.map(Is::AtLeast));
    all.extend(members.whole("at_most")?.map(Is::AtMost));
    match (all.pop(), all.is_empty()) {
        (Some(is), true) => Ok(is),
        _ => wrong(
            "result",
            "must say one of equals, one_of, at_least, at_most and present",
        ),
    }
}

fn named(members: &mut Members<'_>) -> Invalid<Option<Named>> {
    let Some(name) = members.text("check")? else {
        return Ok(None);
    };
    let deadline = members.natural("deadline_ms")?.map(Duration::from_millis);
    Ok(Some(Named { name, deadline }))
}

fn write_named(named: &Named) -> Value {
    match named.deadline {
        Some(deadline) => {
            let millis = u64::try_from(deadline.as_millis()).unwrap_or(u64::MAX);
            json!({"check": named.name, "deadline_ms": millis})
        }
        None => json!({"check": named.name}),
    }
}

fn read_ceiling(value: &Value) -> Invalid<Ceiling> {
    const FIELD: &str = "budget_available";
    let mut members = Members::of(value, FIELD)?;
    let usd = members.natural("usd_nanos")?;
    let tokens = members.natural("tokens")?;
    let (input, output) = (members.natural("input")?, members.natural("output")?);
    let mut ceiling = match (usd, tokens, input, output) {
        (Some(nanos), None, None, None) => match i64::try_from(nanos) {
            Ok(nanos) => Ceiling::usd(Usd::nanos(nanos)),
            Err(_) => return wrong("usd_nanos", "is too large"),
        },
        (None, Some(tokens), None, None) => Ceiling::tokens(tokens),
        (None, None, Some(input), Some(output)) => Ceiling::in_out(input, output),
        _ => {
            return wrong(FIELD, "must say usd_nanos, or tokens, or input and output");
        }
    };
    if let Some(model) = members.text("model")? {
        let Ok(model) = ModelName::parse(model) else {
            return wrong("model", "is no model's name");
        };
        ceiling = ceiling.of_model(&model);
    }
    if let Some(provider) = members.text("provider")? {
        ceiling = ceiling.at_provider(provider);
    }
    ceiling = match members.text("tier")?.as_deref() {
        None | Some("standard") => ceiling,
        Some("batch") => ceiling.tier(Tier::Batch),
        Some("flex") => ceiling.tier(Tier::Flex),
        Some("priority") => ceiling.tier(Tier::Priority),
        Some(_) => return wrong("tier", "must be standard, batch, flex or priority"),
    };
    members.end().map(|()| ceiling)
}

fn write_ceiling(ceiling: &Ceiling) -> Value {
    let mut members = Map::new();
    match ceiling.amount {
        CeilingAmount::Usd(usd) => {
            members.insert("usd_nanos".into(), json!(usd.as_nanos()));
        }
        CeilingAmount::Tokens(tokens) => {
            members.insert("tokens".into(), json!(tokens));
        }
        CeilingAmount::InOut { input, output } => {
            members.insert("input".into(), json!(input));
            members.insert("output".into(), json!(output));
        }
    }
    if let Some(model) = &ceiling.model {
        members.insert("model".into(), json!(model.as_str()));
    }
    if let Some(provider) = &ceiling.provider {
        members.insert("provider".into(), json!(provider));
    }
    let tier = match ceiling.tier {
        Tier::Standard => None,
        Tier::Batch => Some("batch"),
        Tier::Flex => Some("flex"),
        Tier::Priority => Some("priority"),
    };
    if let Some(tier) = tier {
        members.insert("tier".into(), json!(tier));
    }
    Value::Object(members)
}

/// The members of an object, each of which must be asked for.
struct Members<'v> {
    all: &'v Map<String, Value>,
    known: BTreeSet<&'static str>,
    of: &'static str,
}

impl<'v> Members<'v> {
    fn of(value: &'v Value, of: &'static str) -> Invalid<Self> {
        match value {
            Value::Object(all) => Ok(Self {
                all,
                known: BTreeSet::new(),
                of,
            }),
            _ => wrong(of, "must be an object there"),
        }
    }

    fn take(&mut self, key: &'static str) -> Option<&'v Value> {
        self.known.insert(key);
        self.all.get(key)
    }

    fn text(&mut self, key: &'static str) -> Invalid<Option<String>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => wrong(key, "must be a string"),
        }
    }

    fn truth(&mut self, key: &'static str) -> Invalid<Option<bool>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Bool(truth)) => Ok(Some(*truth)),
            Some(_) => wrong(key, "must be true or false"),
        }
    }

    fn whole(&mut self, key: &'static str) -> Invalid<Option<i64>> {
        match self.take(key).map(Value::as_i64) {
            None => Ok(None),
            Some(Some(number)) => Ok(Some(number)),
            Some(None) => wrong(key, "must be a whole number"),
        }
    }

    fn natural(&mut self, key: &'static str) -> Invalid<Option<u64>> {
        match self.take(key).map(Value::as_u64) {
            None => Ok(None),
            Some(Some(number)) => Ok(Some(number)),
            Some(None) => wrong(key, "must be a whole number, and not negative"),
        }
    }

    fn list(&mut self, key: &'static str) -> Invalid<Option<&'v Vec<Value>>> {
        match self.take(key) {
            None => Ok(None),
            Some(Value::Array(items)) => Ok(Some(items)),
            Some(_) => wrong(key, "must be a list"),
        }
    }

    /// Refuses what nobody asked for: a contract that is half understood is none.
    fn end(self) -> Invalid<()> {
        if self.all.keys().all(|key| self.known.contains(key.as_str())) {
            Ok(())
        } else {
            wrong(self.of, "has a member that is not known")
        }
    }
}
