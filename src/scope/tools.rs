//! Tool descriptions, in the shapes in which models are given them.

use serde_json::Value;

use crate::ids::ToolName;

/// Something that describes a tool, and knows the tool's name.
///
/// Implemented for names as text and for JSON descriptions; implement it for the type that your
/// framework has.
pub trait NamedTool {
    /// The tool's name, or `""` if it has none: what has no name is never allowed.
    fn tool_name(&self) -> &str;
}

impl NamedTool for str {
    fn tool_name(&self) -> &str {
        self
    }
}

impl NamedTool for String {
    fn tool_name(&self) -> &str {
        self
    }
}

impl NamedTool for ToolName {
    fn tool_name(&self) -> &str {
        self.as_str()
    }
}

impl NamedTool for Value {
    /// `function.name`, or `name`; `""` if there is neither, or both and they differ.
    fn tool_name(&self) -> &str {
        let nested = self.get("function").map(|function| function.get("name"));
        let name = match (nested, self.get("name")) {
            (Some(nested), None) => nested,
            (None, name) => name,
            // Whoever reads the other one would run another tool than the one that was checked.
            (Some(nested), Some(name)) => nested.filter(|nested| *nested == name),
        };
        name.and_then(Value::as_str).unwrap_or_default()
    }
}

impl<T: NamedTool + ?Sized> NamedTool for &T {
    fn tool_name(&self) -> &str {
        (**self).tool_name()
    }
}
